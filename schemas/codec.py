"""Events to bytes and back, in the registry's wire format: a zero byte, the schema's id in four bytes, the Avro datum.

Any Confluent-compatible client reads and writes the same bytes.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any, Final, Protocol, cast

import fastavro
from fastavro.read import SchemaResolutionError

from schemas import contracts, events, topics
from schemas.contracts import Schema
from schemas.events import Event

MAGIC: Final = 0
PREFIX: Final = struct.Struct(">bI")

UNDECODABLE: Final = (  # all that fastavro and the events raise for bytes that are not what their schema says
    SchemaResolutionError, EOFError, ArithmeticError, LookupError, TypeError, ValueError, RecursionError, MemoryError,
)  # fmt: skip


class Malformed(ValueError):
    """Bytes that are no event of their topic and will never be. The message holds nothing of the content."""


class UnknownSchema(LookupError):
    """The registry answered, and does not have the schema."""


class RegistryUnavailable(ConnectionError):
    """The registry does not answer or refuses us: nothing is known about the bytes."""


class Registry(Protocol):
    """Where schemas have ids. Ids never change their meaning, so answers may be kept for ever."""

    def id_of(self, subject: str, schema: Schema) -> int:
        """Raises UnknownSchema when the schema was not registered under the subject, RegistryUnavailable."""

    def schema_of(self, schema_id: int) -> Schema:
        """Raises UnknownSchema, RegistryUnavailable."""


class Codec:
    """Encodes and decodes the events of the topics in `table`. Safe to share between threads.

    The first use of a schema asks the registry, which blocks; all later ones are pure.
    """

    def __init__(
        self, registry: Registry, table: Mapping[str, topics.Topic] = topics.TOPICS, folder: Path = contracts.FOLDER
    ) -> None:
        self._registry = registry
        self._table = table
        self._schemas = {
            name: contracts.current(topics.BY_EVENT[topic.event].name, folder) for name, topic in table.items()
        }
        self._parsed = {name: _parse(schema) for name, schema in self._schemas.items()}
        self._ids: dict[str, int] = {}
        self._writers: dict[int, Schema] = {}

    def encode(self, topic: str, event: Event) -> bytes:
        """Raises ValueError when `event` does not belong on `topic` or holds a value that its schema has no room for,
        UnknownSchema before `python -m schemas register`, RegistryUnavailable. Times are kept to the millisecond."""
        expected = self._topic(topic).event
        if type(event) is not expected:
            raise ValueError(f"{topic} carries {expected.__name__}, not {type(event).__name__}")
        parsed = self._parsed[topic]
        datum = {field["name"]: _checked(event, field["name"]) for field in parsed["fields"]}
        stream = io.BytesIO()
        stream.write(PREFIX.pack(MAGIC, self._id(topic)))
        try:
            fastavro.schemaless_writer(stream, cast(Any, parsed), datum, strict=True)
        except (TypeError, ValueError, OverflowError, LookupError) as error:
            raise ValueError(f"{expected.__name__} does not fit the schema of {topic}: {error}") from error
        return stream.getvalue()

    def decode(self, topic: str, data: bytes | None) -> Event | None:
        """The event as this code knows it, whatever version wrote it; None for a tombstone, which is a delete.

        Raises Malformed, RegistryUnavailable."""
        expected = self._topic(topic).event
        if data is None:
            return None
        if len(data) < PREFIX.size or data[0] != MAGIC:
            raise Malformed(f"a record of {topic} is not in the registry's wire format")
        schema_id = PREFIX.unpack_from(data)[1]
        writer, reader = self._writer(topic, schema_id), self._parsed[topic]
        if writer["name"] != reader["name"]:
            raise Malformed(f"a record of {topic} was written as schema {schema_id}, which is not {reader['name']}")
        stream = io.BytesIO(data)
        stream.seek(PREFIX.size)
        try:
            datum = fastavro.schemaless_reader(stream, cast(Any, writer), cast(Any, reader))
            event = _event(expected, reader, cast(dict[str, Any], datum))
        except UNDECODABLE as error:
            raise Malformed(
                f"a record of {topic} does not fit schema {schema_id}, which it names ({type(error).__name__})"
            ) from error
        if stream.tell() != len(data):
            raise Malformed(f"a record of {topic} has bytes after its end")
        return event

    def key(self, topic: str, event: Event) -> bytes:
        """The key under which `event` must be published on `topic`."""
        return self._topic(topic).key_of(event)

    def _topic(self, name: str) -> topics.Topic:
        try:
            return self._table[name]
        except KeyError:
            raise ValueError(f"no topic {name!r} in schemas/topics.py, only {', '.join(self._table)}") from None

    def _id(self, topic: str) -> int:
        if topic not in self._ids:
            self._ids[topic] = self._registry.id_of(self._table[topic].subject, self._schemas[topic])
        return self._ids[topic]

    def _writer(self, topic: str, schema_id: int) -> Schema:
        if schema_id not in self._writers:
            try:
                self._writers[schema_id] = _parse(self._registry.schema_of(schema_id))
            except UnknownSchema as error:
                raise Malformed(
                    f"a record of {topic} names schema {schema_id}, which the registry does not have"
                ) from error
            except (fastavro.schema.SchemaParseException, LookupError, TypeError, ValueError, RecursionError) as error:
                raise Malformed(f"a record of {topic} names schema {schema_id}, which is no Avro record") from error
        return self._writers[schema_id]


def _parse(schema: Schema) -> Schema:
    parsed = fastavro.parse_schema(dict(schema))
    if not isinstance(parsed, Mapping) or parsed.get("type") != "record":
        raise ValueError("the schema is not a record")
    return parsed


def _checked(event: Event, name: str) -> Any:
    value = getattr(event, name)
    if isinstance(value, datetime) and value.tzinfo is None:
        raise ValueError(f"{type(event).__name__}.{name} needs a time zone: use datetime.now(UTC)")
    return value


def _event(cls: type[Event], schema: Schema, datum: Mapping[str, Any]) -> Event:
    return cls(**{field["name"]: _value(field["type"], datum[field["name"]]) for field in schema["fields"]})


def _value(type_: Any, value: Any) -> Any:
    """fastavro's value as the generated classes have it."""
    if isinstance(type_, Mapping) and type_["type"] == "enum":
        return getattr(events, type_["name"].rpartition(".")[2])(value)
    if (
        isinstance(type_, Mapping)
        and type_.get("logicalType") == "timestamp-millis"
        and not isinstance(value, datetime)
    ):
        raise ValueError("a time out of range")
    return tuple(value) if isinstance(value, list) else value
