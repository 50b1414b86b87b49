"""The Dagster lane: runs over the offset ranges of a few partitions. The sensor never has two runs at work on one partition.

The ledger holds the position of the index, so a redeployed sensor, or a hand-over from the stream lane, changes nothing.
"""

import asyncio
import time
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, replace
from typing import Any

import dagster as dg
from dagster import DagsterRunStatus, RunsFilter

from assets.partitions import EVENTS, RUN_PARTITIONS, range_tags
from assets.policy import RUN_RETRIES
from assets.resources import OpenServices
from assets.sources import CHANGED_KEY
from rag.ingest.change_events import publish_outbox
from rag.ingest.positions import consumer_group, locate, report_lost
from rag.ports import TopicState
from rag.telemetry import logger
from schemas.topics import CHANGED

_log = logger(__name__)

TAG = "tidemark/offsets"  # for people: partition and offset range, as in "3: 120-184"; the run's configuration has the same
INDEX_TAG = "tidemark/index"  # the index that the run feeds
FIRST_BACKOFF, LONGEST_BACKOFF = 10.0, 600.0  # seconds between attempts at one range
REMEMBERED = 8  # failed runs per due partition that are looked at: as many as it takes to reach the longest backoff
_IN_FLIGHT = [
    DagsterRunStatus.QUEUED,
    DagsterRunStatus.NOT_STARTED,
    DagsterRunStatus.STARTING,
    DagsterRunStatus.STARTED,
    DagsterRunStatus.CANCELING,
]
_FAILED = [DagsterRunStatus.FAILURE, DagsterRunStatus.CANCELED]

index_job = dg.define_asset_job(
    "index_documents",
    selection=dg.AssetSelection.groups("index"),
    executor_def=dg.in_process_executor,
    description="Offset ranges of `documents.changed.v1` into the index. Without offsets: every document of the partition again.",
    tags=RUN_RETRIES,
)


@dataclass(frozen=True, slots=True)
class Attempts:
    """Runs that failed at one start offset: their number, and the end (seconds since 1970) and the id of the newest one."""

    failed: int = 0
    last: float = 0.0
    run_id: str = ""

    def wait(self, now: float) -> float:
        """Return the seconds to wait before the next attempt."""
        if not self.failed:
            return 0.0
        backoff = min(FIRST_BACKOFF * 2.0 ** (self.failed - 1), LONGEST_BACKOFF)
        return float(max(0.0, self.last + backoff - now))


@dataclass(frozen=True, slots=True)
class Due:
    """Offsets of one partition that wait to be processed."""

    partition: int
    start: int
    end: int


def due_ranges(state: TopicState, positions: Mapping[int, int]) -> list[Due]:
    """Return the waiting offsets by partition.

    A position before the log's first offset means lost events: the range starts at the first offset that the log still holds.
    A position beyond the log's end means that its tail was lost: a reconcile finds the changes that took its place.
    """
    due = []
    for partition, (low, end) in sorted(state.bounds.items()):
        position = positions.get(partition)
        start = low if position is None else max(position, low)
        if start < end:
            due.append(Due(partition, start, min(end, start + EVENTS)))
    return due


def requests(
    ready: Mapping[Due, Attempts], index_id: str, epoch: str, most: int = RUN_PARTITIONS
) -> list[dg.RunRequest]:
    """Request runs over at most ``most`` neighbouring partitions. A range that has failed before runs alone, so that it holds up
    no other."""
    groups: list[list[Due]] = []
    for due, attempts in ready.items():
        last = groups[-1] if groups else []
        is_next = last and last[-1].partition + 1 == due.partition and len(last) < most
        if is_next and not attempts.failed and not ready[last[-1]].failed:
            last.append(due)
        else:
            groups.append([due])
    return [_request(group, index_id, epoch, ready[group[0]]) for group in groups]


def _request(group: Sequence[Due], index_id: str, epoch: str, attempts: Attempts) -> dg.RunRequest:
    """Request a run. Dagster never runs one key twice, not even after a failure or for another index, so the key names the index, the
    epoch and the failed run."""
    offsets = {str(each.partition): [each.start, each.end] for each in group}
    ranges = ", ".join(f"{each.partition}: {each.start}-{each.end}" for each in group)
    keys = list(offsets)
    return dg.RunRequest(
        run_key=f"{index_id} {epoch} {ranges} after {attempts.run_id or 'none'}",
        partition_key=keys[0] if len(group) == 1 else None,
        run_config={"ops": {"parsed_documents": {"config": {"index": index_id, "epoch": epoch, "offsets": offsets}}}},
        tags={TAG: ranges, INDEX_TAG: index_id} | (range_tags(keys) if len(group) > 1 else {}),
    )


