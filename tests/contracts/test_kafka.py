"""Behaviour of Kafka and the registry alone: other clients, dead servers, registration."""

from __future__ import annotations

import asyncio
import io
import json
import socket
import struct
import time
import uuid
from collections.abc import AsyncIterator, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import fastavro
import httpx
import pytest
from confluent_kafka import Consumer, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, AlterConfigOpType, ConfigEntry, ConfigResource, ResourceType  # type: ignore[attr-defined]
from confluent_kafka.schema_registry import SchemaRegistryClient
from confluent_kafka.schema_registry.avro import AvroDeserializer, AvroSerializer
from confluent_kafka.serialization import MessageField, SerializationContext

from rag.adapters.kafka import KafkaEventLog
from rag.errors import Rejected, Unavailable
from schemas import __main__ as command
from schemas import contracts
from schemas.codec import Codec
from schemas.events import ChangeKind, DocumentChanged
from schemas.registration import CannotRegister, register_schemas, register_topics
from schemas.registry import ConfluentRegistry, IncompatibleSchema, MemoryRegistry
from schemas.topics import TOPICS, topics

CHANGED = "documents.changed.v1"
NOW = datetime(2026, 11, 20, 12, 30, 15, 123000, tzinfo=UTC)
SECONDS = 30.0

pytestmark = pytest.mark.live


@pytest.fixture
async def log(event_servers: Mapping[str, str]) -> AsyncIterator[KafkaEventLog]:
    async with KafkaEventLog.open(event_servers["KAFKA_BOOTSTRAP"], event_servers["SCHEMA_REGISTRY_URL"]) as log:
        yield log


@pytest.fixture
def admin(event_servers: Mapping[str, str]) -> AdminClient:
    return AdminClient({"bootstrap.servers": event_servers["KAFKA_BOOTSTRAP"], "log_level": 2})


def an_event() -> DocumentChanged:
    return DocumentChanged(
        document_id=str(uuid.uuid4()), tenant="acme", source="s3", uri="s3://docs/a.md", version="7", origin="poll",
        occurred_at=NOW, announced_at=NOW,
    )  # fmt: skip


def closed_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


async def find(log: KafkaEventLog, key: str) -> Any:
    for partition, bounds in (await log.describe(CHANGED)).bounds.items():
        for record in await log.read(CHANGED, partition, *bounds):
            if record.key == key:
                return record
    return None


def raw(bootstrap: str, partition: int, offset: int) -> Any:
    consumer = Consumer({"bootstrap.servers": bootstrap, "group.id": "plain", "log_level": 2})
    consumer.assign([TopicPartition(CHANGED, partition, offset)])
    message = consumer.poll(SECONDS)
    consumer.close()
    assert message is not None
    return message


async def test_a_plain_confluent_client_reads_events_that_the_log_published(
    log: KafkaEventLog, event_servers: Mapping[str, str]
) -> None:
    event = an_event()
    await log.publish(CHANGED, [(event.document_id, event)], headers={"traceparent": "00-aa-bb-01"})
    record = await find(log, event.document_id)
    message = raw(event_servers["KAFKA_BOOTSTRAP"], record.partition, record.offset)
    registry = SchemaRegistryClient({"url": event_servers["SCHEMA_REGISTRY_URL"], "timeout": 10})
    read = AvroDeserializer(registry)(message.value(), SerializationContext(CHANGED, MessageField.VALUE))
    assert read["uri"] == event.uri
    assert read["occurred_at"] == NOW
    assert message.key() == event.document_id.encode()
    assert message.headers() == [("traceparent", b"00-aa-bb-01")]


async def test_the_wire_format_needs_nothing_but_the_registry_and_avro(
    log: KafkaEventLog, event_servers: Mapping[str, str]
) -> None:
    event = an_event()
    await log.publish(CHANGED, [(event.document_id, event)])
    record = await find(log, event.document_id)
    data = raw(event_servers["KAFKA_BOOTSTRAP"], record.partition, record.offset).value()
    magic, schema_id = struct.unpack(">bI", data[:5])
    written = SchemaRegistryClient({"url": event_servers["SCHEMA_REGISTRY_URL"], "timeout": 10}).get_schema(schema_id)
    assert magic == 0
    schema: Any = json.loads(written.schema_str)
    decoded: Any = fastavro.schemaless_reader(io.BytesIO(data[5:]), schema, schema)
    assert decoded["document_id"] == event.document_id


