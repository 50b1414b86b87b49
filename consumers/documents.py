"""The stream lane: a resident consumer that takes change events into the index within a fraction of a second.

Each assigned partition has a worker. It starts on the first event, and then takes the events that arrived meanwhile as the next
micro-batch. Partitions start at the ledger's positions, so a rebalance, a restart or a Dagster run over the same range is harmless.
"""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from tenacity import AsyncRetrying, retry_if_exception_type, wait_random_exponential

from consumers.health import Loop
from rag.errors import LostEvents, TidemarkError, Unavailable
from rag.ingest.lane import Lane
from rag.ingest.positions import PositionStore, consumer_group, locate, report_lost
from rag.ingest.tasks import Report
from rag.models import OffsetRange
from rag.ports import EventLog, Record, Subscription
from rag.telemetry import STREAM_BATCH_SECONDS, logger
from schemas.topics import CHANGED

_log = logger(__name__)

POLL_SECONDS = 0.5  # of waiting for the first event; also how soon a paused partition goes on
RELAY_SECONDS = 5.0  # between two looks for events that a crash left unpublished
PARKED_SECONDS = 30.0  # between two looks for parked documents whose next try is due
BUFFER_BYTES = 32 * 2**20  # of events that wait in memory; above it no partition receives more
AT_ONCE = 2  # micro-batches: one is parsed while another one is applied
RUN_ID = "stream"  # with the offsets behind it, it names a micro-batch in a lineage


class Reports(Protocol):
    """The orchestrator's view of the lane."""

    async def applied(self, done: OffsetRange, report: Report, seconds: float) -> None:
        """Report an applied micro-batch. Never raises: the lane does not depend on who watches it."""


