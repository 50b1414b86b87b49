"""Administration of Kafka: the state of topics and groups, and the mirrored positions."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from concurrent.futures import Future
from typing import Any, Final

from confluent_kafka import (
    ConsumerGroupTopicPartitions,
    IsolationLevel,
    KafkaError,
    KafkaException,
    TopicCollection,
    TopicPartition,
)
from confluent_kafka.admin import AdminClient, OffsetSpec  # type: ignore[attr-defined]

from rag.adapters.kafka.errors import domain_error, translated
from rag.ports import TopicState
from rag.telemetry import logger

HANDED_OVER: Final = frozenset(
    {
        KafkaError.UNKNOWN_MEMBER_ID,  # a classic group and a consumer group answer these while they have members
        KafkaError.REBALANCE_IN_PROGRESS,
        KafkaError.ILLEGAL_GENERATION,
        KafkaError.NON_EMPTY_GROUP,
        KafkaError.STALE_MEMBER_EPOCH,
    }
)

_log = logger(__name__)


class Administration:
    """Administration client. Its methods block, and several threads may call them at once."""

    def __init__(self, client: Mapping[str, Any], timeout: float) -> None:
        self._config = dict(client)
        self._timeout = timeout
        self._lock = threading.Lock()
        self._client: AdminClient | None = None

    def describe(self, topic: str) -> TopicState:
        with translated(f"the state of {topic}"):
            admin = self._admin()
            clusters = admin.describe_cluster(request_timeout=self._timeout)
            topics = admin.describe_topics(TopicCollection([topic]), request_timeout=self._timeout)
            cluster, description = self._wait(clusters), self._wait(topics[topic])
            partitions = sorted(partition.id for partition in description.partitions)
            earliest: Any = OffsetSpec.earliest()  # type: ignore[no-untyped-call]
            latest: Any = OffsetSpec.latest()  # type: ignore[no-untyped-call]
            low, end = self._offsets(topic, partitions, earliest), self._offsets(topic, partitions, latest)
        epoch = f"{cluster.cluster_id}:{description.topic_id}:{len(partitions)}"
        return TopicState(topic, epoch, {number: (low[number], end[number]) for number in partitions})

    def mirror(self, group: str, topic: str, positions: Mapping[int, int]) -> bool:
        offsets = [TopicPartition(topic, partition, offset) for partition, offset in sorted(positions.items())]
        if not offsets:
            return True
        with translated(f"the positions of group {group}"):
            request = [ConsumerGroupTopicPartitions(group, offsets)]
            future = self._admin().alter_consumer_group_offsets(request, request_timeout=self._timeout)[group]
            try:
                errors = [answer.error for answer in self._wait(future).topic_partitions if answer.error]
            except KafkaException as error:
                errors = [error.args[0]]
        if not errors:
            return True
        if all(error.code() in HANDED_OVER for error in errors):
            _log.info("positions.handed_over", group=group, topic=topic)
            return False
        raise domain_error(errors[0], f"the positions of group {group} in {topic} could not be mirrored")

    def members(self, group: str) -> int:
        """Return the number of members, 0 for a group that never existed."""
        with translated(f"the members of group {group}"):
            future = self._admin().describe_consumer_groups([group], request_timeout=self._timeout)[group]
            try:
                return len(self._wait(future).members)
            except KafkaException as error:
                if error.args[0].code() == KafkaError.GROUP_ID_NOT_FOUND:
                    return 0
                raise

    def _offsets(self, topic: str, partitions: list[int], spec: Any) -> dict[int, int]:
        request = {TopicPartition(topic, partition): spec for partition in partitions}
        # The end must be the one up to which readers receive records, without the open transactions of other clients.
        isolation: Any = IsolationLevel.READ_COMMITTED
        answers = self._admin().list_offsets(request, isolation_level=isolation, request_timeout=self._timeout)
        return {at.partition: self._wait(future).offset for at, future in answers.items()}

    def _admin(self) -> AdminClient:
        with self._lock:
            if self._client is None:
                self._client = AdminClient(self._config)
            return self._client

    def _wait(self, future: Future[Any]) -> Any:
        return future.result(self._timeout + 1)  # librdkafka's own timeout expires first, and its error has more detail
