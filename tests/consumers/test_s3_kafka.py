from __future__ import annotations

import json
import time
import uuid
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import quote_plus

import pytest
from confluent_kafka import KafkaException, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic  # type: ignore[attr-defined]
from pydantic import ValidationError

from consumers.listing import differences
from consumers.runner import step
from consumers.s3_kafka import S3KafkaOptions, S3KafkaStream
from rag.adapters.kafka import CLIENT
from rag.adapters.kafka.topics import GroupReader, RawMessage
from rag.adapters.memory.events import MemoryEventLog
from rag.adapters.memory.ledger import MemoryLedger
from rag.adapters.memory.objects import MemoryObjects
from rag.errors import Unavailable
from rag.ids import Ids, object_uri
from rag.sources import Source
from rag.telemetry import samples

SOURCE = Source("files", "acme", "s3://docs", ("group:staff",))
IDS = Ids(b"0123456789abcdef")
PATIENCE = 30.0


def event(key: str, name: str = "s3:ObjectCreated:Put", bucket: str = "docs") -> bytes:
    """Return a message in MinIO's form, whose record has the key form-encoded."""
    record = {
        "eventVersion": "2.0",
        "eventSource": "minio:s3",
        "eventName": name,
        "eventTime": "2026-03-01T10:00:00.000Z",
        "s3": {"bucket": {"name": bucket}, "object": {"key": quote_plus(key), "versionId": "1", "eTag": "e"}},
    }
    return json.dumps({"EventName": name, "Key": f"{bucket}/{key}", "Records": [record]}).encode()


class Messages:
    """A reader of the given messages. The first commits fail while ``failures`` are left."""

    def __init__(self, *values: bytes | None) -> None:
        self.waiting = [RawMessage("t", 0, offset, None, value) for offset, value in enumerate(values)]
        self.committed: list[int] = []
        self.failures = 0
        self.is_held = True
        self.closed = 0

    async def poll(self, limit: int, size: int, wait: float) -> list[RawMessage]:
        return [each for each in self.waiting if each.offset not in self.committed][:limit]

    async def holds(self) -> bool:
        return self.is_held

    async def commit(self, messages: Sequence[RawMessage]) -> None:
        if self.failures:
            self.failures -= 1
            raise Unavailable("Kafka is away")
        self.committed += [each.offset for each in messages]

    async def close(self) -> None:
        self.closed += 1


@pytest.mark.parametrize("key", ["hand book/über+uns 100%.md", "a%2Fb.md", "q?x=1#f.md"])
def test_a_key_arrives_form_encoded_as_from_s3(key: str) -> None:
    stream = S3KafkaStream(SOURCE, Messages())
    (change,) = stream.decode(RawMessage("t", 0, 0, None, event(key)))
    assert change.uri == object_uri("s3://docs", key)
    (gone,) = stream.decode(RawMessage("t", 0, 0, None, event(key, "s3:ObjectRemoved:Delete")))
    assert gone.is_deletion


@pytest.mark.parametrize("bad", [None, b"", b"\xff", b"[]", b'{"Records": 3}', b"[" * 100_000])
async def test_a_bad_message_is_counted_and_skipped_with_its_neighbours_announced(bad: bytes | None) -> None:
    log, before = MemoryEventLog(), counted_errors()
    reader = Messages(event("a.md"), bad, event("b.md"), event("c.md", bucket="other"))
    assert await step(S3KafkaStream(SOURCE, reader), IDS, log) == 2
    assert counted_errors() == before + 1
    assert reader.committed == [0, 1, 2, 3]


class Broken:
    async def publish(self, *_: Any, **__: Any) -> None:
        raise Unavailable("Kafka is away")

    def __getattr__(self, name: str) -> Any:
        return self.publish


async def test_offsets_are_committed_only_after_the_changes_are_announced() -> None:
    reader, log = Messages(event("a.md")), MemoryEventLog()
    stream = S3KafkaStream(SOURCE, reader)
    with pytest.raises(Unavailable):
        await step(stream, IDS, Broken())
    assert reader.committed == []
    assert await step(stream, IDS, log) == 1
    assert reader.committed == [0]


async def test_a_commit_that_fails_repeats_the_messages() -> None:
    reader, log = Messages(event("a.md")), MemoryEventLog()
    reader.failures = 1
    stream = S3KafkaStream(SOURCE, reader)
    with pytest.raises(Unavailable):
        await step(stream, IDS, log)
    assert reader.closed == 1
    assert await step(stream, IDS, log) == 1
    assert await step(stream, IDS, log) == 0


async def test_messages_of_partitions_that_went_to_another_member_are_forgotten() -> None:
    reader = Messages(event("a.md"))
    stream = S3KafkaStream(SOURCE, reader)
    assert len(await stream.receive()) == 1
    reader.is_held, reader.waiting = False, []
    assert await stream.receive() == []


@pytest.mark.parametrize("options", [{}, {"topic": ""}, {"topic": "a b"}, {"topic": "t", "queue": "q"}])
def test_wrong_options_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        S3KafkaOptions.model_validate(options)


async def test_a_real_topic_that_was_truncated_or_created_again_loses_nothing(event_servers: Mapping[str, str]) -> None:
    client = {
        "bootstrap.servers": event_servers["KAFKA_BOOTSTRAP"],
        **CLIENT,
        "topic.metadata.refresh.interval.ms": 500,
    }
    name, producer, admin = f"bucket{uuid.uuid4().hex[:8]}", Producer(client), AdminClient(client)
    objects, log, ledger = MemoryObjects("s3://docs"), MemoryEventLog(), MemoryLedger()

    async def store(key: str) -> None:
        await objects.put(object_uri("s3://docs", key), b"x")
        producer.produce(name, key=f"docs/{key}", value=event(key))
        assert producer.flush(PATIENCE) == 0

    async def take(number: int) -> None:
        reader = GroupReader(client, name, [name], remedy="none")
        stream, deadline, taken = S3KafkaStream(SOURCE, reader), time.monotonic() + PATIENCE, 0
        try:
            while taken < number:
                assert time.monotonic() < deadline
                taken += await step(stream, IDS, log)
        finally:
            await stream.close()

    def create() -> None:
        deadline = time.monotonic() + PATIENCE
        while True:  # until the deletion of the older topic is done
            try:
                return admin.create_topics([NewTopic(name, 1, 1)])[name].result(PATIENCE)
            except KafkaException:
                assert time.monotonic() < deadline

    create()
    await store("one.md")
    await take(1)
    await store("purged.md")
    for future in admin.delete_records([TopicPartition(name, 0, 2)]).values():
        future.result(PATIENCE)
    await store("three.md")
    await take(1)
    admin.delete_topics([name])[name].result(PATIENCE)
    create()
    await store("four.md")
    await take(1)
    listed = await differences(SOURCE, "index", objects, ledger)
    assert {change.uri for change in listed.changes} >= {"s3://docs/purged.md"}


def counted_errors() -> float:
    return sum(value for (name, labels), value in samples().items()
               if name == "tidemark_source_errors_total" and ("source", "files") in labels)  # fmt: skip
