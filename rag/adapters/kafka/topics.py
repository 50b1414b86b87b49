"""Topics of others, read by a consumer group whose positions are the group's own."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Final, TypeVar

from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaException, Message, TopicPartition

from rag.adapters.kafka.errors import UNKNOWN_TOPIC, domain_error, translated
from rag.adapters.kafka.subscription import MEMBER
from rag.errors import Unavailable
from rag.telemetry import EVENTS_LOST, logger

STEP: Final = 50  # messages taken from librdkafka at a time
COMMITTED_SECONDS: Final = 10.0  # for the answer with the group's positions

T = TypeVar("T")
_log = logger(__name__)


@dataclass(frozen=True, slots=True)
class RawMessage:
    topic: str
    partition: int
    offset: int
    key: bytes | None
    value: bytes | None


class GroupReader:
    """A member of a consumer group. A new group begins at the first message. librdkafka blocks, so its calls run in one thread."""

    def __init__(
        self,
        client: Mapping[str, Any],
        group: str,
        topics: Sequence[str],
        *,
        remedy: str = "have Debezium take a snapshot of the table",
    ) -> None:
        """``remedy`` is logged when messages were purged before they were read."""
        self._remedy = remedy
        self._config = {**MEMBER, "allow.auto.create.topics": False, **client, "group.id": group}
        self._topics = list(topics)
        self._consumer: Consumer | None = None
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="kafka-topics")
        self._assignments = 0
        self._failure: Exception | None = None

    async def poll(self, limit: int, size: int, wait: float) -> list[RawMessage]:
        """Return the next messages: at most ``limit``, of about ``size`` bytes. Wait up to ``wait`` seconds for the first one.

        No more messages come until they are committed. Raises Unavailable.
        """
        return await self._run(lambda: self._poll(limit, size, wait))

    async def holds(self) -> bool:
        """Return whether the partitions of the last messages still belong to this member. Another one may have read them since."""
        return await self._run(self._holds)

    async def commit(self, messages: Sequence[RawMessage]) -> None:
        """Record that the messages are done. Raises Unavailable."""
        await self._run(lambda: self._commit(messages))

    async def close(self) -> None:
        """Leave the group at once. The next poll joins it again."""
        await self._run(self._close)

    async def _run(self, call: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, call)

    # -- in the thread

    def _open(self) -> Consumer:
        if self._consumer is None:
            self._consumer = Consumer(self._config)
            self._consumer.subscribe(self._topics, on_assign=self._assign, on_revoke=self._revoke, on_lost=self._revoke)
        return self._consumer

    def _assign(self, consumer: Consumer, assigned: list[TopicPartition]) -> None:
        self._assignments += 1
        try:
            starts = consumer.committed(assigned, timeout=COMMITTED_SECONDS)
            for each in starts:
                each.offset = self._start(consumer, each)
            consumer.assign(starts)
        except Exception as error:  # an exception of a callback would vanish in librdkafka
            self._failure = error

    def _start(self, consumer: Consumer, committed: TopicPartition) -> int:
        """Return the offset at which a partition begins: the group's, or the first one when the topic does not have the group's."""
        if committed.error:
            raise KafkaException(committed.error)
        if committed.offset < 0:
            return OFFSET_BEGINNING
        at = TopicPartition(committed.topic, committed.partition)
        low, high = consumer.get_watermark_offsets(at, timeout=COMMITTED_SECONDS)
        if low <= committed.offset <= high:
            return committed.offset
        EVENTS_LOST.inc(max(low - committed.offset, 0))  # else the topic was created again
        _log.error(
            "topic.purged", topic=at.topic, partition=at.partition, due=committed.offset, first=low,
            remedy=self._remedy,
        )  # fmt: skip
        return int(low)

    def _revoke(self, consumer: Consumer, revoked: list[TopicPartition]) -> None:
        self._assignments += 1
        consumer.unassign()

    def _poll(self, limit: int, size: int, wait: float) -> list[RawMessage]:
        try:
            return self._take(self._open(), limit, size, wait)
        except BaseException:
            self._close()  # the position is behind messages that the caller did not get
            raise

    def _take(self, consumer: Consumer, limit: int, size: int, wait: float) -> list[RawMessage]:
        messages: list[RawMessage] = []
        with translated(", ".join(self._topics)):
            consumer.resume(consumer.assignment())
            found = [each] if (each := consumer.poll(wait)) is not None else []
            while found:
                messages += [raw for message in found if (raw := self._raw(message))]
                size -= sum(len(message.value() or b"") for message in found)
                if len(messages) >= limit or size <= 0:
                    break
                found = consumer.consume(min(STEP, limit - len(messages)), 0)
            self._raise_failure()
            if messages:
                consumer.pause(consumer.assignment())
        return messages

    def _raw(self, message: Message) -> RawMessage | None:
        topic, partition, offset = message.topic() or "", message.partition() or 0, message.offset() or 0
        error = message.error()
        if error is None:
            return RawMessage(topic, partition, offset, _bytes(message.key()), _bytes(message.value()))
        if error.code() in UNKNOWN_TOPIC:  # it may come later, and the other topics go on
            _log.warning("topic.missing", topic=topic, remedy="check the topic's name in SOURCES")
            return None
        raise domain_error(error, f"{topic}[{partition}] cannot be read")

    def _holds(self) -> bool:
        before, consumer = self._assignments, self._open()
        with translated(", ".join(self._topics)):
            message = consumer.poll(0)  # everything is paused: this only learns of a rebalance
        if message is not None and (error := message.error()) is not None and error.code() not in UNKNOWN_TOPIC:
            raise domain_error(error, "the membership of the consumer group")
        self._raise_failure()
        return self._assignments == before

    def _commit(self, messages: Sequence[RawMessage]) -> None:
        consumer = self._open()
        positions: dict[tuple[str, int], int] = {}
        for message in messages:
            positions[message.topic, message.partition] = message.offset + 1
        offsets = [TopicPartition(topic, partition, at) for (topic, partition), at in positions.items()]
        with translated("the positions of the consumer group"):
            for committed in consumer.commit(offsets=offsets, asynchronous=False) or []:
                if committed.error:
                    raise KafkaException(committed.error)

    def _raise_failure(self) -> None:
        failure, self._failure = self._failure, None
        if failure is not None:
            raise Unavailable(f"the group's positions are unknown ({type(failure).__name__}): check Kafka") from failure

    def _close(self) -> None:
        consumer, self._consumer = self._consumer, None
        if consumer is not None:
            consumer.close()


def _bytes(value: str | bytes | None) -> bytes | None:
    return value.encode() if isinstance(value, str) else value
