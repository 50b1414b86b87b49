"""The end of a process at a chosen moment: between any two calls to the ports of a ``World``."""

from __future__ import annotations

import functools
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from tests.fakes.world import World

PORTS = {
    "log": ("read", "publish"),
    "ledger": ("recorded", "suppressed", "lookup", "record_intent", "swap", "condemn", "forget_points"),
    "vectors": ("upsert", "delete"),
    "objects": ("head", "get"),
    "artifacts": ("head", "get", "put", "delete"),
}
TRANSACTIONS = {"ledger": ("unpublished",)}  # their end is the call that counts


class Crash(BaseException):
    """Not an Exception: no step may handle the end of its own process."""


@dataclass
class Process:
    """One life of a worker. ``calls`` names the port calls that returned; none returns after the call number ``crash_after``."""

    crash_after: int = 0  # 0: never
    calls: list[str] = field(default_factory=list)

    @property
    def is_dead(self) -> bool:
        return 0 < self.crash_after <= len(self.calls)

    def begins(self) -> None:
        if self.is_dead:
            raise Crash

    def ends(self, name: str) -> None:
        self.begins()  # two calls at once: only one of them is the last
        self.calls.append(name)
        self.begins()


class Watched:
    """The ports of a world, watched by the ``process`` that lives at the time. ``restart`` begins the next life."""

    def __init__(self, world: World) -> None:
        self.process = Process()
        for port, methods in PORTS.items():
            for method in methods:
                part = getattr(world, port)
                setattr(part, method, self._call(port, getattr(part, method)))
        for port, methods in TRANSACTIONS.items():
            for method in methods:
                part = getattr(world, port)
                setattr(part, method, self._transaction(f"{port}.{method}", getattr(part, method)))

    def restart(self, *, crash_after: int = 0) -> Process:
        self.process = Process(crash_after)
        return self.process

    def _call(self, port: str, method: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
        @functools.wraps(method)
        async def call(*arguments: Any, **options: Any) -> Any:
            self.process.begins()
            result = await method(*arguments, **options)
            self.process.ends(_name(port, method.__name__, arguments))
            return result

        return call

    def _transaction(self, name: str, method: Callable[..., Any]) -> Callable[..., Any]:
        @asynccontextmanager
        async def transaction(*arguments: Any, **options: Any) -> AsyncIterator[Any]:
            self.process.begins()
            async with method(*arguments, **options) as result:
                yield result
            self.process.ends(name)

        return transaction


def _name(port: str, method: str, arguments: tuple[Any, ...]) -> str:
    """The call, with the topic that it publishes to or the artifact that it writes."""
    if (port, method) == ("log", "publish"):
        return f"log.publish {arguments[0]}"
    if (port, method) == ("artifacts", "put"):
        return f"artifacts.put {arguments[0].rsplit('/', 1)[-1]}"
    return f"{port}.{method}"
