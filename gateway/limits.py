"""So many requests a minute for each caller, counted in Redis and so across gateways."""

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
    """``per_minute`` 0 switches it off. When Redis does not answer, callers are let through: answers matter more."""

    def __init__(self, per_minute: int, redis_url: str | None = None) -> None:
        storage = _redis(redis_url) if redis_url else MemoryStorage()
        self._limiter = SlidingWindowCounterRateLimiter(storage)
        self._item = RateLimitItemPerMinute(per_minute) if per_minute else None

    async def check(self, caller_id: str) -> None:
        """Raises TooMany."""
        if self._item is None:
            return
        try:
            if await self._limiter.hit(self._item, caller_id):
                return
            reset = (await self._limiter.get_window_stats(self._item, caller_id)).reset_time
        except StorageError as error:
            DEGRADED.labels("limits").inc()
            logger(__name__).warning("limits_skipped", error=type(error.storage_error).__name__)
            return
        raise TooMany(self._item.amount, reset - time.time())


def _redis(url: str) -> Storage:
    # one more try, for a connection that an idle server closed; a slow server gets none
    retry = Retry(NoBackoff(), 1, supported_errors=(ConnectionError,))
    options: dict[str, Any] = {"socket_timeout": TIMEOUT, "socket_connect_timeout": TIMEOUT, "retry": retry}
    return RedisStorage(
        f"async+{url}", wrap_exceptions=True, implementation="redispy", key_prefix="tidemark:limits", **options
    )
