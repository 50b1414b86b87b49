"""Bringing a cluster and a registry to what the table says. Idempotent: the second time changes nothing."""

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

SECONDS = 30.0  # for each answer of the cluster; it creates a topic in one
BROKERS_CHOICE = -1


class CannotRegister(RuntimeError):
    """The cluster does not answer, or holds what must not be changed."""


Tell = Callable[[str], None]


def register_topics(
    admin: AdminClient, table: Iterable[Topic], tell: Tell, *, replication: int = BROKERS_CHOICE
) -> None:
    """Create missing topics and correct settings that drifted. Raises CannotRegister, before changing anything, when a
    topic exists with another number of partitions: its keys would move, and with them the order of events."""
    topics = list(table)
    present = _partitions(admin)
    for topic in topics:
        if present.get(topic.name, topic.partitions) != topic.partitions:
            raise CannotRegister(
                f"{topic.name} has {present[topic.name]} partitions and the table says {topic.partitions}; keys would move: "
                f"set KAFKA_PARTITIONS (--partitions) to {present[topic.name]}, or drain the topic and create it anew"
            )
    _create(admin, [topic for topic in topics if topic.name not in present], replication, tell)
    for topic in topics:
        if topic.name in present:  # a new one is as it was created, and its settings may not be known everywhere yet
            _correct(admin, topic, tell)


def register_schemas(registry: ConfluentRegistry, table: Iterable[Topic], tell: Tell) -> None:
    """Every release in its order, so that each registry has the same history. Raises what the registry raises."""
    for topic in table:
        registry.require_compatibility(topic.subject, LEVEL)
        for number, schema in contracts.released(topic.name).items():
            tell(f"{topic.subject} release {number}: schema {registry.register(topic.subject, schema)}")


def _partitions(admin: AdminClient) -> dict[str, int]:
    try:
        return {name: len(found.partitions) for name, found in admin.list_topics(timeout=SECONDS).topics.items()}
    except KafkaException as error:
        raise CannotRegister(f"Kafka does not list its topics: {error}") from error


def _create(admin: AdminClient, missing: list[Topic], replication: int, tell: Tell) -> None:
    if not missing:
        return
    new = [
        NewTopic(topic.name, num_partitions=topic.partitions, replication_factor=replication, config=_wanted(topic))
        for topic in missing
    ]
    for name, future in admin.create_topics(new, operation_timeout=SECONDS).items():
        try:
            future.result()
        except KafkaException as error:
            if error.args[0].code() != KafkaError.TOPIC_ALREADY_EXISTS:  # somebody else registers at the same time
                raise CannotRegister(f"{name} could not be created: {error}") from error
        tell(f"{name}: created")


def _correct(admin: AdminClient, topic: Topic, tell: Tell) -> None:
    resource = ConfigResource(ResourceType.TOPIC, topic.name)
    actual: Mapping[str, Any] = _only(admin.describe_configs([resource]), topic.name)
    drifted = {name: value for name, value in _wanted(topic).items() if actual[name].value != value}
    if not drifted:
        tell(f"{topic.name}: as the table says")
        return
    change = ConfigResource(
        ResourceType.TOPIC,
        topic.name,
        incremental_configs=[
            ConfigEntry(name, value, incremental_operation=AlterConfigOpType.SET) for name, value in drifted.items()
        ],
    )
    _only(admin.incremental_alter_configs([change]), topic.name)
    for name, value in drifted.items():
        tell(f"{topic.name}: {name} was {actual[name].value}, now {value}")


def _only(futures: Mapping[ConfigResource, Any], topic: str) -> Any:
    try:
        return next(iter(futures.values())).result(SECONDS)
    except (KafkaException, TimeoutError) as error:
        raise CannotRegister(f"the settings of {topic} could not be read or changed: {error}") from error


def _wanted(topic: Topic) -> dict[str, str]:
    return {name: setting.value for name, setting in topic.settings.items()}