@dg.sensor(
    job=index_job,
    minimum_interval_seconds=5,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Requests a run for the partitions of `documents.changed.v1` that have events beyond the ledger's position.",
)
def changed_documents(context: dg.SensorEvaluationContext, tidemark: dg.ResourceParam[OpenServices]) -> dg.SensorResult:
    """Request runs for the partitions that have events beyond the ledger's position, unless the stream lane is at work."""
    busy = in_flight(context.instance)  # first: a run that ends now would leave an old position and an idle partition
    index_id, state, positions, members = asyncio.run(_look(tidemark))
    if members:
        return dg.SensorResult(skip_reason=f"the stream lane works: its consumer group has {members} members")
    return decide(context.instance, index_id, state, positions, busy, time.time())


def decide(
    instance: dg.DagsterInstance,
    index_id: str,
    state: TopicState,
    positions: Mapping[int, int],
    busy: AbstractSet[tuple[str, int]],
    now: float,
) -> dg.SensorResult:
    """Return run requests and the arrival of their events, or the reasons why there are none."""
    due = due_ranges(state, positions)
    failures = _failures(instance, index_id, state.epoch, REMEMBERED * len(due)) if due else {}
    ready: dict[Due, Attempts] = {}
    reasons = []
    for each in due:
        if (index_id, each.partition) in busy:
            reasons.append(f"partition {each.partition}: a run is in flight")
            continue
        attempts = failures.get((each.partition, each.start), Attempts())
        if attempts.wait(now) > 0:
            reasons.append(f"partition {each.partition}: attempt {attempts.failed + 1} in {attempts.wait(now):.0f} s")
            continue
        ready[each] = attempts
    if ready:
        return dg.SensorResult(
            run_requests=requests(ready, index_id, state.epoch), asset_events=[_arrival(each, state) for each in ready]
        )
    return dg.SensorResult(skip_reason="; ".join(reasons) or "every partition is up to date")


def _arrival(due: Due, state: TopicState) -> dg.AssetMaterialization:
    """Report that the sources have added events to the partition of the topic."""
    end = state.bounds[due.partition][1]
    metadata = {"next offset": due.start, "end offset": end, "waiting": end - due.start}
    return dg.AssetMaterialization(CHANGED_KEY, partition=str(due.partition), metadata=metadata)


async def _look(tidemark: OpenServices) -> tuple[str, TopicState, dict[int, int], int]:
    async with tidemark() as services:
        await publish_outbox(services.ledger, services.events)  # the events that a crash left
        state, positions = await locate(services.spec.index_id, CHANGED, services.events, services.ledger)
        report_lost(state, positions)  # while the services are open: they add the metric to the ledger when they close
        members = await services.events.members(consumer_group(services.spec.index_id))
        return services.spec.index_id, state, positions, members


def in_flight(instance: dg.DagsterInstance) -> set[tuple[str, int]]:
    """Return (index, partition) of the runs over offset ranges that are queued or running."""
    runs = instance.get_runs(RunsFilter(job_name=index_job.name, statuses=_IN_FLIGHT))
    return {(run.tags.get(INDEX_TAG, ""), partition) for run in runs for partition, _ in _starts(run)[1]}


def _failures(instance: dg.DagsterInstance, index_id: str, epoch: str, limit: int) -> dict[tuple[int, int], Attempts]:
    """Return the failed attempts by partition and start offset, from the newest ``limit`` failed runs."""
    attempts: dict[tuple[int, int], Attempts] = {}
    failed = RunsFilter(job_name=index_job.name, statuses=_FAILED, tags={INDEX_TAG: index_id})
    for record in instance.get_run_records(failed, limit=limit):
        run_epoch, starts = _starts(record.dagster_run)
        ended = record.end_time or record.update_timestamp.timestamp()
        newest = Attempts(0, ended, record.dagster_run.run_id)
        for start in starts if run_epoch == epoch else ():
            known = attempts.get(start, newest)  # records come newest first
            attempts[start] = replace(known, failed=known.failed + 1)
    return attempts


def _starts(run: dg.DagsterRun) -> tuple[str, list[tuple[int, int]]]:
    """Return the epoch of the run, and the partitions of its offset ranges with their start offsets; none for a backfill."""
    ops: Any = run.run_config.get("ops", {})
    config = ops.get("parsed_documents", {}).get("config", {})
    starts = [(int(partition), start) for partition, (start, _) in config.get("offsets", {}).items()]
    return config.get("epoch", ""), starts
