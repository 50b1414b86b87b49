"""Fault points: every call of a worker to a port of a world, and the faults that can happen there."""

from __future__ import annotations

import asyncio
import enum
import functools
import inspect
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

from rag.errors import Unavailable
from schemas.topics import CHANGED
from tests.fakes.crashes import Crash
from tests.fakes.world import World
from tests.faults.model import View

PORTS = ("objects", "artifacts", "ledger", "log", "vectors", "cache")
OF_PUBLISH = ("log.publish", "ledger.unpublished")
OF_SWEEP = ("ledger.condemn", "vectors.delete", "ledger.forget_points")
OF_ANSWER = ("ledger.ruled_scopes", "vectors.search", "ledger.visible", "cache.get", "cache.put")
OF_BACKFILL = (
    "objects.get", "artifacts.get", "artifacts.put", "artifacts.delete", "ledger.recorded", "ledger.suppressed",
    "ledger.lookup", "ledger.record_intent", "ledger.swap", "vectors.upsert", *OF_SWEEP, *OF_PUBLISH,
)  # fmt: skip
OF_COMPARISON = (
    "ledger.shard", "ledger.unknown_points", "vectors.retrieve", "vectors.delete", "artifacts.delete",
    "ledger.record_intent", "vectors.upsert", "ledger.swap",
)  # fmt: skip
OF_ERASURE = (
    "ledger.due_erasures", "ledger.erasure", "objects.erase", "log.publish", "cache.forget", "ledger.forget", "artifacts.delete",
    "vectors.delete", "vectors.purge", "objects.kept", "ledger.remembered", "vectors.retrieve", "ledger.of_tenant", "ledger.progress",
    *OF_PUBLISH,
)  # fmt: skip
_APPLY = ("ledger.record_intent", "vectors.upsert", "ledger.swap")
OF_LANE = ("log.read", "objects.head", "artifacts.head", *OF_BACKFILL, *_APPLY, *_APPLY, "log.read", "log.read")
"""The calls at which a schedule may place a fault, by the work that makes them. The calls around a swap come up most often."""

REPEATABLE = {"vectors.upsert", "vectors.delete", "log.publish", "artifacts.put", "artifacts.delete", "cache.put",
              "objects.erase", "ledger.forget", "cache.forget"}  # fmt: skip
"""Writes that a client sends again after a timeout, so that a server may execute them twice."""
DEFERRABLE = REPEATABLE | {"ledger.record_intent", "ledger.swap", "ledger.condemn", "ledger.forget_points"}
"""Writes that a server may execute after their caller gave up."""


class Kind(enum.Enum):
    KILL_BEFORE = "the process dies before the call"
    KILL_AFTER = "the process dies after the call, before it sees the result"
    STOP_BEFORE = "the process stops before the call and may go on later"
    STOP_AFTER = "the process stops after the call and may go on later"
    FAIL = "the call fails once and does nothing"
    LOSE_REPLY = "the call is executed, and its caller sees a failure"
    LATE = "the caller sees a failure, and the call is executed at any later time"
    TWICE = "the call is executed, and once more at any later time"
    SHORT = "the broker reports an end of the log that is before the real one"

    def __repr__(self) -> str:
        return str(self)


def kinds_of(point: str) -> list[Kind]:
    """Return the faults that make a difference at ``point``, the more important ones several times."""
    absent = {Kind.LATE} if point not in DEFERRABLE else set()
    absent |= {Kind.TWICE} if point not in REPEATABLE else set()
    absent |= {Kind.SHORT} if point != "log.read" else set()
    kinds = [kind for kind in Kind if kind not in absent]
    important = {
        "log.read": [Kind.SHORT],
        "vectors.upsert": [Kind.LATE, Kind.TWICE, Kind.STOP_AFTER],
        "vectors.delete": [Kind.LATE],
        "ledger.swap": [Kind.STOP_BEFORE],
    }
    return kinds + 3 * important.get(point, [])


@dataclass(frozen=True)
class Fault:
    """A fault of ``kind`` at a process's call number ``nth`` of ``point``."""

    point: str
    nth: int
    kind: Kind


