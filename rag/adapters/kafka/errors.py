"""Translation of Kafka's errors into those of the domain."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from confluent_kafka import KafkaError, KafkaException

from rag.errors import Rejected, Unavailable

UNKNOWN_TOPIC: Final = frozenset(
    {KafkaError.UNKNOWN_TOPIC_OR_PART, KafkaError._UNKNOWN_TOPIC, KafkaError._UNKNOWN_PARTITION}
)
TOO_LARGE: Final = frozenset({KafkaError.MSG_SIZE_TOO_LARGE, KafkaError.RECORD_LIST_TOO_LARGE})


def domain_error(error: KafkaError, problem: str) -> Unavailable | Rejected:
    """Return the domain's error for a `problem` on Kafka: Rejected for a message that is too large, else Unavailable."""
    if error.code() in TOO_LARGE:
        return Rejected(f"{problem}: larger than the broker accepts", reason="too_large")
    remedy = " (run `python -m schemas register`)" if error.code() in UNKNOWN_TOPIC else ""
    return Unavailable(f"{problem}: {error.str()}{remedy}")


@contextmanager
def translated(subject: str) -> Iterator[None]:
    """Translate Kafka's exceptions in the block. Their message names `subject`."""
    try:
        yield
    except KafkaException as error:
        raise domain_error(error.args[0], f"Kafka failed for {subject}") from error
    except TimeoutError as error:
        raise Unavailable(f"Kafka did not answer in time for {subject}") from error
