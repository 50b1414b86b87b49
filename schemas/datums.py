"""Decoding of records that others write with any Avro schema, in the registry's wire format."""

from __future__ import annotations

import io
from typing import Any

import fastavro

from schemas.codec import MAGIC, PREFIX, UNDECODABLE, Malformed, Registry, UnknownSchema
from schemas.contracts import Schema


def is_registered(data: bytes) -> bool:
    """Return whether the bytes are in the registry's wire format: no text begins with a zero byte."""
    return len(data) >= PREFIX.size and data[0] == MAGIC


class DatumDecoder:
    """Decoder of records by the schema that each of them names. A schema is read from the registry once, which blocks."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._schemas: dict[int, Schema] = {}

    def decode(self, data: bytes) -> tuple[Any, Schema]:
        """Return the datum and its parsed schema. Raises Malformed and RegistryUnavailable."""
        schema_id = PREFIX.unpack_from(data)[1]
        schema = self._schema(schema_id)
        stream = io.BytesIO(data)
        stream.seek(PREFIX.size)
        try:
            datum = fastavro.schemaless_reader(stream, schema, None)  # type: ignore[arg-type]
        except UNDECODABLE as error:
            raise Malformed(f"a record does not fit its own schema {schema_id} ({type(error).__name__})") from error
        if stream.tell() != len(data):
            raise Malformed("a record has bytes after its end")
        return datum, schema

    def _schema(self, schema_id: int) -> Schema:
        if schema_id not in self._schemas:
            try:
                self._schemas[schema_id] = fastavro.parse_schema(dict(self._registry.schema_of(schema_id)))  # type: ignore[assignment]
            except UnknownSchema as error:
                raise Malformed(f"a record names schema {schema_id}, which the registry does not have") from error
            except (fastavro.schema.SchemaParseException, LookupError, TypeError, ValueError, RecursionError) as error:
                raise Malformed(f"a record names schema {schema_id}, which is not an Avro record") from error
        return self._schemas[schema_id]
