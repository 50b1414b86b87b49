"""Publisher of events: it enqueues all of them and returns when each is acknowledged."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping, Sequence
from typing import Any, Final

from confluent_kafka import KafkaError, KafkaException, Message, Producer

from rag.adapters.kafka.errors import domain_error
from rag.errors import Unavailable
from schemas.codec import Codec, RegistryUnavailable, UnknownSchema

POLL: Final = 0.05  # seconds; a poll returns as soon as there is an acknowledgement

PRODUCER: Final[Mapping[str, Any]] = {
    "partitioner": "murmur2_random",  # Java's; librdkafka's own default would put keys on other partitions
    "enable.idempotence": True,
    "acks": "all",
}


class Publisher:
    """Publisher over one producer. Its methods block, and several threads may call them at once."""

    def __init__(self, client: Mapping[str, Any], codec: Codec, timeout: float) -> None:
        self._config = {**PRODUCER, "delivery.timeout.ms": int(timeout * 1000), **client}
        self._codec = codec
        self._timeout = timeout
        self._lock = threading.Lock()
        self._producer: Producer | None = None

    def publish(self, topic: str, events: Sequence[tuple[str, Any]], headers: Mapping[str, str]) -> None:
        """Publish the events. All of them are encoded before the first is sent, so a ValueError means that none was sent."""
        encoded = [(key.encode(), self._encode(topic, key, value)) for key, value in events]
        encoded_headers: list[tuple[str, str | bytes | None]] = [
            (name, text.encode()) for name, text in headers.items()
        ]
        producer = self._live_producer()
        outcomes: list[KafkaError | None] = []

        def acknowledge(error: KafkaError | None, _: Message) -> None:
            outcomes.append(error)

        try:
            for key, value in encoded:
                self._enqueue(producer, topic, key=key, value=value, headers=encoded_headers, on_delivery=acknowledge)
            while len(outcomes) < len(encoded):  # each is delivered or given up within delivery.timeout.ms
                producer.poll(POLL)
            failed = [error for error in outcomes if error is not None]
            if failed:
                raise KafkaException(failed[0])
        except KafkaException as error:
            if error.args[0].fatal():
                self._drop(producer)
            raise domain_error(error.args[0], f"{len(events)} events could not all be published to {topic}") from error

    def close(self) -> None:
        producer, self._producer = self._producer, None
        if producer is not None:
            producer.flush(self._timeout)

    def _encode(self, topic: str, key: str, value: Any) -> bytes | None:
        if value is None:
            return None
        try:
            data = self._codec.encode(topic, value)
        except (RegistryUnavailable, UnknownSchema) as error:
            raise Unavailable(f"nothing can be published to {topic}: {error}") from error
        if key.encode() != self._codec.key(topic, value):
            raise ValueError(f"an event of {topic} was given another key than the one in its value")
        return data

    def _enqueue(self, producer: Producer, topic: str, **message: Any) -> None:
        """Enqueue, waiting for room when the queue is full."""
        deadline = time.monotonic() + self._timeout
        while True:
            try:
                return producer.produce(topic, **message)
            except BufferError as error:
                if time.monotonic() > deadline:
                    raise Unavailable(
                        f"the queue to Kafka stays full, so {topic} takes no events: check the broker"
                    ) from error
                producer.poll(POLL)

    def _live_producer(self) -> Producer:
        with self._lock:
            if self._producer is None:
                self._producer = Producer(self._config)
            return self._producer

    def _drop(self, broken: Producer) -> None:
        """Forget a producer, because after a fatal error an idempotent producer never works again."""
        with self._lock:
            if self._producer is broken:
                self._producer = None
