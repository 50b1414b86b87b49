"""Answer cache in memory, for fast tests and for one process without Redis."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence


class NoAnswerCache:
    """Null cache, for evaluations: they must generate every answer."""

    async def get(self, key: str) -> bytes | None:
        return None

    async def put(self, key: str, value: bytes, *, ttl: float, documents: Sequence[str] = ()) -> None:
        return None

    async def forget(self, documents: Sequence[str]) -> int:
        return 0

    async def rests_on(self, documents: Sequence[str]) -> set[str]:
        return set()


class MemoryAnswerCache:
    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._entries: dict[str, tuple[float, bytes]] = {}
        self._documents: dict[str, set[str]] = {}  # by key

    async def get(self, key: str) -> bytes | None:
        expires, value = self._entries.get(key, (0.0, b""))
        if expires > self._clock():
            return value
        self._entries.pop(key, None)
        return None

    async def put(self, key: str, value: bytes, *, ttl: float, documents: Sequence[str] = ()) -> None:
        if ttl > 0:
            self._entries[key] = (self._clock() + ttl, value)
            self._documents[key] = set(documents)

    async def forget(self, documents: Sequence[str]) -> int:
        resting = [key for key, found in self._documents.items() if not found.isdisjoint(documents)]
        for key in resting:
            del self._documents[key]
            self._entries.pop(key, None)
        return len(resting)

    async def rests_on(self, documents: Sequence[str]) -> set[str]:
        held = (found for key, found in self._documents.items() if key in self._entries)
        return set().union(*held).intersection(documents)