async def test_the_log_reads_events_that_a_plain_confluent_client_published(
    log: KafkaEventLog, event_servers: Mapping[str, str]
) -> None:
    event = replace(an_event(), kind=ChangeKind.DELETED)
    registry = SchemaRegistryClient({"url": event_servers["SCHEMA_REGISTRY_URL"], "timeout": 10})
    serializer = AvroSerializer(registry, json.dumps(contracts.current(CHANGED)), conf={"auto.register.schemas": False})
    values = {name: getattr(event, name) for name in DocumentChanged.__slots__}
    producer = Producer({"bootstrap.servers": event_servers["KAFKA_BOOTSTRAP"], "log_level": 2})
    value = serializer(values, SerializationContext(CHANGED, MessageField.VALUE))
    producer.produce(CHANGED, key=event.document_id, value=value)
    assert producer.flush(SECONDS) == 0
    assert (await find(log, event.document_id)).value == event


async def test_a_transactions_marker_at_the_end_keeps_no_reader_waiting(
    log: KafkaEventLog, event_servers: Mapping[str, str]
) -> None:
    producer = Producer(
        {"bootstrap.servers": event_servers["KAFKA_BOOTSTRAP"], "transactional.id": str(uuid.uuid4()), "log_level": 2}
    )
    producer.init_transactions(SECONDS)
    producer.begin_transaction()
    start = (await log.describe(CHANGED)).bounds[0][1]
    producer.produce(CHANGED, key="marked", value=None, partition=0)
    assert producer.flush(SECONDS) == 0
    assert (await log.describe(CHANGED)).bounds[0][1] == start  # an open transaction is not there yet
    producer.commit_transaction(SECONDS)
    end = start
    while end == start:  # the marker is written after the commit returned
        end = (await log.describe(CHANGED)).bounds[0][1]
    assert end == start + 2
    assert [(record.key, record.offset) for record in await log.read(CHANGED, 0, start, end)] == [("marked", start)]
    assert await log.read(CHANGED, 0, start + 1, end) == []


async def test_an_event_larger_than_the_broker_takes_is_rejected(log: KafkaEventLog) -> None:
    event = replace(an_event(), uri="s3://docs/" + "x" * 2_000_000)
    with pytest.raises(Rejected, match=CHANGED) as caught:
        await log.publish(CHANGED, [(event.document_id, event)])
    assert caught.value.reason == "too_large"
    small = an_event()
    await log.publish(CHANGED, [(small.document_id, small)])


async def test_a_dead_broker_is_unavailable_by_the_topics_name_and_blocks_no_loop() -> None:
    log = KafkaEventLog(f"127.0.0.1:{closed_port()}", Codec(MemoryRegistry()), timeout=1.0)
    event = an_event()
    longest, last = 0.0, time.monotonic()

    async def tick() -> None:
        nonlocal longest, last
        while True:
            await asyncio.sleep(0.01)
            longest, last = max(longest, time.monotonic() - last), time.monotonic()

    ticker = asyncio.create_task(tick())
    calls = [
        log.publish(CHANGED, [(event.document_id, event)]),
        log.read(CHANGED, 0, 0, 1),
        log.describe(CHANGED),
        log.mirror("group", CHANGED, {0: 1}),
        log.members("group"),
    ]
    outcomes = await asyncio.gather(*calls, return_exceptions=True)
    ticker.cancel()
    assert [type(outcome) for outcome in outcomes] == [Unavailable] * 5
    assert all(CHANGED in str(outcome) for outcome in outcomes[:3])
    assert longest < 0.5
    await log.close()


async def test_a_dead_registry_is_unavailable_and_turns_no_record_into_poison(
    log: KafkaEventLog, event_servers: Mapping[str, str]
) -> None:
    event = an_event()
    await log.publish(CHANGED, [(event.document_id, event)])
    record = await find(log, event.document_id)
    dead = f"http://127.0.0.1:{closed_port()}"
    async with KafkaEventLog.open(event_servers["KAFKA_BOOTSTRAP"], dead, registry_options={"max.retries": 0}) as blind:
        with pytest.raises(Unavailable, match="registry"):
            await blind.read(CHANGED, record.partition, record.offset, record.offset + 1)
        with pytest.raises(Unavailable, match=CHANGED):
            await blind.publish(CHANGED, [(event.document_id, event)])


def test_the_registry_answers_for_a_path_that_it_does_not_know(event_servers: Mapping[str, str]) -> None:
    """Confluent's deserializer first requests one. By default, the registry leaves four of these without an answer."""
    unanswered = 0
    with httpx.Client(base_url=event_servers["SCHEMA_REGISTRY_URL"], timeout=2) as client:
        for _ in range(600):
            try:
                assert client.get(f"/associations/resources/-/{CHANGED}").status_code == 404
            except httpx.TimeoutException:
                unanswered += 1
    assert unanswered <= 1


