"""Answer cache in memory, for fast tests and for one process without Redis."""

from __future__ import annotations

import time
from collections.abc import Callable


class NoAnswerCache:
    """Null cache, for evaluations: they must generate every answer."""

    async def get(self, key: str) -> bytes | None:
        return None

    async def put(self, key: str, value: bytes, *, ttl: float) -> None:
        return None


class MemoryAnswerCache:
    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._entries: dict[str, tuple[float, bytes]] = {}

    async def get(self, key: str) -> bytes | None:
        expires, value = self._entries.get(key, (0.0, b""))
        if expires > self._clock():
            return value
        self._entries.pop(key, None)
        return None

    async def put(self, key: str, value: bytes, *, ttl: float) -> None:
        if ttl > 0:
            self._entries[key] = (self._clock() + ttl, value)
