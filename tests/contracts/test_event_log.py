"""One behaviour for every event log: in memory and on Kafka."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime
from typing import Any, Protocol

import pytest
from confluent_kafka import Consumer, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, AlterConfigOpType, ConfigEntry, ConfigResource, ResourceType  # type: ignore[attr-defined]

from rag.adapters.kafka import KafkaEventLog
from rag.adapters.memory.events import MemoryEventLog, partition_of
from rag.errors import LostEvents, Unavailable
from rag.ports import Record, TopicState
from schemas import contracts
from schemas.events import ChangeKind, DocumentChanged, DocumentDead
from schemas.registration import register_topics
from schemas.registry import ConfluentRegistry
from schemas.topics import Setting, Topic

NOW = datetime(2026, 11, 20, 12, 30, 15, 123000, tzinfo=UTC)
PARTITIONS = 3
SECONDS = 60.0


class World(Protocol):
    """Log with a topic of its own, and the actions of its operator."""

    log: Any
    topic: str

    async def append(self, key: bytes, value: bytes | None) -> tuple[int, int]:
        """Append a record as another client would. Return partition and offset."""

    async def compact(self, partition: int) -> None:
        """Compact until the first record of the partition, which a later one supersedes, is gone. May append other records."""

    async def truncate(self, partition: int, low: int) -> None: ...

    async def recreate(self) -> None: ...

    async def join(self, group: str) -> None: ...

    async def leave(self, group: str) -> None: ...


def a_topic() -> Topic:
    """Return a topic whose settings let a broker compact at once."""
    hasty = {
        "cleanup.policy": "compact,delete",
        "retention.ms": "-1",
        "segment.ms": "100",
        "min.cleanable.dirty.ratio": "0.0",
        "max.compaction.lag.ms": "100",
    }
    settings = {name: Setting(value, "at once") for name, value in hasty.items()}
    return Topic(f"contract.{uuid.uuid4().hex[:12]}", DocumentChanged, "document_id", PARTITIONS, settings)


class MemoryWorld:
    def __init__(self, topic: Topic) -> None:
        self.topic = topic.name
        self.log = MemoryEventLog({topic.name: topic})

    async def append(self, key: bytes, value: bytes | None) -> tuple[int, int]:
        return self.log.append(self.topic, key, value)

    async def compact(self, partition: int) -> None:
        self.log.compact(self.topic)

    async def truncate(self, partition: int, low: int) -> None:
        self.log.truncate(self.topic, partition, low)

    async def recreate(self) -> None:
        self.log.recreate(self.topic)

    async def join(self, group: str) -> None:
        self.log.join(group)

    async def leave(self, group: str) -> None:
        self.log.leave(group)


class KafkaWorld:
    def __init__(self, log: KafkaEventLog, topic: Topic, bootstrap: str) -> None:
        self.log, self.topic = log, topic.name
        self._row = topic
        self._client = {"bootstrap.servers": bootstrap, "log_level": 2}
        self._producer = Producer({**self._client, "partitioner": "murmur2_random", "linger.ms": 0})
        self._admin = AdminClient(self._client)
        self._members: dict[str, Consumer] = {}

    async def append(self, key: bytes, value: bytes | None) -> tuple[int, int]:
        return await asyncio.to_thread(self._append, key, value)

    async def compact(self, partition: int) -> None:
        await asyncio.to_thread(self._compact, partition)

    async def truncate(self, partition: int, low: int) -> None:
        futures = self._admin.delete_records([TopicPartition(self.topic, partition, low)])
        await asyncio.to_thread(lambda: [future.result(SECONDS) for future in futures.values()])

    async def recreate(self) -> None:
        await asyncio.to_thread(self._recreate)

    async def join(self, group: str) -> None:
        consumer = self._members[group] = Consumer({**self._client, "group.id": group, "enable.auto.commit": False})
        consumer.subscribe([self.topic])
        await asyncio.to_thread(until, lambda: consumer.poll(0.1) is not None or bool(consumer.assignment()))

    async def leave(self, group: str) -> None:
        await asyncio.to_thread(self._members.pop(group).close)

    def close(self) -> None:
        for consumer in self._members.values():
            consumer.close()
        self._admin.delete_topics([self.topic])[self.topic].result(SECONDS)

    def _append(self, key: bytes, value: bytes | None, partition: int = -1) -> tuple[int, int]:
        written: list[Any] = []
        self._producer.produce(
            self.topic,
            key=key,
            value=value,
            partition=partition,
            on_delivery=lambda _, message: written.append(message),
        )
        self._producer.flush(SECONDS)
        return written[0].partition(), written[0].offset()

    def _compact(self, partition: int) -> None:
        """Compact the partition. Only closed segments are compacted, and only a new record begins another segment."""
        reader = Consumer({**self._client, "group.id": "probe", "auto.offset.reset": "earliest"})

        def cleaned() -> bool:
            self._append(b"filler", b"", partition)
            reader.assign([TopicPartition(self.topic, partition, 0)])
            first = reader.poll(5)
            return first is not None and not first.error() and (first.offset() or 0) > 0

        until(cleaned)
        reader.close()

    def _recreate(self) -> None:
        self._admin.delete_topics([self.topic])[self.topic].result(SECONDS)
        until(lambda: self.topic not in self._admin.list_topics(timeout=SECONDS).topics)
        register_topics(self._admin, [self._row], lambda _: None)
        until(self._has_leaders)

    def _has_leaders(self) -> bool:
        found = self._admin.list_topics(timeout=SECONDS).topics.get(self.topic)
        return found is not None and all(partition.leader >= 0 for partition in found.partitions.values())


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < deadline, "the condition never came true"
        time.sleep(0.05)


def hasten_compaction(admin: AdminClient) -> None:
    """Shorten the broker's interval between compactions, which is 15 s by default."""
    entry = ConfigEntry("log.cleaner.backoff.ms", "100", incremental_operation=AlterConfigOpType.SET)
    for broker in admin.list_topics(timeout=SECONDS).brokers:
        change = ConfigResource(ResourceType.BROKER, str(broker), incremental_configs=[entry])
        for future in admin.incremental_alter_configs([change]).values():
            future.result(SECONDS)