@dataclass
class StreamLane:
    """The lane as one member of its consumer group."""

    lane: Lane
    log: EventLog
    store: PositionStore
    reports: Reports
    buffer_bytes: int = BUFFER_BYTES
    _epoch: str = ""
    _positions: dict[int, int] = field(default_factory=dict)
    _waiting: dict[int, list[Record]] = field(default_factory=lambda: defaultdict(list))
    _workers: dict[int, asyncio.Task[None]] = field(default_factory=dict)
    _failing: dict[int, str] = field(default_factory=dict)  # partition → why its micro-batch is being repeated
    _retry: asyncio.Task[None] | None = None
    _slots: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(AT_ONCE))

    @property
    def index_id(self) -> str:
        return self.lane.pipeline.spec.index_id

    async def run(self, loop: Loop) -> None:
        """Run until cancelled. Join the group again after an outage of the log."""
        while True:
            async for attempt in AsyncRetrying(
                retry=retry_if_exception_type(Exception), wait=wait_random_exponential(multiplier=0.5, max=10)
            ):
                with attempt:
                    try:
                        await self.lane.pipeline.prepare()
                        await self._be_member(loop)
                    except Exception as error:
                        _report_failure(loop, error)
                        raise

    async def _be_member(self, loop: Loop) -> None:
        try:
            async with self.log.subscribe(consumer_group(self.index_id), CHANGED, self._start_at) as subscription:
                relayed = tried = 0.0
                while True:
                    records = await subscription.poll(POLL_SECONDS)
                    self._buffer(records, subscription)
                    await self._limit(subscription)
                    if time.monotonic() - relayed > RELAY_SECONDS and not self._workers:
                        await self.lane.publish()
                        relayed = time.monotonic()
                    if time.monotonic() - tried > PARKED_SECONDS and (self._retry is None or self._retry.done()):
                        self._retry = asyncio.create_task(self._retry_parked())
                        tried = time.monotonic()
                    if self._failing:
                        loop.fail(next(iter(self._failing.values())))
                    elif not any(worker.done() and worker.exception() for worker in self._workers.values()):
                        loop.succeed()
        finally:
            await self._stop_workers()

    async def _retry_parked(self) -> None:
        """Try parked documents again that are due. One member does so: the one that has the first partition."""
        if 0 not in self._positions:
            return
        try:
            await self.lane.retry_parked(run_id=f"{RUN_ID}:parked")
        except Exception as error:
            _log.warning("stream.parked_not_tried", why=str(error))

    async def _start_at(self, partitions: frozenset[int]) -> Mapping[int, int]:
        """Forget what waits, and find the offset from which each assigned partition goes on."""
        state, positions = await locate(self.index_id, CHANGED, self.log, self.store)
        report_lost(state, positions)
        self._epoch = state.epoch
        self._waiting.clear()
        self._failing.clear()
        self._positions = {each: max(positions[each], state.bounds[each][0]) for each in partitions}
        _log.info("stream.assigned", partitions=sorted(partitions), epoch=state.epoch)
        return self._positions

    def _buffer(self, records: Sequence[Record], subscription: Subscription) -> None:
        """Give each record to its partition, and start the workers of the partitions that have none."""
        for record in records:
            self._waiting[record.partition].append(record)
        self._workers = {number: worker for number, worker in self._workers.items() if not worker.done()}
        for number in [each for each, waiting in self._waiting.items() if waiting and each not in self._workers]:
            self._workers[number] = asyncio.create_task(self._work(number, subscription))

    async def _limit(self, subscription: Subscription) -> None:
        """Bound the events in memory by their bytes."""
        waiting = sum(record.size for records in self._waiting.values() for record in records)
        if waiting > self.buffer_bytes:
            await subscription.pause(subscription.partitions)
        elif waiting < self.buffer_bytes / 2:
            await subscription.resume(subscription.partitions)

    async def _work(self, partition: int, subscription: Subscription) -> None:
        """Take the waiting events of the partition, micro-batch by micro-batch, until none waits."""
        while records := self._waiting.pop(partition, None):
            due = OffsetRange(CHANGED, self._epoch, partition, self._positions[partition], records[-1].offset + 1)
            async with self._slots:
                started = time.perf_counter()
                report = await self._take(records, due)
                seconds = time.perf_counter() - started
            STREAM_BATCH_SECONDS.observe(seconds)
            if partition in self._positions:  # it may have been revoked meanwhile
                self._positions[partition] = max(self._positions[partition], due.end)
            await subscription.commit({partition: due.end})
            await self.reports.applied(due, report, seconds)

    async def _take(self, records: Sequence[Record], due: OffsetRange) -> Report:
        """Repeat the micro-batch until it is applied. A failure holds up its own partition and no other."""
        async for attempt in AsyncRetrying(
            retry=retry_if_exception_type(Exception), wait=wait_random_exponential(multiplier=0.2, max=30)
        ):
            with attempt:
                try:
                    report = await self.lane.take(records, due, run_id=f"{RUN_ID}:{due.start}-{due.end}")
                    self._failing.pop(due.partition, None)
                    return report
                except Exception as error:
                    self._failing[due.partition] = _why(error)
                    number = attempt.retry_state.attempt_number
                    _log_failure("stream.batch_failed", error, partition=due.partition, end=due.end, attempt=number)
                    raise
        raise AssertionError("unreachable: the attempts have no end")

    async def _stop_workers(self) -> None:
        workers, self._workers = list(self._workers.values()), {}
        workers += [self._retry] if self._retry else []
        self._waiting.clear()
        for worker in workers:
            worker.cancel()
        await asyncio.gather(*workers, return_exceptions=True)


def _report_failure(loop: Loop, error: Exception) -> None:
    loop.fail(_why(error))
    _log_failure("stream.failed", error)


def _why(error: Exception) -> str:
    """Return what operators may read about the error."""
    return str(error) if isinstance(error, TidemarkError) else f"bug: {type(error).__name__}, see the stream lane's log"


def _log_failure(event: str, error: Exception, **fields: object) -> None:
    """Log an outage as a warning and any other exception as a bug, with its trace."""
    if isinstance(error, LostEvents):
        _log.error(event, why=str(error), **fields)
    elif isinstance(error, Unavailable):
        _log.warning(event, why=str(error), **fields)
    else:
        _log.error(event, error=type(error).__name__, exc_info=True, **fields)
