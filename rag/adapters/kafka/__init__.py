"""The event log on Kafka: an async interface to three blocking parts, which publish, read and administer."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, Final, ParamSpec, TypeVar

from rag.adapters.kafka.administration import Administration
from rag.adapters.kafka.publisher import Publisher
from rag.adapters.kafka.reader import Reader
from rag.adapters.kafka.subscription import KafkaSubscription
from rag.ports import Record, Starts, TopicState
from schemas.codec import Codec
from schemas.registry import ConfluentRegistry
from schemas.topics import TOPICS, Topic

TIMEOUT: Final = 10.0  # seconds without an answer or any progress; a broker's failover takes about three
THREADS: Final = 4  # one to publish, two to read, one to administer

CLIENT: Final[Mapping[str, Any]] = {
    "log_level": 2,  # failures are raised with their reason; librdkafka's own lines would break the JSON log
    "reconnect.backoff.ms": 100,
    "reconnect.backoff.max.ms": 2000,
}

P = ParamSpec("P")
T = TypeVar("T")


class KafkaEventLog:
    """EventLog of `rag.ports`. librdkafka blocks, so every call runs in one of a few threads and never on the event loop.
    Clients connect on the first call."""

    def __init__(
        self, bootstrap: str, codec: Codec, *, options: Mapping[str, Any] | None = None, timeout: float = TIMEOUT
    ) -> None:
        """Create the log without connecting. `options` are librdkafka's (such as `security.protocol`) and apply to all clients."""
        client = {"bootstrap.servers": bootstrap, **CLIENT, **(options or {})}
        self._client = client
        self._publisher = Publisher(client, codec, timeout)
        self._reader = Reader(client, codec, timeout)
        self._administration = Administration(client, timeout)
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="kafka")

    @classmethod
    @asynccontextmanager
    async def open(
        cls,
        bootstrap: str,
        registry_url: str,
        *,
        options: Mapping[str, Any] | None = None,
        registry_options: Mapping[str, Any] | None = None,
        table: Mapping[str, Topic] = TOPICS,
    ) -> AsyncIterator[KafkaEventLog]:
        """Open the log, and close all clients on exit. No event is lost then, because `publish` returns only when all are acknowledged."""
        registry = ConfluentRegistry(registry_url, registry_options)
        log = cls(bootstrap, Codec(registry, table), options=options)
        try:
            yield log
        finally:
            await log.close()
            registry.close()

    async def close(self) -> None:
        await self._run(self._reader.close)
        await self._run(self._publisher.close)
        self._threads.shutdown(wait=False)

    async def publish(
        self, topic: str, events: Sequence[tuple[str, Any]], *, headers: Mapping[str, str] | None = None
    ) -> None:
        """Publish events. Raises Unavailable when any event was not delivered in time: publish all of them again. Raises Rejected
        for an event that is larger than the broker accepts, ValueError for one that does not belong on the topic."""
        await self._run(self._publisher.publish, topic, events, headers or {})

    async def describe(self, topic: str) -> TopicState:
        return await self._run(self._administration.describe, topic)

    async def read(self, topic: str, partition: int, start: int, end: int, *, limit: int | None = None) -> list[Record]:
        """Read a range of records. `limit` bounds their number; the next range then starts after the last record."""
        return await self._run(self._reader.read, topic, partition, start, end, limit)

    async def mirror(self, group: str, topic: str, positions: Mapping[int, int]) -> bool:
        return await self._run(self._administration.mirror, group, topic, positions)

    async def members(self, group: str) -> int:
        return await self._run(self._administration.members, group)

    def subscribe(self, group: str, topic: str, starts: Starts) -> AbstractAsyncContextManager[KafkaSubscription]:
        return KafkaSubscription.open(self._client, self._reader.decode, group, topic, starts)

    async def _run(self, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._threads, lambda: call(*args, **kwargs))
