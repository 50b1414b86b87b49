"""The way into the audit log: a bounded queue, and one writer that appends what waits in one transaction (group commit)."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from dataclasses import dataclass, field

from rag.errors import Unavailable
from rag.models import AuditEvent
from rag.ports import AuditLog
from rag.telemetry import AUDIT_ENTRIES, AUDIT_LAG_SECONDS, AUDIT_LOST, logger

CAPACITY = 10_000  # events in memory: minutes of a busy gateway, some 10 MB
BATCH = 500  # events of one transaction
GATHER_SECONDS = (
    0.05  # wait for more events, so that a busy gateway makes 20 transactions a second and not one for each query
)
RETRY_SECONDS = 1.0
WRITE_SECONDS = 10.0  # of an action that waits for its entry
REMEDY = "the audit log cannot be written, so nothing was done: restore the database (DATABASE_URL), then try again"

_log = logger(__name__)


@dataclass(slots=True)
class _Waiting:
    event: AuditEvent
    written: asyncio.Future[None] | None = None  # of an action that waits for its entry
    since: float = field(default_factory=time.monotonic)


class Trail:
    """One process's queue. ``strict`` refuses a query that cannot be recorded; otherwise the query is answered and counted as lost."""

    def __init__(self, log: AuditLog, *, strict: bool = False, capacity: int = CAPACITY) -> None:
        self._log, self._capacity = log, capacity
        self.strict = strict
        self._queue: deque[_Waiting] = deque()
        self._urgent = asyncio.Event()
        self._writer: asyncio.Task[None] | None = None

    def note(self, event: AuditEvent) -> None:
        """Have the event written soon. It is lost, and counted as that, when the queue is full or the process dies before."""
        if len(self._queue) >= self._capacity:
            AUDIT_LOST.labels("queue_full").inc()
            return
        self._enqueue(_Waiting(event))

    async def write(self, event: AuditEvent) -> None:
        """Return when the event is in the log. Raises Unavailable when it cannot be written: the caller must not act then."""
        if len(self._queue) >= self._capacity:
            raise Unavailable(REMEDY)
        waiting = _Waiting(event, asyncio.get_running_loop().create_future())
        assert waiting.written is not None  # noqa: S101  (just made)
        self._enqueue(waiting)
        self._urgent.set()
        try:
            async with asyncio.timeout(WRITE_SECONDS):
                await waiting.written
        except TimeoutError:
            raise Unavailable(REMEDY) from None

    async def record(self, event: AuditEvent) -> None:
        """Write the event when the trail is strict, else note it."""
        if self.strict:
            await self.write(event)
        else:
            self.note(event)

    async def flush(self, seconds: float = 5.0) -> bool:
        """Wait until every event of the queue is written, for so long at most. Return whether it is."""
        self._urgent.set()
        if self._writer is not None:
            await asyncio.wait({self._writer}, timeout=seconds)
        return not self._queue

    async def close(self) -> None:
        """Write what waits, and stop. Events that cannot be written are lost and counted."""
        await self.flush()
        if self._writer is not None:
            self._writer.cancel()
        AUDIT_LOST.labels("shutdown").inc(len(self._queue))
        self._queue.clear()

    def _enqueue(self, waiting: _Waiting) -> None:
        self._queue.append(waiting)
        if self._writer is None or self._writer.done():
            self._writer = asyncio.get_running_loop().create_task(self._drain())

    async def _drain(self) -> None:
        """Append batches until the queue is empty."""
        pause = GATHER_SECONDS
        while self._queue:
            await self._wait(pause)
            pause = GATHER_SECONDS if await self._append() else RETRY_SECONDS

    async def _wait(self, seconds: float) -> None:
        """Wait, or go on at once when an action waits for its entry."""
        try:
            async with asyncio.timeout(seconds):
                await self._urgent.wait()
        except TimeoutError:
            pass
        self._urgent.clear()

    async def _append(self) -> bool:
        """Append one batch. Return False when the log cannot be written: noted events wait on, and actions are refused."""
        batch = [self._queue.popleft() for _ in range(min(BATCH, len(self._queue)))]
        batch = [
            each for each in batch if each.written is None or not each.written.done()
        ]  # done: nobody waits any more
        try:
            await self._log.append_audit([each.event for each in batch])
        except Unavailable as error:
            _log.error("audit.waits", events=len(batch), why=str(error))
            self._queue.extendleft(reversed([each for each in batch if each.written is None]))
            _refuse(batch)
            return False
        except Exception as error:  # a batch that can never be written must not hold up those behind it
            _log.error("audit.bug", events=len(batch), error=type(error).__name__, exc_info=error)
            AUDIT_LOST.labels("bug").inc(sum(each.written is None for each in batch))
            _refuse(batch)
            return True
        _report(batch)
        return True


def _refuse(batch: list[_Waiting]) -> None:
    for each in batch:
        if each.written is not None and not each.written.done():
            each.written.set_exception(Unavailable(REMEDY))


def _report(batch: list[_Waiting]) -> None:
    now = time.monotonic()
    for each in batch:
        AUDIT_ENTRIES.labels(each.event.outcome).inc()
        AUDIT_LAG_SECONDS.observe(now - each.since)
        if each.written is not None and not each.written.done():
            each.written.set_result(None)
