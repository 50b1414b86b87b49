"""The Dagster lane: runs over the offset ranges of a few partitions, never two of the sensor's at work on one partition.

Where the index stands is in the ledger: a redeployed sensor, or a hand-over from the stream lane, changes nothing.
"""

import asyncio
import time
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass

import dagster as dg
from dagster import DagsterRunStatus, RunsFilter

from assets.partitions import EVENTS, RUN_PARTITIONS
from assets.resources import OpenServices
from rag.ports import TopicState
from rag.telemetry import EVENTS_LOST, logger
from rag.wiring import Services
from schemas.topics import CHANGED

_log = logger(__name__)

TAG = "tidemark/partition-"  # with a partition behind it; its value is the epoch and offset that the run starts at
RANGE_TAGS = ("dagster/asset_partition_range_start", "dagster/asset_partition_range_end")  # make a run cover several
FIRST_BACKOFF, LONGEST_BACKOFF = 10.0, 600.0  # seconds between attempts at one range
_IN_FLIGHT = [
    DagsterRunStatus.QUEUED,
    DagsterRunStatus.NOT_STARTED,
    DagsterRunStatus.STARTING,
    DagsterRunStatus.STARTED,
    DagsterRunStatus.CANCELING,
]

index_job = dg.define_asset_job(
    "index_documents",
    selection=dg.AssetSelection.groups("index"),
    executor_def=dg.in_process_executor,
    description="Offset ranges of documents.changed.v1 into the index.",
)


@dataclass(frozen=True, slots=True)
class Attempts:
    """Runs that failed at one start offset: how many, and when the last one ended (seconds since 1970)."""

    failed: int = 0
    last: float = 0.0

    def wait(self, now: float) -> float:
        """Seconds to wait before the next attempt."""
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
    """What waits, by partition. A position before the log's first offset means lost events: start at the first one held.

    A position beyond the log's end means that its tail was lost; what took its place is found by a reconcile.
    """
    due = []
    for partition, (low, end) in sorted(state.bounds.items()):
        position = positions.get(partition)
        start = low if position is None else max(position, low)
        if start < end:
            due.append(Due(partition, start, min(end, start + EVENTS)))
    return due


def requests(ready: Mapping[Due, Attempts], epoch: str, most: int = RUN_PARTITIONS) -> list[dg.RunRequest]:
    """Runs over at most ``most`` neighbouring partitions. What has failed before runs alone, so that it holds nothing else up."""
    groups: list[list[Due]] = []
    for due, attempts in ready.items():
        last = groups[-1] if groups else []
        is_next = last and last[-1].partition + 1 == due.partition and len(last) < most
        if is_next and not attempts.failed and not ready[last[-1]].failed:
            last.append(due)
        else:
            groups.append([due])
    return [_request(group, epoch, ready[group[0]].failed) for group in groups]


def _request(group: Sequence[Due], epoch: str, failed: int) -> dg.RunRequest:
    """Its key has epoch and attempt in it: Dagster never runs one key twice, not even a failed one."""
    offsets = {str(each.partition): [each.start, each.end] for each in group}
    ranges = ",".join(f"{each.partition}:{each.start}-{each.end}" for each in group)
    tags = {f"{TAG}{each.partition}": f"{epoch}:{each.start}" for each in group}
    keys = list(offsets)
    if len(group) > 1:
        tags |= dict(zip(RANGE_TAGS, (keys[0], keys[-1]), strict=True))
    return dg.RunRequest(
        run_key=f"{epoch}:{ranges}:{failed}",
        partition_key=keys[0] if len(group) == 1 else None,
        run_config={"ops": {"parsed_documents": {"config": {"epoch": epoch, "offsets": offsets}}}},
        tags=tags,
    )


@dg.sensor(job=index_job, minimum_interval_seconds=5, default_status=dg.DefaultSensorStatus.RUNNING)
def changed_documents(context: dg.SensorEvaluationContext, tidemark: dg.ResourceParam[OpenServices]) -> dg.SensorResult:
    """Asks for runs for the partitions that have events beyond the ledger's position."""
    busy = in_flight(context.instance)  # first: a run that ends now would leave an old position and an idle partition
    state, positions, members = asyncio.run(_look(tidemark))
    if members:
        return dg.SensorResult(skip_reason=f"the stream lane works: its consumer group has {members} members")
    return decide(context.instance, state, positions, busy, time.time())


def decide(
    instance: dg.DagsterInstance, state: TopicState, positions: Mapping[int, int], busy: AbstractSet[int], now: float
) -> dg.SensorResult:
    """Requests, or the reasons why there are none."""
    due = due_ranges(state, positions)
    ready: dict[Due, Attempts] = {}
    reasons = []
    for each in due:
        if each.partition in busy:
            reasons.append(f"partition {each.partition}: a run is in flight")
            continue
        attempts = _attempts(instance, state.epoch, each)
        if attempts.wait(now) > 0:
            reasons.append(f"partition {each.partition}: attempt {attempts.failed + 1} in {attempts.wait(now):.0f} s")
            continue
        ready[each] = attempts
    if ready:
        return dg.SensorResult(run_requests=requests(ready, state.epoch))
    return dg.SensorResult(skip_reason="; ".join(reasons) or "every partition is up to date")


async def _look(tidemark: OpenServices) -> tuple[TopicState, dict[int, int], int]:
    async with tidemark() as services:
        state = await services.events.describe(CHANGED)
        positions = await _positions(services, state)
        _alarm(state, positions)  # in here, where what is counted goes to the ledger
        return state, positions, await services.events.members(f"tidemark-{services.spec.index_id}")


def _alarm(state: TopicState, positions: Mapping[int, int]) -> None:
    """Say what the log has lost. A reconcile of the sources, which the consumers make by the clock, finds what it was."""
    for partition, (low, end) in state.bounds.items():
        position = positions.get(partition, low)
        lost = max(low - position, position - end)
        if lost > 0:
            EVENTS_LOST.inc(lost)
            _log.error("events.lost", partition=partition, lost=lost, remedy="python -m consumers reconcile")


async def _positions(services: Services, state: TopicState) -> dict[int, int]:
    index_id = services.spec.index_id
    positions = await services.ledger.positions(index_id, CHANGED, state.epoch)
    if not positions and await services.ledger.epochs(index_id, CHANGED):
        # Another cluster, topic or partition count: offsets of the old epoch mean nothing here.
        _log.warning("events.new_epoch", epoch=state.epoch, remedy="run the reconcile of every source")
    return positions


def in_flight(instance: dg.DagsterInstance) -> set[int]:
    runs: Sequence[dg.DagsterRun] = instance.get_runs(RunsFilter(job_name=index_job.name, statuses=_IN_FLIGHT))
    return {int(tag.removeprefix(TAG)) for run in runs for tag in run.tags if tag.startswith(TAG)}


def _attempts(instance: dg.DagsterInstance, epoch: str, due: Due) -> Attempts:
    tags = {f"{TAG}{due.partition}": f"{epoch}:{due.start}"}
    failed = RunsFilter(tags=tags, statuses=[DagsterRunStatus.FAILURE, DagsterRunStatus.CANCELED])
    newest = instance.get_run_records(failed, limit=1)
    ended = newest[0].end_time or newest[0].update_timestamp.timestamp() if newest else 0.0
    return Attempts(instance.get_runs_count(failed) if newest else 0, ended)
