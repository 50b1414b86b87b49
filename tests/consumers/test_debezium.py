"""Change events of Debezium. Those in ``debezium/`` were recorded from Debezium 3.3.1 with Kafka Connect 4.1.1 and PostgreSQL 18."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import struct
import time
import uuid
from collections.abc import AsyncIterator, Mapping, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import fastavro
import pytest
from confluent_kafka import Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic  # type: ignore[attr-defined]

from consumers.debezium import DebeziumOptions, DebeziumStream, RowEvent, read_event, table_topics
from consumers.runner import step
from rag.adapters.kafka import CLIENT
from rag.adapters.kafka.topics import GroupReader, RawMessage
from rag.adapters.memory.events import MemoryEventLog
from rag.adapters.memory.ledger import MemoryLedger
from rag.adapters.memory.objects import MemoryObjects
from rag.errors import Rejected, Unavailable
from rag.ids import Ids
from rag.sources import Source
from rag.tables import Table
from schemas.codec import RegistryUnavailable
from schemas.datums import DatumDecoder
from schemas.registry import ConfluentRegistry, MemoryRegistry

RECORDED = Path(__file__).with_name("debezium")
IDS = Ids(b"0123456789abcdef")
SOURCE = Source("crm", "acme", "s3://internal/crm", ("group:staff",))
NOTES = Table("dbz.notes", "ID", "AT")
TOPIC = "crm.dbz.notes"
PATIENCE = 30.0
_offsets = iter(range(1_000_000))


def recorded(name: str) -> list[RawMessage]:
    lines = [json.loads(line) for line in (RECORDED / name).read_text().splitlines()]
    return [raw(line["key"], line["value"]) for line in lines]


def raw(key: Any, value: Any, topic: str = TOPIC) -> RawMessage:
    return RawMessage(topic, 0, next(_offsets), _data(key), _data(value))


def _data(value: Any) -> bytes | None:
    if value is None or isinstance(value, bytes):
        return value
    return value.encode() if isinstance(value, str) else json.dumps(value).encode()


def change(operation: str, before: Any = None, after: Any = None, **key: Any) -> RawMessage:
    envelope = {"op": operation, "before": before, "after": after, "source": {"ts_ms": 1}, "ts_ms": 2}
    return raw(key or None, envelope)


class Messages:
    """A reader of the given messages. ``committed`` has those that are done."""

    def __init__(self, *messages: RawMessage) -> None:
        self.waiting = list(messages)
        self.committed: list[RawMessage] = []
        self.is_held = True
        self.polls = 0

    async def poll(self, limit: int, size: int, wait: float) -> list[RawMessage]:
        self.polls += 1
        return self.waiting[:limit]

    async def holds(self) -> bool:
        return self.is_held

    async def commit(self, messages: Sequence[RawMessage]) -> None:
        self.committed += messages
        self.waiting = self.waiting[len(messages) :]

    async def close(self) -> None:
        return None


class World:
    def __init__(self) -> None:
        self.objects = MemoryObjects("s3://internal")
        self.ledger = MemoryLedger()
        self.log = MemoryEventLog()
        self.registry = MemoryRegistry()

    def stream(self, reader: Any, topics: Mapping[str, Table] | None = None, registry: Any = None) -> DebeziumStream:
        decoder = DatumDecoder(registry or self.registry)
        return DebeziumStream(SOURCE, topics or {TOPIC: NOTES}, reader, decoder, self.objects, self.ledger)

    async def run(self, *messages: RawMessage, table: Table = NOTES) -> Messages:
        reader = Messages(*messages)
        stream = self.stream(reader, {TOPIC: table})
        while reader.waiting:
            await step(stream, IDS, self.log)
        return reader

    async def rows(self, name: str = "dbz.notes") -> dict[str, dict[str, Any]]:
        found = {}
        async for state in self.objects.list(f"s3://internal/crm/{name}/"):
            body = json.loads((await self.objects.get(state.uri)).content)
            found[body["key"]] = body["columns"]
        return found


@pytest.fixture
def world() -> World:
    return World()


# -- recorded events


async def test_recorded_events_end_as_the_rows_of_the_table(world: World) -> None:
    messages = recorded("plain.jsonl")  # r, u, c, a new key as d, tombstone and c, d, tombstone, t
    await world.run(*messages[:3])
    rows = await world.rows()
    assert {key: row["author"] for key, row in rows.items()} == {"1": "Ann", "2": "Bob"}
    assert (rows["1"]["note"], rows["1"]["extra"]) == ("ü", '{"x": [1]}')
    assert rows["1"]["big"].startswith("long long")  # which the update did not send
    await world.run(*messages[3:6])
    assert set(await world.rows()) == {"1", "3"}
    await world.run(*messages[6:])
    assert await world.rows() == {}


async def test_a_schema_gives_values_their_meaning(world: World) -> None:
    messages = recorded("with_schema.jsonl")
    await world.run(messages[0])
    assert (await world.rows())["1"] | {"big": ""} == {
        "id": 1, "author": "Ann", "note": "It leaks", "price": "12.50", "at": "2026-03-01T10:00:00.000000Z", "day": "2026-03-01",
        "ok": True, "tags": ["a", "b"], "extra": {"x": [1]}, "big": "", "n": "1.5", "u": "550e8400-e29b-41d4-a716-446655440000",
        "ts": "2026-03-01T12:00:00", "f": 0.1,
    }  # fmt: skip
    await world.run(messages[1])
    assert (await world.rows())["1"]["note"] == "ü"
    await world.run(*messages[2:])


# -- meanings of one message

DECODER = DatumDecoder(MemoryRegistry())


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        (change("d", {"id": 7, "note": None}), RowEvent("7")),
        (change("d", {"id": None}, ID=7), RowEvent("7")),
        (change("d", None, id=7), RowEvent("7")),
        (raw({"id": 7}, None), RowEvent("7")),
        (raw({"schema": {"fields": [{"type": "int32", "field": "id"}]}, "payload": {"id": 7}}, None), RowEvent("7")),
        (change("t"), RowEvent(is_truncate=True)),
        (change("m"), None),
    ],
)
def test_deletions_truncations_and_other_messages(message: RawMessage, expected: RowEvent | None) -> None:
    assert read_event(message, NOTES, DECODER) == expected


def test_an_update_of_a_mapped_key_that_is_not_the_primary_key_deletes_the_old_document() -> None:
    event = read_event(
        change("u", {"id": 1, "code": "a"}, {"id": 1, "code": "b"}), Table("dbz.notes", "code", "AT"), DECODER
    )
    assert (event.key, event.old) == ("b", "a")


def test_a_compound_key_and_all_columns_are_known() -> None:
    event = read_event(change("c", None, {"A": "x/y", "b": True, "c": None}), Table("t", ("a", "B"), "AT"), DECODER)
    assert (event.key, event.row.columns) == ("x~1y/true", ("A", "b", "c"))
    assert event.row.changed == datetime.fromtimestamp(0.001, UTC)


DEEP = "[" * 50_000
BAD = [
    (raw(None, b"\xff\xfe{"), "undecodable"),
    (raw(None, "not json"), "undecodable"),
    (raw(None, DEEP), "undecodable"),
    (raw(None, '{"op": "c", "after": {"id": 1, "n": ' + "9" * 5000 + "}}"), "undecodable"),
    (raw(None, b"\x00\x00\x00\x00\x07rest"), "undecodable"),
    (raw(None, "[]"), "unknown_envelope"),
    (raw(None, {"id": 1, "note": "flattened"}), "unknown_envelope"),
    (raw(None, {"op": "u", "after": None}), "unknown_envelope"),
    (raw(None, {"op": "u", "after": "text"}), "unknown_envelope"),
    (raw(None, {"op": ["c"], "after": {"id": 1}}), "unknown_envelope"),
    (raw(None, {"op": "c", "after": {"other": 1}}), "no_key"),
    (raw(None, {"op": "c", "after": {"id": {"a": 1}}}), "no_key"),
    (raw(None, {"op": "d", "before": {"id": None}}), "no_key"),
    (raw("text", None), "no_key"),
    (raw(None, '{"op": "c", "after": {"id": "\\ud800"}}'), "undecodable"),
    (raw(None, '{"op": "c", "after": {"id": 1, "x": NaN}}'), "undecodable"),
    (
        raw(None, {"schema": {"fields": [{"field": "after", "fields": [{"field": "d", "name": "io.debezium.time.Date"}]}]},
                   "payload": {"op": "c", "after": {"id": 1, "d": 10**12}}}),
        "undecodable",
    ),
    (
        raw(None, {"schema": {"fields": [{"field": "after", "fields": [{"field": "d", "name": "org.apache.kafka.connect.data.Decimal",
                   "type": "bytes", "parameters": {"scale": "x"}}]}]}, "payload": {"op": "c", "after": {"id": 1}}}),
        "undecodable",
    ),
    (raw(None, {"schema": "text", "payload": "text"}), "unknown_envelope"),
]  # fmt: skip


@pytest.mark.parametrize(("message", "reason"), BAD)
def test_a_bad_message_is_refused_with_a_reason(message: RawMessage, reason: str) -> None:
    with pytest.raises(Rejected) as caught:
        read_event(message, NOTES, DECODER)
    assert caught.value.reason == reason


async def test_bad_messages_stop_no_partition_and_harm_no_neighbour(world: World) -> None:
    good = [change("c", None, {"id": number}) for number in range(len(BAD) + 1)]
    mixed = [message for pair in zip(good, (bad for bad, _ in BAD), strict=False) for message in pair] + good[-1:]
    reader = await world.run(*mixed)
    assert reader.committed == mixed
    assert set(await world.rows()) == {str(number) for number in range(len(good))}


async def test_a_huge_decimal_is_not_printed_in_full(world: World) -> None:
    field = {"field": "d", "name": "io.debezium.data.VariableScaleDecimal", "type": "struct"}
    value = {"scale": -1_000_000_000, "value": base64.b64encode(b"\x01").decode()}
    envelope = {"op": "c", "after": {"id": 1, "d": value}}
    await world.run(raw(None, {"schema": {"fields": [{"field": "after", "fields": [field]}]}, "payload": envelope}))
    assert (await world.rows())["1"]["d"] == "1E+1000000000"


# -- values that were not sent


async def test_a_value_that_was_not_sent_comes_from_the_earlier_change_or_the_object(world: World) -> None:
    unsent = "__debezium_unavailable_value"
    first, second = {"id": 1, "a": "A", "b": "x"}, {"id": 1, "a": unsent, "b": "y"}
    await world.run(change("c", None, first), change("u", None, second))
    assert await world.rows() == {"1": {"id": 1, "a": "A", "b": "y"}}
    await world.run(change("u", {"id": 1}, {"id": 2, "a": unsent, "b": "z"}))
    assert await world.rows() == {"2": {"id": 2, "a": "A", "b": "z"}}


async def test_a_row_that_cannot_be_completed_is_withdrawn_because_its_access_may_have_changed(world: World) -> None:
    table = Table("dbz.notes", "id", "AT", text="{a}", principals=("team",))
    await world.run(change("c", None, {"id": 1, "a": "A", "team": "x"}), table=table)
    assert set(await world.rows()) == {"1"}
    await world.run(change("u", None, {"id": 1, "a": "A", "team": "__debezium_unavailable_value"}), table=table)
    assert await world.rows() == {}


async def test_a_value_that_no_document_needs_may_be_missing(world: World) -> None:
    table = Table("dbz.notes", "id", "AT", text="{a}")
    await world.run(change("u", None, {"id": 1, "a": "A", "blob": "__debezium_unavailable_value"}), table=table)
    assert await world.rows() == {"1": {"a": "A"}}


# -- progress


async def test_truncate_deletes_what_was_announced_and_what_came_just_before(world: World) -> None:
    await world.run(*(change("r", None, {"id": number}) for number in range(1200)))
    await world.run(change("c", None, {"id": 5000}), change("t"), change("c", None, {"id": 7}))
    assert await world.rows() == {"7": {"id": 7}}


async def test_a_repeated_message_is_not_announced_again(world: World) -> None:
    message = change("c", None, {"id": 1})
    await world.run(message)
    reader = Messages(message)
    assert await step(world.stream(reader), IDS, world.log) == 0
    assert reader.committed == [message]


@pytest.mark.parametrize("part", ["objects.put", "log.publish", "ledger.set_row_hashes"])
async def test_nothing_is_committed_while_a_part_is_down(
    world: World, part: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def refuse(*_: object, **__: object) -> None:
        raise Unavailable("down")

    reader = Messages(change("c", None, {"id": 1}))
    stream = world.stream(reader)
    name, method = part.split(".")
    with monkeypatch.context() as broken:
        broken.setattr(getattr(world, name), method, refuse)
        with pytest.raises(Unavailable, match="down"):
            await step(stream, IDS, world.log)
    assert reader.committed == []
    assert await step(stream, IDS, world.log) == 1
    assert (len(reader.committed), reader.polls) == (1, 1)


async def test_messages_of_a_partition_that_another_member_has_now_are_forgotten(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def refuse(*_: object, **__: object) -> None:
        raise Unavailable("down")

    reader = Messages(change("c", None, {"id": 1, "note": "old"}))
    stream = world.stream(reader)
    with monkeypatch.context() as broken:
        broken.setattr(world.log, "publish", refuse)
        with pytest.raises(Unavailable):
            await step(stream, IDS, world.log)
    reader.is_held, reader.waiting = False, [change("c", None, {"id": 2})]
    await step(stream, IDS, world.log)
    assert [json.loads(message.value)["after"]["id"] for message in reader.committed] == [2]


async def test_a_registry_that_is_down_stops_and_loses_nothing(world: World) -> None:
    class Down(MemoryRegistry):
        def schema_of(self, schema_id: int) -> Any:
            raise RegistryUnavailable("down")

    reader = Messages(raw(None, b"\x00\x00\x00\x00\x01x"))
    with pytest.raises(Unavailable, match="down"):
        await step(world.stream(reader, registry=Down()), IDS, world.log)
    assert reader.committed == []


# -- topics


def test_topics_follow_from_the_prefix_and_may_be_named() -> None:
    tables = [Table("dbz.notes", "id", "AT"), Table("dbz.cases", "id", "AT")]
    options = DebeziumOptions(topic_prefix="crm", topics={"dbz.cases": "cases.v1"})
    assert table_topics(options, tables) == {"crm.dbz.notes": tables[0], "cases.v1": tables[1]}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "no topic of its own"),
        ({"topics": {"dbz.notes": "a", "dbz.cases": "a"}}, "no topic of its own"),
        ({"topic_prefix": "crm", "topics": {"other": "a"}}, "does not map"),
    ],
)
def test_wrong_topics_are_refused(options: dict[str, Any], message: str) -> None:
    tables = [Table("dbz.notes", "id", "AT"), Table("dbz.cases", "id", "AT")]
    with pytest.raises(ValueError, match=message):
        table_topics(DebeziumOptions.model_validate(options), tables)


# -- Avro

ROW_SCHEMA = {
    "type": "record", "name": "Value", "namespace": "crm.dbz.notes", "fields": [
        {"name": "id", "type": "int"},
        {"name": "note", "type": ["null", "string"]},
        {"name": "day", "type": ["null", {"type": "int", "connect.name": "io.debezium.time.Date"}]},
        {"name": "ts", "type": ["null", {"type": "long", "connect.name": "io.debezium.time.MicroTimestamp"}]},
        {"name": "price", "type": ["null", {"type": "bytes", "scale": 2, "precision": 9, "logicalType": "decimal",
                                            "connect.name": "org.apache.kafka.connect.data.Decimal"}]},
        {"name": "extra", "type": ["null", {"type": "string", "connect.name": "io.debezium.data.Json"}]},
        {"name": "data", "type": ["null", "bytes"]},
        {"name": "n", "type": ["null", {"type": "record", "name": "VariableScaleDecimal", "namespace": "io.debezium.data",
                                        "connect.name": "io.debezium.data.VariableScaleDecimal",
                                        "fields": [{"name": "scale", "type": "int"}, {"name": "value", "type": "bytes"}]}]},
    ],
}  # fmt: skip
ENVELOPE = {
    "type": "record", "name": "Envelope", "namespace": "crm.dbz.notes", "connect.name": "crm.dbz.notes.Envelope", "fields": [
        {"name": "before", "type": ["null", ROW_SCHEMA]},
        {"name": "after", "type": ["null", "crm.dbz.notes.Value"]},
        {"name": "op", "type": "string"},
        {"name": "ts_ms", "type": ["null", "long"]},
    ],
}  # fmt: skip
KEY = {"type": "record", "name": "Key", "namespace": "crm.dbz.notes", "fields": [{"name": "id", "type": "int"}]}
AVRO_ROW = {
    "id": 1, "note": "ü", "day": 20513, "ts": 1772366400000000, "price": Decimal("12.50"), "extra": '{"x": 1}', "data": b"\x00",
    "n": {"scale": 1, "value": b"\x0f"},
}  # fmt: skip
AVRO_COLUMNS = {
    "id": 1,
    "note": "ü",
    "day": "2026-03-01",
    "ts": "2026-03-01T12:00:00",
    "price": "12.50",
    "extra": {"x": 1},
    "n": "1.5",
}


def avro(schema_id: int, schema: Any, datum: Any) -> bytes:
    stream = io.BytesIO()
    fastavro.schemaless_writer(stream, fastavro.parse_schema(json.loads(json.dumps(schema))), datum)
    return struct.pack(">bI", 0, schema_id) + stream.getvalue()


async def test_avro_events_are_read_by_their_schema(world: World) -> None:
    envelope, key = world.registry.id_of("value", ENVELOPE), world.registry.id_of("key", KEY)
    created = avro(envelope, ENVELOPE, {"before": None, "after": AVRO_ROW, "op": "c", "ts_ms": 1})
    await world.run(raw(avro(key, KEY, {"id": 1}), created))
    assert await world.rows() == {"1": AVRO_COLUMNS}
    await world.run(raw(avro(key, KEY, {"id": 1}), None))
    assert await world.rows() == {}


@pytest.mark.parametrize(
    "spoil", [lambda data: data[:-3], lambda data: data + b"x", lambda data: data[:4] + b"\x63" + data[5:]]
)
async def test_a_broken_avro_event_is_skipped(world: World, spoil: Any) -> None:
    envelope = world.registry.id_of("value", ENVELOPE)
    good = avro(envelope, ENVELOPE, {"before": None, "after": AVRO_ROW, "op": "c", "ts_ms": 1})
    reader = await world.run(raw(None, spoil(good)), raw(None, good))
    assert len(reader.committed) == 2
    assert set(await world.rows()) == {"1"}


# -- a real Kafka


class Cluster:
    """Topics of their own on a real Kafka, and members of one group."""

    def __init__(self, servers: Mapping[str, str]) -> None:
        self.servers = servers
        self.prefix = f"crm{uuid.uuid4().hex[:8]}"
        self.client = {"bootstrap.servers": servers["KAFKA_BOOTSTRAP"], **CLIENT}
        self.producer, self.admin = Producer(self.client), AdminClient(self.client)
        self.readers: list[GroupReader] = []

    def create(self, name: str, partitions: int = 1) -> str:
        topic = f"{self.prefix}.{name}"
        self.admin.create_topics([NewTopic(topic, partitions, 1)])[topic].result(PATIENCE)
        return topic

    def send(self, topic: str, *messages: RawMessage, partition: int = 0) -> None:
        for each in messages:
            self.producer.produce(topic, key=each.key, value=each.value, partition=partition)
        assert self.producer.flush(PATIENCE) == 0

    def reader(self, *topics: str) -> GroupReader:
        reader = GroupReader({**self.client, "topic.metadata.refresh.interval.ms": 500}, self.prefix, topics)
        self.readers.append(reader)
        return reader


@pytest.fixture
async def cluster(event_servers: Mapping[str, str]) -> AsyncIterator[Cluster]:
    cluster = Cluster(event_servers)
    try:
        yield cluster
    finally:
        for reader in cluster.readers:
            await reader.close()


async def until_rows(world: World, stream: DebeziumStream, expected: set[str], name: str = "dbz.notes") -> None:
    deadline = time.monotonic() + PATIENCE
    while set(await world.rows(name)) != expected or stream._messages:
        assert time.monotonic() < deadline, await world.rows(name)
        await step(stream, IDS, world.log)


async def test_a_member_that_is_killed_before_the_commit_is_followed_by_one_that_reads_again(
    world: World, cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    topic = cluster.create("notes")
    cluster.send(topic, change("c", None, {"id": 1}), raw(None, "poison"), change("c", None, {"id": 2}))
    reader = cluster.reader(topic)
    stream = world.stream(reader, {topic: NOTES})

    async def killed(*_: object) -> None:
        raise asyncio.CancelledError

    with monkeypatch.context() as broken:
        broken.setattr(reader, "commit", killed)
        with pytest.raises(asyncio.CancelledError):
            await until_rows(world, stream, {"never"})
    await reader.close()
    seen: list[int] = []
    second = cluster.reader(topic)
    while not seen:
        messages = await second.poll(10, 1000, 1.0)
        seen += [message.offset for message in messages]
    assert seen == [0, 1, 2]
    await second.commit(messages)
    await second.close()
    cluster.send(topic, change("c", None, {"id": 3}))
    await until_rows(world, world.stream(cluster.reader(topic), {topic: NOTES}), {"1", "2", "3"})


async def test_a_topic_that_is_missing_does_not_hold_back_the_others(world: World, cluster: Cluster) -> None:
    topic, later = cluster.create("notes"), f"{cluster.prefix}.cases"
    cases = Table("dbz.cases", "id", "AT")
    stream = world.stream(cluster.reader(topic, later), {topic: NOTES, later: cases})
    cluster.send(topic, change("c", None, {"id": 1}))
    await until_rows(world, stream, {"1"})
    cluster.create("cases")
    cluster.send(later, change("c", None, {"id": 9}))
    await until_rows(world, stream, {"9"}, "dbz.cases")


async def test_messages_that_the_broker_purged_do_not_stop_the_topic(world: World, cluster: Cluster) -> None:
    topic = cluster.create("notes")
    cluster.send(topic, change("c", None, {"id": 1}))
    stream = world.stream(cluster.reader(topic), {topic: NOTES})
    await until_rows(world, stream, {"1"})
    await stream.close()
    cluster.send(topic, change("c", None, {"id": 2}), change("c", None, {"id": 3}))
    for future in cluster.admin.delete_records([TopicPartition(topic, 0, 2)]).values():
        future.result(PATIENCE)
    await until_rows(world, world.stream(cluster.reader(topic), {topic: NOTES}), {"1", "3"})


async def test_a_member_learns_that_its_partitions_went_to_another(world: World, cluster: Cluster) -> None:
    topic = cluster.create("notes", partitions=2)
    cluster.send(topic, change("c", None, {"id": 1}), partition=0)
    cluster.send(topic, change("c", None, {"id": 2}), partition=1)
    first, second = cluster.reader(topic), cluster.reader(topic)
    messages: list[RawMessage] = []
    while not messages:
        messages = await first.poll(10, 1000, 1.0)
    assert await first.holds()
    joining = asyncio.create_task(second.poll(10, 1000, 10.0))
    deadline = time.monotonic() + PATIENCE
    while await first.holds():
        assert time.monotonic() < deadline
    await joining


async def test_avro_events_are_read_through_a_real_registry(world: World, cluster: Cluster) -> None:
    registry = ConfluentRegistry(cluster.servers["SCHEMA_REGISTRY_URL"])
    try:
        topic = cluster.create("notes")
        envelope = registry.register(f"{topic}-value", ENVELOPE)
        key = registry.register(f"{topic}-key", KEY)
        value = avro(envelope, ENVELOPE, {"before": None, "after": AVRO_ROW, "op": "c", "ts_ms": 1})
        cluster.send(topic, raw(avro(key, KEY, {"id": 1}), value))
        stream = world.stream(cluster.reader(topic), {topic: NOTES}, registry)
        await until_rows(world, stream, {"1"})
        assert await world.rows() == {"1": AVRO_COLUMNS}
    finally:
        registry.close()
