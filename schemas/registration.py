"""Registration: bring a cluster and a registry to the state of the table. Idempotent: a second run changes nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import (  # type: ignore[attr-defined]
    AdminClient,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    NewTopic,
    ResourceType,
)

from schemas import contracts
from schemas.compatibility import LEVEL
from schemas.registry import ConfluentRegistry
from schemas.topics import Topic

TIMEOUT = 30.0  # seconds for each answer of the cluster; it creates a topic in one
BROKERS_DEFAULT = -1


class CannotRegister(RuntimeError):
    """A cluster that does not answer, or that has topics which must not be changed."""


Report = Callable[[str], None]


def register_topics(
    admin: AdminClient, table: Iterable[Topic], report: Report, *, replication: int = BROKERS_DEFAULT
) -> None:
    """Create missing topics and correct settings that drifted, with one report per change.

    Raises CannotRegister, before any change, if a topic exists with another number of partitions: a new number would move
    keys to other partitions and so break the order of events.
    """
    topics = list(table)
    present = _partitions(admin)
    for topic in topics:
        if present.get(topic.name, topic.partitions) != topic.partitions:
            raise CannotRegister(
                f"{topic.name} has {present[topic.name]} partitions, not {topic.partitions} as in the table, and keys would move: "
                f"set KAFKA_PARTITIONS (--partitions) to {present[topic.name]}, or drain the topic and create it again"
            )
    _create(admin, [topic for topic in topics if topic.name not in present], replication, report)
    for topic in topics:
        if topic.name in present:  # a new topic has the right settings, which some brokers may not return yet
            _correct(admin, topic, report)


def register_schemas(registry: ConfluentRegistry, table: Iterable[Topic], report: Report) -> None:
    """Register every release in order, so that each registry has the same history. Raises the registry's errors."""
    for topic in table:
        registry.require_compatibility(topic.subject, LEVEL)
        for number, schema in contracts.released(topic.name).items():
            report(f"{topic.subject} release {number}: schema {registry.register(topic.subject, schema)}")


def _partitions(admin: AdminClient) -> dict[str, int]:
    try:
        return {name: len(topic.partitions) for name, topic in admin.list_topics(timeout=TIMEOUT).topics.items()}
    except KafkaException as error:
        raise CannotRegister(f"Kafka did not list its topics: {error}") from error


def _create(admin: AdminClient, missing: list[Topic], replication: int, report: Report) -> None:
    if not missing:
        return
    new = [
        NewTopic(topic.name, num_partitions=topic.partitions, replication_factor=replication, config=_desired(topic))
        for topic in missing
    ]
    for name, future in admin.create_topics(new, operation_timeout=TIMEOUT).items():
        try:
            future.result()
        except KafkaException as error:
            if error.args[0].code() != KafkaError.TOPIC_ALREADY_EXISTS:  # by a concurrent registration
                raise CannotRegister(f"{name} could not be created: {error}") from error
        report(f"{name}: created")


def _correct(admin: AdminClient, topic: Topic, report: Report) -> None:
    resource = ConfigResource(ResourceType.TOPIC, topic.name)
    actual: Mapping[str, Any] = _result(admin.describe_configs([resource]), topic.name)
    drifted = {name: value for name, value in _desired(topic).items() if actual[name].value != value}
    if not drifted:
        report(f"{topic.name}: as in the table")
        return
    change = ConfigResource(
        ResourceType.TOPIC,
        topic.name,
        incremental_configs=[
            ConfigEntry(name, value, incremental_operation=AlterConfigOpType.SET) for name, value in drifted.items()
        ],
    )
    _result(admin.incremental_alter_configs([change]), topic.name)
    for name, value in drifted.items():
        report(f"{topic.name}: {name} was {actual[name].value}, now {value}")


def _result(futures: Mapping[ConfigResource, Any], topic: str) -> Any:
    try:
        return next(iter(futures.values())).result(TIMEOUT)
    except (KafkaException, TimeoutError) as error:
        raise CannotRegister(f"the settings of {topic} could not be read or changed: {error}") from error


def _desired(topic: Topic) -> dict[str, str]:
    return {name: setting.value for name, setting in topic.settings.items()}