@pytest.fixture(params=["memory", pytest.param("kafka", marks=pytest.mark.live)])
async def world(request: pytest.FixtureRequest) -> AsyncIterator[World]:
    topic = a_topic()
    if request.param == "memory":
        yield MemoryWorld(topic)
        return
    env = request.getfixturevalue("event_servers")
    bootstrap, registry = env["KAFKA_BOOTSTRAP"], env["SCHEMA_REGISTRY_URL"]
    admin = AdminClient({"bootstrap.servers": bootstrap, "log_level": 2})
    hasten_compaction(admin)
    register_topics(admin, [topic], lambda _: None)
    ConfluentRegistry(registry).register(topic.subject, contracts.current("documents.changed.v1"))
    async with KafkaEventLog.open(bootstrap, registry, table={topic.name: topic}) as log:
        world = KafkaWorld(log, topic, bootstrap)
        yield world
        world.close()


def changed(document_id: str, version: str = "1") -> tuple[str, DocumentChanged]:
    event = DocumentChanged(
        document_id=document_id, tenant="acme", source="s3", uri=f"s3://docs/{document_id}.md", version=version,
        kind=ChangeKind.CHANGED, origin="poll", occurred_at=NOW, announced_at=NOW,
    )  # fmt: skip
    return document_id, event


async def settled(world: World) -> TopicState:
    """Return the state of the topic once it has leaders. A broker that just took over answers Unavailable for a moment."""
    for _ in range(600):
        try:
            return await world.log.describe(world.topic)
        except Unavailable:
            await asyncio.sleep(0.1)
    raise AssertionError("the topic never had leaders")


