"""Membership in a consumer group. Partitions start at the offsets that the domain names, never at the group's."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import Any, Final

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition

from rag.adapters.kafka.errors import domain_error
from rag.errors import LostEvents, Unavailable
from rag.ports import Record, Starts

BATCH: Final = 500  # records of one poll at most
STARTS_SECONDS: Final = 20.0  # the time that finding the first offsets may take; Kafka waits for the answer

MEMBER: Final[Mapping[str, Any]] = {
    "auto.offset.reset": "error",
    "enable.auto.commit": False,
    "enable.auto.offset.store": False,
    "session.timeout.ms": 10_000,  # a killed member keeps its partitions this long
    "heartbeat.interval.ms": 2_000,
    "max.poll.interval.ms": 300_000,
    "fetch.wait.max.ms": 50,
    "queued.max.messages.kbytes": 16 * 1024,
}

Decode = Callable[[str, int, int, Message], Record]
"""(topic, partition, offset, message) → record."""


class KafkaSubscription:
    """Subscription of `rag.ports`. librdkafka blocks, so all its calls run in one thread of their own."""

    def __init__(self, client: Mapping[str, Any], decode: Decode, group: str, topic: str, starts: Starts) -> None:
        self._consumer = Consumer({**MEMBER, **client, "group.id": group})
        self._decode, self._topic, self._starts = decode, topic, starts
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="kafka-member")
        self._loop = asyncio.get_running_loop()
        self._partitions: frozenset[int] = frozenset()
        self._failure: Exception | None = None

    @classmethod
    @asynccontextmanager
    async def open(
        cls, client: Mapping[str, Any], decode: Decode, group: str, topic: str, starts: Starts
    ) -> AsyncIterator[KafkaSubscription]:
        member = cls(client, decode, group, topic, starts)
        try:
            await member._run(member._subscribe)
            yield member
        finally:
            await member._run(member._consumer.close)  # leaves the group at once
            member._thread.shutdown(wait=False)

    @property
    def partitions(self) -> frozenset[int]:
        return self._partitions

    async def poll(self, wait: float) -> list[Record]:
        records: list[Record] = await self._run(self._poll, wait)
        return records

    async def pause(self, partitions: frozenset[int]) -> None:
        await self._run(self._set_paused, partitions, True)

    async def resume(self, partitions: frozenset[int]) -> None:
        await self._run(self._set_paused, partitions, False)

    async def commit(self, positions: Mapping[int, int]) -> None:
        await self._run(self._commit, positions)

    async def _run(self, call: Callable[..., Any], *arguments: Any) -> Any:
        return await self._loop.run_in_executor(self._thread, call, *arguments)

    # -- in the thread

    def _subscribe(self) -> None:
        self._consumer.subscribe([self._topic], on_assign=self._assign, on_revoke=self._revoke, on_lost=self._revoke)

    def _assign(self, consumer: Consumer, assigned: list[TopicPartition]) -> None:
        partitions = frozenset(each.partition for each in assigned)
        try:
            found = asyncio.run_coroutine_threadsafe(self._find_starts(partitions), self._loop).result(STARTS_SECONDS)
            consumer.assign([TopicPartition(self._topic, number, offset) for number, offset in found.items()])
            self._partitions = partitions
        except Exception as error:  # an exception of a callback would vanish in librdkafka
            self._failure = error

    async def _find_starts(self, partitions: frozenset[int]) -> Mapping[int, int]:
        return await self._starts(partitions)

    def _revoke(self, consumer: Consumer, revoked: list[TopicPartition]) -> None:
        self._partitions = frozenset()
        consumer.unassign()

    def _poll(self, wait: float) -> list[Record]:
        try:
            first = self._consumer.poll(wait)
            messages = [] if first is None else [first, *self._consumer.consume(BATCH, 0)]
        except KafkaException as error:
            raise domain_error(error.args[0], f"{self._topic} cannot be read") from error
        if self._failure:
            failure, self._failure = self._failure, None
            raise Unavailable(f"the first offsets of {self._topic} are unknown: {failure}") from failure
        return [self._record(message) for message in messages]

    def _record(self, message: Message) -> Record:
        partition, offset = message.partition() or 0, message.offset() or 0
        if error := message.error():
            if error.code() == KafkaError._AUTO_OFFSET_RESET:
                raise LostEvents(f"{self._topic}[{partition}] no longer holds the offset that is due: {error.str()}")
            raise domain_error(error, f"{self._topic}[{partition}] cannot be read")
        return self._decode(self._topic, partition, offset, message)

    def _set_paused(self, partitions: frozenset[int], pause: bool) -> None:
        chosen = [TopicPartition(self._topic, number) for number in partitions & self._partitions]
        if chosen:
            (self._consumer.pause if pause else self._consumer.resume)(chosen)

    def _commit(self, positions: Mapping[int, int]) -> None:
        offsets = [
            TopicPartition(self._topic, number, at) for number, at in positions.items() if number in self._partitions
        ]
        if offsets:
            self._consumer.commit(offsets=offsets, asynchronous=True)
