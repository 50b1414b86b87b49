"""The compatibility check: the current schema must read the records of every release (Avro's BACKWARD_TRANSITIVE)."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import avro.schema
from avro.compatibility import ReaderWriterCompatibilityChecker, SchemaCompatibilityType, lookup_writer_field

from schemas.contracts import Schema

LEVEL = "BACKWARD_TRANSITIVE"


def problems(topic: str, reader: Schema, released: Mapping[int, Schema]) -> list[str]:
    """Return one line, with the field's name, for each change that would break a reader. A compatible schema has none."""
    return [
        f"{topic}: {problem}, so records of release {number} could not be read"
        for number, writer in released.items()
        for problem in [*_unresolvable(reader, writer), *_reinterpreted(reader, writer)]
    ]


def _unresolvable(reader: Schema, writer: Schema) -> list[str]:
    """Apply the rules of Avro with Apache's implementation, field by field, so that each line names its field."""
    checker: Any = ReaderWriterCompatibilityChecker()  # type: ignore[no-untyped-call]
    new: Any = avro.schema.parse(json.dumps(reader))
    old: Any = avro.schema.parse(json.dumps(writer))
    if checker.get_compatibility(new, old).compatibility is SchemaCompatibilityType.compatible:
        return []
    faults = []
    for field in new.fields:
        before = lookup_writer_field(old, field)
        if before is None:
            faults += [] if field.has_default else [f"field {field.name!r} is new and has no default"]
            continue
        result = checker.get_compatibility(field.type, before.type)
        if result.compatibility is not SchemaCompatibilityType.compatible:
            faults.append(f"field {field.name!r} changed ({', '.join(sorted(result.messages))})")
    return faults or [f"the record {old.name!r} became {new.name!r}"]


def _reinterpreted(reader: Schema, writer: Schema) -> list[str]:
    """Find changed logical types. Avro accepts such a change silently and would read milliseconds as microseconds."""
    before = {field["name"]: _logical_type(field["type"]) for field in writer["fields"]}
    return [
        f"field {field['name']!r} changed its logical type from {before[field['name']]} to {_logical_type(field['type'])}"
        for field in reader["fields"]
        if field["name"] in before and before[field["name"]] != _logical_type(field["type"])
    ]


def _logical_type(type_: Any) -> str | None:
    branches = type_ if isinstance(type_, list) else [type_]
    return next(
        (branch["logicalType"] for branch in branches if isinstance(branch, Mapping) and "logicalType" in branch), None
    )