async def test_client_options_reach_kafka(event_servers: Mapping[str, str]) -> None:
    bootstrap, registry = event_servers["KAFKA_BOOTSTRAP"], event_servers["SCHEMA_REGISTRY_URL"]
    async with KafkaEventLog.open(bootstrap, registry, options={"security.protocol": "SSL"}) as encrypted:
        with pytest.raises(Unavailable):  # the broker speaks no TLS
            await encrypted.describe(CHANGED)


async def test_an_unregistered_schema_is_unavailable_with_a_remedy(event_servers: Mapping[str, str]) -> None:
    row = replace(TOPICS[CHANGED], name=f"unregistered.{uuid.uuid4().hex}")
    async with KafkaEventLog.open(
        event_servers["KAFKA_BOOTSTRAP"], event_servers["SCHEMA_REGISTRY_URL"], table={row.name: row}
    ) as log:
        event = an_event()
        with pytest.raises(Unavailable, match="python -m schemas register"):
            await log.publish(row.name, [(event.document_id, event)])


# -- registration -------------------------------------------------------------------------------------------------------


def test_registering_again_changes_nothing(
    event_servers: Mapping[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    env_file = tmp_path / "env"
    env_file.write_text("# a comment\n\n" + "".join(f"{name}={value}\n" for name, value in event_servers.items()))
    assert command.main(["register", "--env-file", str(env_file)]) == 0
    first = capsys.readouterr().out
    assert command.main(["register", "--env-file", str(env_file)]) == 0
    assert capsys.readouterr().out == first
    assert all(f"{name}: as in the table" in first for name in TOPICS)


def test_the_settings_of_the_table_are_those_of_the_topics(admin: AdminClient) -> None:
    for topic in TOPICS.values():
        resource = ConfigResource(ResourceType.TOPIC, topic.name)
        actual = admin.describe_configs([resource])[resource].result(SECONDS)
        assert {name: actual[name].value for name in topic.settings} == {n: s.value for n, s in topic.settings.items()}
        assert len(admin.list_topics(timeout=SECONDS).topics[topic.name].partitions) == topic.partitions


def test_a_setting_that_drifted_is_corrected_and_reported(admin: AdminClient) -> None:
    entry = ConfigEntry("retention.ms", "5000", incremental_operation=AlterConfigOpType.SET)
    change = ConfigResource(ResourceType.TOPIC, "documents.dead.v1", incremental_configs=[entry])
    admin.incremental_alter_configs([change])[change].result(SECONDS)
    reported: list[str] = []
    register_topics(admin, [TOPICS["documents.dead.v1"]], reported.append)
    assert reported == ["documents.dead.v1: retention.ms was 5000, now 2592000000"]
    reported.clear()
    register_topics(admin, [TOPICS["documents.dead.v1"]], reported.append)
    assert reported == ["documents.dead.v1: as in the table"]


def test_another_number_of_partitions_is_refused_before_anything_is_done(admin: AdminClient) -> None:
    new = replace(TOPICS["documents.dead.v1"], name=f"new.{uuid.uuid4().hex}")
    with pytest.raises(CannotRegister, match=r"documents\.changed\.v1 has 8 partitions, not 12 as in the table"):
        register_topics(admin, [new, *topics(12).values()], lambda _: None)
    assert new.name not in admin.list_topics(timeout=SECONDS).topics


def test_the_registry_itself_refuses_a_schema_that_breaks_readers(event_servers: Mapping[str, str]) -> None:
    registry = ConfluentRegistry(event_servers["SCHEMA_REGISTRY_URL"])
    register_schemas(registry, TOPICS.values(), lambda _: None)
    broken = json.loads(json.dumps(contracts.current(CHANGED)))
    broken["fields"].append({"name": "size", "type": "long"})
    with pytest.raises(IncompatibleSchema, match=CHANGED):
        registry.register(TOPICS[CHANGED].subject, broken)
    assert registry.client.get_compatibility(TOPICS[CHANGED].subject) == "BACKWARD_TRANSITIVE"


def test_an_absent_cluster_or_registry_is_reported_in_a_line(
    event_servers: Mapping[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    hasty = tmp_path / "client.properties"
    hasty.write_text("schema.registry.max.retries=0\n")
    away = f"http://127.0.0.1:{closed_port()}"
    arguments = ["--bootstrap", event_servers["KAFKA_BOOTSTRAP"], "--registry", away, "--client-config", str(hasty)]
    assert command.main(["register", *arguments]) == 1
    assert f"the schema registry at {away} does not answer" in capsys.readouterr().err
