from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from dataclasses import fields, replace
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from confluent_kafka.schema_registry import Schema as RegisteredSchema
from confluent_kafka.schema_registry import SchemaRegistryClient
from confluent_kafka.schema_registry.avro import AvroDeserializer, AvroSerializer
from confluent_kafka.serialization import MessageField, SerializationContext
from hypothesis import given
from hypothesis import strategies as st

from schemas import contracts
from schemas.codec import Codec, Malformed, RegistryUnavailable, UnknownSchema
from schemas.events import (
    ChangeKind,
    DocumentChanged,
    DocumentDead,
    DocumentIndexed,
    ErasureCompleted,
    ErasureKind,
    ErasureRequested,
    Event,
    IndexState,
)
from schemas.registry import MemoryRegistry
from schemas.topics import BY_EVENT, TOPICS

CHANGED = "documents.changed.v1"
NOW = datetime(2026, 11, 20, 12, 30, 15, 123000, tzinfo=UTC)
EVENTS: tuple[Event, ...] = (
    DocumentChanged(
        document_id="d1", tenant="acme", source="wiki", uri="s3://docs/straße.md", kind=ChangeKind.DELETED, version="v7",
        origin="notification", occurred_at=NOW, announced_at=NOW + timedelta(seconds=1),
    ),
    DocumentIndexed(
        document_id="d1", tenant="acme", index_id="i1", revision=2**40, state=IndexState.LIVE, chunks=9, embedded=2,
        reused=7, epoch="e", partition=3, offset=2**33, indexed_at=NOW,
    ),
    DocumentDead(
        document_id="d1", tenant="acme", index_id="i1", topic=CHANGED, partition=3, offset=4, reason="encrypted",
        trace_id="a" * 32, failed_at=NOW,
    ),
    ErasureRequested(
        erasure_id="x1", tenant="acme", kind=ErasureKind.SUBJECT, ids=("p1", "p2"), reason="subject_request", requested_at=NOW
    ),
    ErasureCompleted(
        erasure_id="x1", tenant="acme", outcome="erased", certificate_id="c1", certificate_sha256="0" * 64, completed_at=NOW
    ),
)  # fmt: skip
EVENT = EVENTS[0]


class Fixed:
    """A registry of the given schemas, under the given ids."""

    def __init__(self, schemas: Mapping[int, Any]) -> None:
        self.schemas = schemas
        self.requests: list[int] = []

    def id_of(self, subject: str, schema: contracts.Schema) -> int:
        return next(iter(self.schemas))

    def schema_of(self, schema_id: int) -> contracts.Schema:
        self.requests.append(schema_id)
        if schema_id not in self.schemas:
            raise UnknownSchema(f"schema {schema_id} is unknown")
        return self.schemas[schema_id]


def topic_of(event: Event) -> str:
    return BY_EVENT[type(event)].name


def schema(**changes: Any) -> dict[str, Any]:
    return {**copy.deepcopy(dict(contracts.current(CHANGED))), **changes}


def written_by(writer: Any, datum: bytes = b"") -> tuple[Codec, bytes]:
    """Return a codec whose registry has `writer` as schema 7, and a record of schema 7."""
    return Codec(Fixed({7: writer})), b"\x00\x00\x00\x00\x07" + datum


@pytest.fixture(scope="module")
def codec() -> Codec:
    return Codec(MemoryRegistry())


@pytest.mark.parametrize("event", EVENTS, ids=topic_of)
def test_an_event_survives_its_encoding(codec: Codec, event: Event) -> None:
    assert codec.decode(topic_of(event), codec.encode(topic_of(event), event)) == event


@given(
    text=st.text(st.characters(exclude_categories=["Cs"])),
    version=st.none() | st.text(st.characters(exclude_categories=["Cs"])),
    at=st.datetimes(min_value=datetime(1, 1, 2), max_value=datetime(9999, 12, 30), timezones=st.just(UTC)),  # noqa: DTZ001
)
def test_any_text_and_any_time_survive_to_the_millisecond(
    codec: Codec, text: str, version: str | None, at: datetime
) -> None:
    event = replace(EVENT, uri=text, version=version, occurred_at=at)
    decoded = codec.decode(CHANGED, codec.encode(CHANGED, event))
    assert isinstance(decoded, DocumentChanged)
    assert (decoded.uri, decoded.version) == (text, version)
    assert abs(decoded.occurred_at - at) < timedelta(milliseconds=1)


