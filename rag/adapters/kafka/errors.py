"""What Kafka's errors mean to a caller."""

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


def refusal(error: KafkaError, what: str) -> Unavailable | Rejected:
    """`what` went wrong, as the error that tells the caller what to do."""
    if error.code() in TOO_LARGE:
        return Rejected(f"{what}: larger than the broker takes", reason="too_large")
    remedy = " (run `python -m schemas register`)" if error.code() in UNKNOWN_TOPIC else ""
    return Unavailable(f"{what}: {error.str()}{remedy}")


@contextmanager
def asking(what: str) -> Iterator[None]:
    """Kafka's exceptions inside become Unavailable."""
    try:
        yield
    except KafkaException as error:
        raise refusal(error.args[0], f"Kafka failed for {what}") from error
    except TimeoutError as error:
        raise Unavailable(f"Kafka did not answer in time for {what}") from error
