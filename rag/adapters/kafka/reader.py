"""Reader of offset ranges of one partition, outside of any consumer group."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final, cast

from confluent_kafka import Consumer, KafkaError, Message, TopicPartition

from rag.adapters.kafka.errors import domain_error, translated
from rag.errors import LostEvents, Unavailable
from rag.ports import Record
from schemas.codec import Codec, Malformed, RegistryUnavailable

BATCH: Final = 500  # records taken from librdkafka at a time
WAIT: Final = 0.05  # seconds that librdkafka may spend gathering them
SILENCE: Final = 1.0  # seconds without a record, after which the reader checks that the partition exists

READER: Final[Mapping[str, Any]] = {
    "group.id": "tidemark-reader",  # librdkafka requires one; the reader assigns and never commits, so the group never exists
    "auto.offset.reset": "error",
    "enable.partition.eof": True,
    "enable.auto.commit": False,
    "enable.auto.offset.store": False,
    "fetch.wait.max.ms": 50,  # only an empty fetch shows that a partition ends in a hole
    "queued.max.messages.kbytes": 16 * 1024,
}


class Reader:
    """Reader over idle consumers. Its methods block, and several threads may call them at once."""

    def __init__(self, client: Mapping[str, Any], codec: Codec, timeout: float) -> None:
        self._config = {**READER, **client}
        self._codec = codec
        self._timeout = timeout
        self._lock = threading.Lock()
        self._idle: list[Consumer] = []

    def read(self, topic: str, partition: int, start: int, end: int, limit: int | None) -> list[Record]:
        """Read up to an offset >= `end` or the end of the partition, whichever comes first, because offsets have holes."""
        records: list[Record] = []
        if start >= end or limit == 0:
            return records
        with translated(f"{topic}[{partition}]"), self._consumer() as consumer:
            consumer.assign([TopicPartition(topic, partition, start)])
            position, last_message, exists = start, time.monotonic(), False
            while position < end and (limit is None or len(records) < limit):
                for message in consumer.consume(min(BATCH, end - position), WAIT):
                    last_message = time.monotonic()
                    if error := message.error():
                        if error.code() == KafkaError._PARTITION_EOF:
                            _require_end(topic, partition, cast(int, message.offset()), end)
                            return records[:limit]
                        raise self._failure(error, consumer, TopicPartition(topic, partition, position))
                    offset = cast(int, message.offset())
                    if offset < end:
                        records.append(self.decode(topic, partition, offset, message))
                    position = offset + 1
                silence = time.monotonic() - last_message
                if silence > SILENCE and not exists:
                    exists = self._require(consumer, topic, partition)
                if silence > self._timeout:
                    raise Unavailable(
                        f"{topic}[{partition}] sent nothing at offset {position} for {self._timeout:g} s: check the broker"
                    )
        return records[:limit]

    def close(self) -> None:
        with self._lock:
            idle, self._idle = self._idle, []
        for consumer in idle:
            consumer.close()

    def decode(self, topic: str, partition: int, offset: int, message: Message) -> Record:
        """Decode a record. An undecodable record carries its error and does not stop the read; an unreachable registry does."""
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
        size = len(message.key() or b"") + len(message.value() or b"")
        return Record(topic, partition, offset, key, value, _headers(message), error, size)

    def _require(self, consumer: Consumer, topic: str, partition: int) -> bool:
        """Return True, or raise Unavailable when the partition does not exist. librdkafka would wait for it to appear."""
        metadata = consumer.list_topics(topic, timeout=self._timeout).topics[topic]
        if partition not in metadata.partitions:
            problem = KafkaError(KafkaError._UNKNOWN_PARTITION)
            raise domain_error(metadata.error or problem, f"{topic}[{partition}] cannot be read")
        return True

    def _failure(self, error: KafkaError, consumer: Consumer, at: TopicPartition) -> Exception:
        where = f"{at.topic}[{at.partition}]"
        if error.code() != KafkaError._AUTO_OFFSET_RESET:
            return domain_error(error, f"{where} cannot be read at offset {at.offset}")
        low, high = consumer.get_watermark_offsets(at, timeout=self._timeout)
        return LostEvents(
            f"{where} holds offsets {low} to {high} and {at.offset} is due: reconcile against the sources"
        )

    @contextmanager
    def _consumer(self) -> Iterator[Consumer]:
        """Yield a consumer for one read, and keep it for the next, because connecting takes longer than reading."""
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


def _require_end(topic: str, partition: int, log_end: int, end: int) -> None:
    """Refuse an early end. A broker that restarts, or a replica that lags, may report one, and it is not the end of the range."""
    if log_end < end:
        raise Unavailable(f"{topic}[{partition}] ends at offset {log_end}, before the promised {end}: read it again")


def _headers(message: Message) -> dict[str, str]:
    pairs: Any = message.headers() or []
    return {name: value.decode(errors="replace") for name, value in pairs if value is not None}


def _bytes(value: str | bytes | None) -> bytes | None:
    return value.encode() if isinstance(value, str) else value
