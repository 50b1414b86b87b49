"""Answer cache in Redis. Its time limits are short, because a cache that is slower than an answer is useless."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError, RedisError

from rag.errors import Unavailable

TIMEOUT = 0.25  # seconds, for connecting and for each command
PREFIX = "tidemark:answers:"


class RedisAnswerCache:
    """AnswerCache of ``rag.ports``. Raises Unavailable when Redis does not answer in time."""

    def __init__(self, client: Redis) -> None:
        self._client = client

    @classmethod
    @asynccontextmanager
    async def open(cls, url: str) -> AsyncIterator[RedisAnswerCache]:
        """Open the cache. The client connects on first use."""
        # One retry, for a connection that the server closed while idle. redis-py's default retries for seconds.
        retry = Retry(NoBackoff(), 1, supported_errors=(ConnectionError,))
        client = Redis.from_url(url, socket_timeout=TIMEOUT, socket_connect_timeout=TIMEOUT, retry=retry)
        try:
            yield cls(client)
        finally:
            await client.aclose()

    async def get(self, key: str) -> bytes | None:
        try:
            value = await self._client.get(PREFIX + key)
        except (RedisError, OSError) as error:
            raise _unavailable(error) from error
        return value.encode() if isinstance(value, str) else value

    async def put(self, key: str, value: bytes, *, ttl: float) -> None:
        if ttl <= 0:
            return
        try:
            await self._client.set(PREFIX + key, value, px=max(1, round(ttl * 1000)))
        except (RedisError, OSError) as error:
            raise _unavailable(error) from error


def _unavailable(error: Exception) -> Unavailable:
    return Unavailable(f"redis does not answer ({type(error).__name__}): check REDIS_URL")
