"""Reading ranges of one partition, outside of any consumer group."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final, cast

from confluent_kafka import Consumer, KafkaError, Message, TopicPartition

from rag.adapters.kafka.errors import asking, refusal
from rag.errors import LostEvents, Unavailable
from rag.ports import Record
from schemas.codec import Codec, Malformed, RegistryUnavailable

BATCH: Final = 500  # records taken from librdkafka at a time
WAIT: Final = 0.05  # seconds that it may gather them
SILENCE: Final = 1.0  # seconds after which it is asked whether there is such a partition

READER: Final[Mapping[str, Any]] = {
    "group.id": "tidemark-reader",  # librdkafka wants one; it assigns and never commits, so the group never exists
    "auto.offset.reset": "error",
    "enable.partition.eof": True,
    "enable.auto.commit": False,
    "enable.auto.offset.store": False,
    "fetch.wait.max.ms": 50,  # that a partition ends in a hole is known only when a fetch came back empty
    "queued.max.messages.kbytes": 16 * 1024,
}


class Reader:
    """Blocking; may be called by several threads at once."""

    def __init__(self, client: Mapping[str, Any], codec: Codec, timeout: float) -> None:
        self._config = {**READER, **client}
        self._codec = codec
        self._timeout = timeout
        self._lock = threading.Lock()
        self._idle: list[Consumer] = []

    def read(self, topic: str, partition: int, start: int, end: int, limit: int | None) -> list[Record]:
        """Ends at an offset >= `end` or at the end of the partition, whichever comes first: offsets have holes."""
        records: list[Record] = []
        if start >= end or limit == 0:
            return records
        with asking(f"{topic}[{partition}]"), self._consumer() as consumer:
            consumer.assign([TopicPartition(topic, partition, start)])
            position, heard, known = start, time.monotonic(), False
            while position < end and (limit is None or len(records) < limit):
                for message in consumer.consume(min(BATCH, end - position), WAIT):
                    heard = time.monotonic()
                    if error := message.error():
                        if error.code() == KafkaError._PARTITION_EOF:
                            return records[:limit]
                        raise self._failure(error, consumer, TopicPartition(topic, partition, position))
                    offset = cast(int, message.offset())
                    if offset < end:
                        records.append(self._record(topic, partition, offset, message))
                    position = offset + 1
                silence = time.monotonic() - heard
                if silence > SILENCE and not known:
                    known = self._require(consumer, topic, partition)
                if silence > self._timeout:
                    raise Unavailable(f"{topic}[{partition}] sent nothing at {position} for {self._timeout:g} s")
        return records[:limit]

    def close(self) -> None:
        with self._lock:
            idle, self._idle = self._idle, []
        for consumer in idle:
            consumer.close()

    def _record(self, topic: str, partition: int, offset: int, message: Message) -> Record:
        """A record that cannot be decoded says so and stops nothing; a registry that does not answer does."""
        key, value, error = "", None, ""
        try:
            key = (_bytes(message.key()) or b"").decode()
            value = self._codec.decode(topic, _bytes(message.value()))
        except UnicodeDecodeError:
            error = f"the key of a record of {topic} is not UTF-8"
        except Malformed as malformed:
            error = str(malformed)
        except RegistryUnavailable as unavailable:
            raise Unavailable(f"{topic} cannot be decoded: {unavailable}") from unavailable
        return Record(topic, partition, offset, key, value, _headers(message), error)

    def _require(self, consumer: Consumer, topic: str, partition: int) -> bool:
        """librdkafka waits for a topic that does not exist as if it might come."""
        found = consumer.list_topics(topic, timeout=self._timeout).topics[topic]
        if partition not in found.partitions:
            problem = KafkaError(KafkaError._UNKNOWN_PARTITION)
            raise refusal(found.error or problem, f"{topic}[{partition}] cannot be read")
        return True

    def _failure(self, error: KafkaError, consumer: Consumer, at: TopicPartition) -> Exception:
        where = f"{at.topic}[{at.partition}]"
        if error.code() != KafkaError._AUTO_OFFSET_RESET:
            return refusal(error, f"{where} cannot be read at offset {at.offset}")
        low, high = consumer.get_watermark_offsets(at, timeout=self._timeout)
        return LostEvents(
            f"{where} holds offsets {low} to {high} and {at.offset} is due: reconcile against the sources"
        )

    @contextmanager
    def _consumer(self) -> Iterator[Consumer]:
        """A consumer for one read at a time, kept for the next one: connecting takes longer than reading."""
        with self._lock:
            consumer = self._idle.pop() if self._idle else None
        consumer = consumer or Consumer(self._config)
        try:
            yield consumer
            consumer.unassign()
        except BaseException:
            consumer.close()
            raise
        with self._lock:
            self._idle.append(consumer)


def _headers(message: Message) -> dict[str, str]:
    pairs: Any = message.headers() or []
    return {name: value.decode(errors="replace") for name, value in pairs if value is not None}


def _bytes(value: str | bytes | None) -> bytes | None:
    return value.encode() if isinstance(value, str) else value