def test_times_are_read_in_utc_whatever_zone_they_were_written_in(codec: Codec) -> None:
    local = NOW.astimezone(timezone(timedelta(hours=-7)))
    decoded = codec.decode(CHANGED, codec.encode(CHANGED, replace(EVENT, occurred_at=local)))
    assert decoded.occurred_at == NOW
    assert decoded.occurred_at.tzinfo is UTC


def test_a_record_without_a_value_is_a_delete(codec: Codec) -> None:
    assert codec.decode(CHANGED, None) is None


@pytest.mark.parametrize(
    ("event", "message"),
    [
        (EVENTS[1], "carries DocumentChanged, not DocumentIndexed"),
        (replace(EVENT, occurred_at=datetime(2026, 1, 1)), "occurred_at needs a time zone"),  # noqa: DTZ001
        (replace(EVENT, uri=None), "uri"),
        (replace(EVENT, uri=b"s3://"), "uri"),
        (replace(EVENT, uri="\ud800"), "does not fit"),
        (replace(EVENT, kind="MOVED"), "does not fit"),
        (replace(EVENT, version=7), "version"),
    ],
)
def test_a_value_that_does_not_fit_the_schema_is_refused(codec: Codec, event: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        codec.encode(CHANGED, event)


def test_an_offset_beyond_64_bits_is_refused(codec: Codec) -> None:
    with pytest.raises(ValueError, match="does not fit"):
        codec.encode(topic_of(EVENTS[2]), replace(EVENTS[2], offset=2**63))


def test_a_topic_that_is_not_in_the_table_is_refused_by_name(codec: Codec) -> None:
    with pytest.raises(ValueError, match=r"'documents\.moved\.v1'"):
        codec.encode("documents.moved.v1", EVENT)


def test_every_truncation_and_every_excess_is_malformed(codec: Codec) -> None:
    for event in EVENTS:
        data = codec.encode(topic_of(event), event)
        for length in range(len(data)):
            with pytest.raises(Malformed):
                codec.decode(topic_of(event), data[:length])
        with pytest.raises(Malformed, match="after its end"):
            codec.decode(topic_of(event), data + b"\x00")


@given(data=st.binary(max_size=64))
def test_hostile_bytes_are_malformed_or_an_event_and_never_another_error(codec: Codec, data: bytes) -> None:
    prefix = codec.encode(CHANGED, EVENT)[:5]
    for attempt in (data, prefix + data):
        try:
            decoded = codec.decode(CHANGED, attempt)
        except Malformed:
            continue
        assert isinstance(decoded, DocumentChanged)


@given(position=st.integers(5, 60), byte=st.integers(0, 255))
def test_a_flipped_byte_is_malformed_or_an_event_with_values_of_the_right_types(
    codec: Codec, position: int, byte: int
) -> None:
    data = bytearray(codec.encode(CHANGED, EVENT))
    data[min(position, len(data) - 1)] = byte
    try:
        decoded = codec.decode(CHANGED, bytes(data))
    except Malformed:
        return
    assert isinstance(decoded, DocumentChanged)
    assert isinstance(decoded.kind, ChangeKind)
    assert isinstance(decoded.occurred_at, datetime)


def test_a_malformed_record_is_named_without_its_content(codec: Codec) -> None:
    data = codec.encode(CHANGED, replace(EVENT, uri="s3://secret"))
    with pytest.raises(Malformed) as caught:
        codec.decode(CHANGED, data[:-3])
    assert CHANGED in str(caught.value)
    assert "secret" not in str(caught.value)


def test_an_old_record_reads_with_the_defaults_of_today() -> None:
    old = schema()
    old["fields"] = [field for field in old["fields"] if field["name"] not in ("kind", "version")]
    old["fields"].insert(0, {"name": "removed", "type": "string"})
    encoded = encoded_with(old, {**plain(EVENT), "removed": "gone"})
    codec, data = written_by(old, encoded)
    assert codec.decode(CHANGED, data) == replace(EVENT, kind=ChangeKind.CHANGED, version=None)


def test_a_kind_of_the_future_reads_as_a_change() -> None:
    future = schema()
    kind = next(field for field in future["fields"] if field["name"] == "kind")
    kind["type"]["symbols"] = ["CHANGED", "DELETED", "MOVED"]
    codec, data = written_by(future, encoded_with(future, {**plain(EVENT), "kind": "MOVED"}))
    decoded = codec.decode(CHANGED, data)
    assert isinstance(decoded, DocumentChanged)
    assert decoded.kind is ChangeKind.CHANGED


def test_an_erasure_of_a_kind_not_yet_known_is_malformed_and_not_guessed() -> None:
    future = copy.deepcopy(dict(contracts.current("erasures.requested.v1")))
    kind = next(field for field in future["fields"] if field["name"] == "kind")
    kind["type"]["symbols"] = ["TENANT", "DOCUMENT", "SUBJECT"]
    codec, data = written_by(future, encoded_with(future, {**plain(EVENTS[3]), "kind": "TENANT"}))
    with pytest.raises(Malformed):
        codec.decode("erasures.requested.v1", data)


@pytest.mark.parametrize(
    "writer",
    [
        {"type": "record", "name": "Other", "fields": []},
        {"type": "string"},
        {"type": "enum", "name": "tidemark.DocumentChanged", "symbols": ["A"]},
        {"type": "record", "name": "tidemark.DocumentChanged", "fields": []},
        {"type": "record", "name": "tidemark.DocumentChanged", "fields": [{"name": "uri", "type": "nonsense"}]},
        {"nothing": "of the kind"},
    ],
)
def test_a_record_written_with_a_foreign_schema_is_malformed(writer: Any) -> None:
    codec, data = written_by(writer)
    with pytest.raises(Malformed):
        codec.decode(CHANGED, data)


def test_a_record_that_names_an_unknown_schema_is_malformed() -> None:
    codec = Codec(Fixed({}))
    with pytest.raises(Malformed, match="names schema 9"):
        codec.decode(CHANGED, b"\x00\x00\x00\x00\x09x")


def test_a_record_is_not_malformed_while_the_registry_is_unavailable() -> None:
    class Away:
        def id_of(self, subject: str, schema: contracts.Schema) -> int:
            raise RegistryUnavailable("away")

        schema_of = id_of

    class AwayForIds(Away):
        def schema_of(self, schema_id: int) -> contracts.Schema:  # type: ignore[override]
            raise RegistryUnavailable("away")

    with pytest.raises(RegistryUnavailable):
        Codec(AwayForIds()).decode(CHANGED, b"\x00\x00\x00\x00\x09x")
    with pytest.raises(RegistryUnavailable):
        Codec(AwayForIds()).encode(CHANGED, EVENT)


def test_the_registry_is_called_once_for_each_schema() -> None:
    registry = Fixed({7: contracts.current(CHANGED)})
    codec = Codec(registry)
    for _ in range(3):
        codec.decode(CHANGED, codec.encode(CHANGED, EVENT))
    assert registry.requests == [7]


@pytest.mark.parametrize("event", EVENTS, ids=topic_of)
def test_the_codec_and_confluents_deserializer_read_each_others_messages(event: Event) -> None:
    from schemas.registry import ConfluentRegistry

    url, topic = f"mock://{topic_of(event)}", topic_of(event)
    ours = ConfluentRegistry(url)
    ours.register(TOPICS[topic].subject, contracts.current(topic))
    codec = Codec(ours)
    theirs, context = ours.client, SerializationContext(topic, MessageField.VALUE)
    assert AvroDeserializer(theirs)(codec.encode(topic, event), context) == plain(event)
    serializer = AvroSerializer(theirs, json.dumps(contracts.current(topic)), conf={"auto.register.schemas": False})
    assert codec.decode(topic, serializer(plain(event), context)) == event


def plain(event: Event) -> dict[str, Any]:
    values = {field.name: getattr(event, field.name) for field in fields(event)}
    return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}


def encoded_with(writer: Mapping[str, Any], datum: Mapping[str, Any]) -> bytes:
    """Encode the datum with Confluent's serializer, which is independent of our codec, and remove the prefix."""
    client = SchemaRegistryClient.new_client({"url": "mock://writer"})
    client.register_schema(f"{CHANGED}-value", RegisteredSchema(json.dumps(writer), "AVRO"))
    serializer = AvroSerializer(client, json.dumps(writer), conf={"auto.register.schemas": True})
    encoded: bytes = serializer(dict(datum), SerializationContext(CHANGED, MessageField.VALUE))
    return encoded[5:]