@dataclass
class Process:
    """One life of a worker or of a reader: a task, and the fault that it will meet."""

    name: str
    fault: Fault | None = None
    task: asyncio.Task[Any] | None = None
    view: View | None = None  # the right answer as of the last ledger read of a search
    has_met_fault: bool = False
    is_dead: bool = False
    calls: Counter[str] = field(default_factory=Counter)
    running: asyncio.Event = field(default_factory=asyncio.Event)
    stopped: asyncio.Event = field(default_factory=asyncio.Event)
    transactions: list[Callable[[], Awaitable[None]]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.running.set()

    def take(self, point: str) -> Kind | None:
        """Count the call, and return the kind of the fault that happens at it."""
        self.calls[point] += 1
        fault = self.fault
        if not fault or self.has_met_fault or (fault.point, fault.nth) != (point, self.calls[point]):
            return None
        self.has_met_fault = True
        return fault.kind

    async def live(self) -> None:
        """Return when the process runs. Raises Crash when the process is dead."""
        await self.running.wait()
        if self.is_dead:
            raise Crash

    async def stop(self) -> None:
        """Stop until ``resume`` or ``kill``. Its database ends an open transaction of a session that is idle for too long."""
        self.running.clear()
        for roll_back in self.transactions:
            await roll_back()
        self.stopped.set()
        await self.live()

    def resume(self) -> None:
        self.stopped.clear()
        self.running.set()

    def kill(self) -> None:
        self.is_dead = True
        self.resume()


CURRENT: ContextVar[Process | None] = ContextVar("CURRENT", default=None)
Late = tuple[str, Callable[[], Awaitable[Any]]]


class FaultPoints:
    """The watched ports of a world. A call outside of a process meets no fault."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.late: list[Late] = []  # requests that a server will execute later
        for port in PORTS:
            part = getattr(world, port)
            for name, method in inspect.getmembers(part, inspect.iscoroutinefunction):
                if not name.startswith("_"):
                    setattr(part, name, self._call(f"{port}.{name}", method))
        world.ledger.unpublished = self._transaction("ledger.unpublished", world.ledger.unpublished)  # type: ignore[method-assign, assignment]

    def _call(self, point: str, method: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
        @functools.wraps(method)
        async def call(*arguments: Any, **options: Any) -> Any:
            request = functools.partial(method, *arguments, **options)
            process = CURRENT.get()
            if process is None:
                return await request()
            await process.live()
            kind = process.take(point)
            result = await (self._with_fault(kind, point, request, process) if kind else request())
            await process.live()
            return result

        return call

    async def _with_fault(self, kind: Kind, point: str, request: Callable[[], Awaitable[Any]], process: Process) -> Any:
        match kind:
            case Kind.KILL_BEFORE:
                process.kill()
                raise Crash
            case Kind.STOP_BEFORE:
                await process.stop()
            case Kind.SHORT:
                return await self._read_short(request)
            case Kind.LATE:
                self.late.append((point, request))
                raise Unavailable(f"{point} timed out")
            case Kind.FAIL:
                raise Unavailable(f"{point} failed")
        result = await request()
        match kind:
            case Kind.KILL_AFTER:
                process.kill()
            case Kind.STOP_AFTER:
                await process.stop()
            case Kind.TWICE:
                self.late.append((point, request))
            case Kind.LOSE_REPLY:
                raise Unavailable(f"the reply to {point} was lost")
        return result

    async def _read_short(self, request: Callable[[], Awaitable[Any]]) -> Any:
        """Read while every partition seems to end one record early, as a replica that lags reports it."""
        partitions = [each for each in self.world.log._topics[CHANGED][1] if each.records]
        hidden = [(each, each.end, each.records.pop()) for each in partitions]
        for each, _, record in hidden:
            each.end = record.offset
        try:
            return await request()
        finally:
            for each, end, record in hidden:
                each.records.append(record)
                each.end = end

    def _transaction(
        self, point: str, method: Callable[..., AbstractAsyncContextManager[Any]]
    ) -> Callable[..., AbstractAsyncContextManager[Any]]:
        @asynccontextmanager
        async def transaction(*arguments: Any, **options: Any) -> AsyncIterator[Any]:
            process = CURRENT.get()
            inner = method(*arguments, **options)
            if process is None:
                async with inner as result:
                    yield result
                return
            await process.live()
            kind = process.take(point)
            is_open = True

            async def roll_back() -> None:
                nonlocal is_open
                is_open = False
                error = Unavailable("the session was idle in a transaction for too long")
                with suppress(Unavailable):
                    await inner.__aexit__(type(error), error, None)

            result = await inner.__aenter__()
            process.transactions.append(roll_back)
            try:
                if kind in {Kind.KILL_BEFORE, Kind.STOP_BEFORE, Kind.FAIL}:
                    await self._with_fault(kind, point, _nothing, process)
                yield result
                await process.live()
                if not is_open:
                    raise Unavailable("the transaction was rolled back")
            except BaseException:
                process.transactions.remove(roll_back)
                if is_open:
                    await roll_back()
                raise
            process.transactions.remove(roll_back)
            await inner.__aexit__(None, None, None)
            if kind in {Kind.KILL_AFTER, Kind.STOP_AFTER, Kind.LOSE_REPLY}:
                await self._with_fault(kind, point, _nothing, process)
            await process.live()

        return transaction


async def _nothing() -> None:
    return None
