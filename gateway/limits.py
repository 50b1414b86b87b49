"""Limits per minute, counted in Redis and so across all gateways: requests of a caller, refused tokens of an address."""

from __future__ import annotations

import time
from typing import Any

from limits import RateLimitItemPerMinute
from limits.aio.storage import MemoryStorage, RedisStorage, Storage
from limits.aio.strategies import SlidingWindowCounterRateLimiter
from limits.errors import StorageError
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError

from gateway.problems import TooMany
from rag.telemetry import DEGRADED, logger

TIMEOUT = 0.25  # seconds: counting must not cost more than answering


class RateLimit:
    """A limit of ``counted`` things per minute, of each key. ``per_minute`` 0 means no limit.

    When Redis does not answer, everybody is let through, because answers matter more than limits.
    """

    def __init__(self, per_minute: int, redis_url: str | None = None, *, counted: str = "requests") -> None:
        storage = _redis(redis_url) if redis_url else MemoryStorage()
        self._limiter = SlidingWindowCounterRateLimiter(storage)
        self._item = RateLimitItemPerMinute(per_minute, namespace=counted.replace(" ", "-")) if per_minute else None
        self._counted = counted

    async def check(self, key: str) -> None:
        """Count one thing of ``key``, a pseudonym. Raises TooMany when that exceeds the limit."""
        if self._item is None:
            return
        try:
            if await self._limiter.hit(self._item, key):
                return
            reset = (await self._limiter.get_window_stats(self._item, key)).reset_time
        except StorageError as error:
            DEGRADED.labels("limits").inc()
            logger(__name__).warning("limits_skipped", error=type(error.storage_error).__name__)
            return
        raise TooMany(f"{self._item.amount} {self._counted}", reset - time.time())


def _redis(url: str) -> Storage:
    # one more try, for a connection that an idle server closed; a slow server gets none
    retry = Retry(NoBackoff(), 1, supported_errors=(ConnectionError,))
    options: dict[str, Any] = {"socket_timeout": TIMEOUT, "socket_connect_timeout": TIMEOUT, "retry": retry}
    return RedisStorage(
        f"async+{url}", wrap_exceptions=True, implementation="redispy", key_prefix="tidemark:limits", **options
    )
