"""Answer cache in Redis. Its time limits are short, because a cache that is slower than an answer is useless."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError, RedisError, ResponseError

from rag.errors import Unavailable

TIMEOUT = 0.25  # seconds, for connecting and for each command
PREFIX = "tidemark:answers:"
BY_DOCUMENT = "tidemark:documents:"  # a set of the keys of the entries that rest on a document
PAGE = 1000  # keys of one command
LONGEST = 2 * 86_400  # seconds that a set lives after its last entry was put; no entry lives longer


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

    async def put(self, key: str, value: bytes, *, ttl: float, documents: Sequence[str] = ()) -> None:
        """Store the entry, and its key in a set for each document, so that ``forget`` finds it.

        The sets are written first and in one transaction with the entry: no entry is without them.
        """
        if ttl <= 0:
            return
        if ttl > LONGEST:
            raise ValueError(f"an entry lives for {LONGEST} seconds at most, not {ttl:.0f}")
        milliseconds = max(1, round(ttl * 1000))
        try:
            async with self._client.pipeline(transaction=True) as together:
                for each in dict.fromkeys(documents):
                    together.sadd(BY_DOCUMENT + each, PREFIX + key)
                    together.expire(BY_DOCUMENT + each, LONGEST)
                together.set(PREFIX + key, value, px=milliseconds)
                await together.execute()
        except (RedisError, OSError) as error:
            raise _unavailable(error) from error

    async def forget(self, documents: Sequence[str]) -> int:
        """Delete the entries that the documents' sets name, and have the append-only file rewritten without them where the server
        permits that. An entry that is put meanwhile stays in its set."""
        deleted = 0
        try:
            for each in documents:
                keys = sorted(await self._client.smembers(BY_DOCUMENT + each))
                for start in range(0, len(keys), PAGE):
                    page = keys[start : start + PAGE]
                    deleted += await self._client.delete(*page)
                    await self._client.srem(BY_DOCUMENT + each, *page)
            if deleted:
                with suppress(ResponseError):  # a managed server refuses it, or a rewrite is under way
                    await self._client.bgrewriteaof()
        except (RedisError, OSError) as error:
            raise _unavailable(error) from error
        return deleted

    async def rests_on(self, documents: Sequence[str]) -> set[str]:
        try:
            return {each for each in documents if await self._client.exists(BY_DOCUMENT + each)}
        except (RedisError, OSError) as error:
            raise _unavailable(error) from error


def _unavailable(error: Exception) -> Unavailable:
    return Unavailable(f"redis does not answer ({type(error).__name__}): check REDIS_URL")
