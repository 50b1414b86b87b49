"""Encoding and decoding of events in the registry's wire format: a zero byte, the schema's id in four bytes, the Avro datum.

Every Confluent-compatible client reads and writes the same format.
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

UNDECODABLE: Final = (  # every error of fastavro and of the events for bytes that do not match their schema
    SchemaResolutionError, EOFError, ArithmeticError, LookupError, TypeError, ValueError, RecursionError, MemoryError,
)  # fmt: skip


class Malformed(ValueError):
    """Bytes that are not an event of their topic and never will be. The message contains nothing of the content."""


class UnknownSchema(LookupError):
    """An answer of the registry that it does not have the schema."""


class RegistryUnavailable(ConnectionError):
    """A registry that does not answer or that refuses access. The bytes may be valid or not."""


class Registry(Protocol):
    """A registry of schemas by id. An id always stands for the same schema, so callers may cache answers forever."""

    def id_of(self, subject: str, schema: Schema) -> int:
        """Return the schema's id. Raises UnknownSchema if it is not registered under the subject, and RegistryUnavailable."""

    def schema_of(self, schema_id: int) -> Schema:
        """Return the schema of the id. Raises UnknownSchema and RegistryUnavailable."""


class Codec:
    """Encoder and decoder of the events of the topics in `table`. Safe to share between threads.

    The first use of a schema calls the registry and blocks. Later uses are pure.
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
        """Encode an event. Times are kept to the millisecond.

        Raises ValueError if `event` does not belong on `topic` or has a value that does not fit its schema, UnknownSchema
        before `python -m schemas register` has run, and RegistryUnavailable.
        """
        expected = self._topic(topic).event
        if type(event) is not expected:
            raise ValueError(f"{topic} carries {expected.__name__}, not {type(event).__name__}")
        parsed = self._parsed[topic]
        datum = {field["name"]: _encodable(event, field["name"]) for field in parsed["fields"]}
        stream = io.BytesIO()
        stream.write(PREFIX.pack(MAGIC, self._id(topic)))
        try:
            fastavro.schemaless_writer(stream, cast(Any, parsed), datum, strict=True)
        except (TypeError, ValueError, OverflowError, LookupError) as error:
            raise ValueError(f"{expected.__name__} does not fit the schema of {topic}: {error}") from error
        return stream.getvalue()

    def decode(self, topic: str, data: bytes | None) -> Event | None:
        """Decode a record that any version of the schema wrote into today's event. A tombstone, which deletes, is None.

        Raises Malformed and RegistryUnavailable.
        """
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
                f"a record of {topic} does not fit its own schema {schema_id} ({type(error).__name__})"
            ) from error
        if stream.tell() != len(data):
            raise Malformed(f"a record of {topic} has bytes after its end")
        return event

    def key(self, topic: str, event: Event) -> bytes:
        """Return the key under which `event` must be published on `topic`."""
        return self._topic(topic).key_of(event)

    def _topic(self, name: str) -> topics.Topic:
        try:
            return self._table[name]
        except KeyError:
            raise ValueError(f"topic {name!r} is not in schemas/topics.py, only {', '.join(self._table)}") from None

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
                raise Malformed(f"a record of {topic} names schema {schema_id}, which is not an Avro record") from error
        return self._writers[schema_id]


def _parse(schema: Schema) -> Schema:
    parsed = fastavro.parse_schema(dict(schema))
    if not isinstance(parsed, Mapping) or parsed.get("type") != "record":
        raise ValueError("the schema is not a record")
    return parsed


def _encodable(event: Event, name: str) -> Any:
    value = getattr(event, name)
    if isinstance(value, datetime) and value.tzinfo is None:
        raise ValueError(f"{type(event).__name__}.{name} needs a time zone: use datetime.now(UTC)")
    return value


def _event(cls: type[Event], schema: Schema, datum: Mapping[str, Any]) -> Event:
    return cls(**{field["name"]: _value(field["type"], datum[field["name"]]) for field in schema["fields"]})


def _value(type_: Any, value: Any) -> Any:
    """Convert a value of fastavro to the type of the generated class."""
    if isinstance(type_, Mapping) and type_["type"] == "enum":
        return getattr(events, type_["name"].rpartition(".")[2])(value)
    if (
        isinstance(type_, Mapping)
        and type_.get("logicalType") == "timestamp-millis"
        and not isinstance(value, datetime)
    ):
        raise ValueError("a time is out of range")
    return tuple(value) if isinstance(value, list) else value
