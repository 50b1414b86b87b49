"""The Dagster lane: one run per partition and offset range, never a second one while the first is in flight.

Where the index stands is in the ledger. The cursor only says what the last tick saw, to let a load that still grows become one run:
a lost cursor, a redeployed sensor or a hand-over from the stream lane changes nothing.
"""

import asyncio
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import dagster as dg
from dagster import DagsterRunStatus, RunsFilter
from pydantic import TypeAdapter

from assets.resources import Open
from rag.arrivals import CHANGED
from rag.ports import TopicState
from rag.telemetry import EVENTS_LOST, logger
from rag.wiring import Services

_log = logger(__name__)

RANGE_TAG, START_TAG = "tidemark/partition", "tidemark/start"
MOST_EVENTS = 2000  # of one run: bounds what a retry repeats
BULK = 16  # events from which on a load that still grows is given one more tick: a run costs seconds however few it handles
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
    description="One offset range of documents.changed.v1 into the index.",
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
    """Offsets of one partition that wait to be processed. ``lost`` counts those the log no longer holds."""

    partition: int
    start: int
    end: int
    lost: int = 0


@dataclass(frozen=True, slots=True)
class Seen:
    """What the last tick saw: each partition's end, and the start of the range that was made to wait. Losing it costs a tick."""

    ends: Mapping[int, int] = field(default_factory=dict)
    waited: Mapping[int, int] = field(default_factory=dict)

    def is_growing(self, due: Due) -> bool:
        """Whether a large range got longer since the last tick, and has not been made to wait before."""
        length = due.end - due.start
        grew = due.end > self.ends.get(due.partition, due.start)
        return BULK <= length < MOST_EVENTS and grew and self.waited.get(due.partition) != due.start


_SEEN = TypeAdapter(Seen)


def due_ranges(state: TopicState, positions: Mapping[int, int]) -> list[Due]:
    """What waits, by partition. A position before the log's first offset means lost events: start at the first one held.

    A position beyond the log's end means that its tail was lost; what took its place is found by a reconcile.
    """
    due = []
    for partition, (low, end) in sorted(state.bounds.items()):
        position = positions.get(partition)
        start = low if position is None else max(position, low)
        lost = 0 if position is None else start - position
        if start < end:
            due.append(Due(partition, start, min(end, start + MOST_EVENTS), lost))
    return due


def request(due: Due, epoch: str, attempts: Attempts) -> dg.RunRequest:
    """The run for a range. Its key has epoch and attempt in it: Dagster never runs one key twice, not even a failed one."""
    config = {"epoch": epoch, "start": due.start, "end": due.end}
    return dg.RunRequest(
        run_key=f"{epoch}:{due.partition}:{due.start}-{due.end}:{attempts.failed}",
        partition_key=str(due.partition),
        run_config={"ops": {"parsed_documents": {"config": config}}},
        tags={RANGE_TAG: str(due.partition), START_TAG: f"{epoch}:{due.start}"},
    )


@dg.sensor(job=index_job, minimum_interval_seconds=5, default_status=dg.DefaultSensorStatus.RUNNING)
def changed_documents(context: dg.SensorEvaluationContext, tidemark: dg.ResourceParam[Open]) -> dg.SensorResult:
    """Asks for a run for every partition that has events beyond the ledger's position."""
    state, positions, members = asyncio.run(_look(tidemark))
    if members:
        return dg.SensorResult(skip_reason=f"the stream lane works: its consumer group has {members} members")
    seen = _SEEN.validate_json(context.cursor) if context.cursor else Seen()
    return decide(context.instance, state, positions, time.time(), seen)


def decide(
    instance: dg.DagsterInstance, state: TopicState, positions: Mapping[int, int], now: float, seen: Seen
) -> dg.SensorResult:
    """Requests, or the reasons why there are none."""
    due = due_ranges(state, positions)
    busy = _busy(instance) if due else set()
    requests, reasons, waited = [], [], {}
    for each in due:
        if each.lost:
            EVENTS_LOST.inc(each.lost)
            _log.error(
                "events.lost", partition=each.partition, lost=each.lost, remedy="run the reconcile of every source"
            )
        if each.partition in busy:
            reasons.append(f"partition {each.partition}: a run is in flight")
            continue
        attempts = _attempts(instance, state.epoch, each)
        if attempts.wait(now) > 0:
            reasons.append(f"partition {each.partition}: attempt {attempts.failed + 1} in {attempts.wait(now):.0f} s")
            continue
        if seen.is_growing(each):
            waited[each.partition] = each.start
            reasons.append(f"partition {each.partition}: {each.end - each.start} events and more coming")
            continue
        requests.append(request(each, state.epoch, attempts))
    cursor = _SEEN.dump_json(Seen({each.partition: each.end for each in due}, waited)).decode()
    if requests:
        return dg.SensorResult(run_requests=requests, cursor=cursor)
    return dg.SensorResult(skip_reason="; ".join(reasons) or "every partition is up to date", cursor=cursor)


async def _look(tidemark: Open) -> tuple[TopicState, dict[int, int], int]:
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


def _busy(instance: dg.DagsterInstance) -> set[int]:
    runs: Sequence[dg.DagsterRun] = instance.get_runs(RunsFilter(job_name=index_job.name, statuses=_IN_FLIGHT))
    return {int(run.tags[RANGE_TAG]) for run in runs if RANGE_TAG in run.tags}


def _attempts(instance: dg.DagsterInstance, epoch: str, due: Due) -> Attempts:
    tags = {RANGE_TAG: str(due.partition), START_TAG: f"{epoch}:{due.start}"}
    failed = RunsFilter(tags=tags, statuses=[DagsterRunStatus.FAILURE, DagsterRunStatus.CANCELED])
    newest = instance.get_run_records(failed, limit=1)
    ended = newest[0].end_time or newest[0].update_timestamp.timestamp() if newest else 0.0
    return Attempts(instance.get_runs_count(failed) if newest else 0, ended)