async def everything(world: World) -> list[Record]:
    state = await world.log.describe(world.topic)
    ranges = [(partition, *bounds) for partition, bounds in state.bounds.items()]
    return [record for at in ranges for record in await world.log.read(world.topic, *at)]


def versions(records: list[Record], key: str) -> list[str]:
    return [record.value.version for record in records if record.key == key]


async def test_published_events_are_read_back_in_order_of_their_key(world: World) -> None:
    pairs = [changed(f"document-{i % 5}", str(i)) for i in range(50)]
    await world.log.publish(world.topic, pairs, headers={"traceparent": "00-aa-bb-01"})
    records = await everything(world)
    assert sorted(record.value.version for record in records) == sorted(str(i) for i in range(50))
    assert versions(records, "document-3") == [str(i) for i in range(3, 50, 5)]
    assert {record.headers["traceparent"] for record in records} == {"00-aa-bb-01"}
    assert records[0].value == changed(records[0].key, records[0].value.version)[1]


async def test_a_key_is_on_the_partition_that_every_kafka_client_chooses(world: World) -> None:
    keys = ["", "a", "ab", "abc", "abcd", "21", "straße", *(str(uuid.UUID(int=i**9)) for i in range(40))]
    await world.log.publish(world.topic, [(key, None) for key in keys])
    placed = {record.key: record.partition for record in await everything(world)}
    assert placed == {key: partition_of(key.encode(), PARTITIONS) for key in keys}
    assert len(set(placed.values())) == PARTITIONS


async def test_an_event_without_a_value_is_a_delete(world: World) -> None:
    await world.log.publish(world.topic, [changed("a"), ("a", None)])
    assert [(record.key, record.value is None, record.error) for record in await everything(world)] == [
        ("a", False, ""), ("a", True, ""),
    ]  # fmt: skip


async def test_a_range_is_read_to_its_end_and_an_early_end_of_the_log_is_an_outage(world: World) -> None:
    await world.log.publish(world.topic, [changed("a", str(i)) for i in range(10)])
    partition = partition_of(b"a", PARTITIONS)
    read = world.log.read
    assert [record.offset for record in await read(world.topic, partition, 3, 7)] == [3, 4, 5, 6]
    assert [record.offset for record in await read(world.topic, partition, 3, 7, limit=2)] == [3, 4]
    with pytest.raises(Unavailable, match="before the promised"):
        await read(world.topic, partition, 8, 10**9)
    assert await read(world.topic, partition, 7, 7) == await read(world.topic, partition, 10, 10) == []


async def test_compacted_records_leave_holes_that_no_reader_waits_for(world: World) -> None:
    await world.log.publish(world.topic, [changed("a", str(i)) for i in range(5)] + [changed("a", "newest")])
    partition = partition_of(b"a", PARTITIONS)
    await world.compact(partition)
    low, end = (await world.log.describe(world.topic)).bounds[partition]
    records = await world.log.read(world.topic, partition, 0, end)
    assert versions([record for record in records if not record.error], "a") == ["newest"]
    assert low == 0
    assert await world.log.read(world.topic, partition, 1, 4) == []


async def test_a_position_that_the_log_no_longer_holds_raises_lost_events(world: World) -> None:
    await world.log.publish(world.topic, [changed("a", str(i)) for i in range(6)])
    partition = partition_of(b"a", PARTITIONS)
    await world.truncate(partition, 4)
    with pytest.raises(LostEvents, match=r"\[\d\] holds offsets 4 to 6 and 3 is due"):
        await world.log.read(world.topic, partition, 3, 6)
    with pytest.raises(LostEvents, match="7 is due"):
        await world.log.read(world.topic, partition, 7, 9)
    assert (await world.log.describe(world.topic)).bounds[partition] == (4, 6)
    assert versions(await world.log.read(world.topic, partition, 4, 6), "a") == ["4", "5"]


async def test_poison_between_good_records_is_marked_and_stops_nothing(world: World) -> None:
    await world.log.publish(world.topic, [changed("a")])
    for key, value in [(b"a", b""), (b"a", b"not avro"), (b"a", b"\x00\x00\x00\xff\xff..."), (b"\xff\xfe", None)]:
        await world.append(key, value)
    await world.log.publish(world.topic, [changed("a", "2")])
    records = await everything(world)
    assert versions([record for record in records if not record.error], "a") == ["1", "2"]
    poison = [record for record in records if record.error]
    assert len(poison) == 4
    assert all(record.value is None and world.topic in record.error for record in poison)
    assert not any("not avro" in record.error for record in poison)


async def test_an_event_that_does_not_belong_is_refused_and_nothing_of_its_batch_sent(world: World) -> None:
    dead = DocumentDead(
        document_id="a", tenant="acme", index_id="i", topic=world.topic, partition=0, reason="empty", failed_at=NOW
    )
    with pytest.raises(ValueError, match="carries DocumentChanged, not DocumentDead"):
        await world.log.publish(world.topic, [changed("a"), ("a", dead)])
    with pytest.raises(ValueError, match="another key"):
        await world.log.publish(world.topic, [changed("a"), ("b", changed("a")[1])])
    assert await everything(world) == []


async def test_an_empty_publication_is_nothing(world: World) -> None:
    await world.log.publish(world.topic, [])
    assert await everything(world) == []


async def test_publications_at_the_same_time_all_arrive(world: World) -> None:
    await asyncio.gather(*(world.log.publish(world.topic, [changed(str(i))]) for i in range(20)))
    assert {record.key for record in await everything(world)} == {str(i) for i in range(20)}


async def test_reads_at_the_same_time_do_not_disturb_each_other(world: World) -> None:
    await world.log.publish(world.topic, [changed("a", str(i)) for i in range(30)])
    partition = partition_of(b"a", PARTITIONS)
    ranges = [(start, start + 10) for start in (0, 10, 20, 5, 15)]
    answers = await asyncio.gather(*(world.log.read(world.topic, partition, *at) for at in ranges))
    assert [[record.offset for record in answer] for answer in answers] == [list(range(*at)) for at in ranges]


async def test_a_recreated_topic_has_another_epoch_and_loses_old_positions(world: World) -> None:
    await world.log.publish(world.topic, [changed("a", str(i)) for i in range(5)])
    partition = partition_of(b"a", PARTITIONS)
    before = await world.log.describe(world.topic)
    assert len(await world.log.read(world.topic, partition, 0, 5)) == 5
    assert (await world.log.describe(world.topic)).epoch == before.epoch
    await world.recreate()
    after = await settled(world)
    assert after.epoch != before.epoch
    assert after.bounds == dict.fromkeys(range(PARTITIONS), (0, 0))
    with pytest.raises(LostEvents):
        await world.log.read(world.topic, partition, 5, 6)
    await world.log.publish(world.topic, [changed("a", "new")])
    assert versions(await world.log.read(world.topic, partition, 0, 1), "a") == ["new"]


async def test_a_topic_that_does_not_exist_is_unavailable_by_its_name(world: World) -> None:
    with pytest.raises(Unavailable, match="nowhere"):
        await world.log.describe("nowhere")
    with pytest.raises(Unavailable, match=r"nowhere"):
        await world.log.read("nowhere", 0, 0, 1)
    with pytest.raises(Unavailable, match=r"contract\..*99"):
        await world.log.read(world.topic, 99, 0, 1)


async def test_positions_are_mirrored_only_while_the_group_has_no_members(world: World) -> None:
    group = f"index-{uuid.uuid4().hex[:8]}"
    assert await world.log.members(group) == 0
    assert await world.log.mirror(group, world.topic, {0: 0, 1: 0})
    await world.join(group)
    assert await world.log.members(group) == 1
    assert not await world.log.mirror(group, world.topic, {0: 0})
    await world.leave(group)
    assert await world.log.members(group) == 0
    assert await world.log.mirror(group, world.topic, {0: 0})
    assert await world.log.mirror(group, world.topic, {})
