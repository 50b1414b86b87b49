"""Values of Debezium's change events as values of JSON, by the semantic types that the schemas name.

Source: "Data type mappings" of Debezium's connectors, and Kafka Connect's logical types.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from typing import Any

UNSENT = (
    "__debezium_unavailable_value"  # in place of a long value that the database did not log, because it is unchanged
)
DIGITS = 4000  # of a decimal's exponent: a hostile scale must not print millions of zeros


@dataclass(frozen=True, slots=True)
class Semantic:
    """The meaning of a column: the name of its type, whether it is bytes, and the scale of a decimal."""

    name: str = ""
    is_bytes: bool = False
    scale: int = 0


Semantics = Mapping[str, Semantic]


def connect_semantics(schema: Any) -> dict[str, Semantics]:
    """Return the meanings of the columns by part of the envelope, from a schema of Kafka Connect's JSON. "" is the schema itself."""
    parts = {str(field.get("field")): field for field in _fields(schema)}
    found: dict[str, Semantics] = {
        name: {str(each.get("field")): _connect(each) for each in _fields(part)} for name, part in parts.items()
    }
    return {**found, "": {name: _connect(field) for name, field in parts.items()}}


def _fields(schema: Any) -> list[dict[str, Any]]:
    fields = schema.get("fields") if isinstance(schema, dict) else None
    return [field for field in fields if isinstance(field, dict)] if isinstance(fields, list) else []


def _connect(field: Mapping[str, Any]) -> Semantic:
    parameters = field.get("parameters")
    scale = parameters.get("scale", 0) if isinstance(parameters, dict) else 0
    return Semantic(str(field.get("name") or ""), field.get("type") == "bytes", int(scale))


def avro_semantics(schema: Any) -> dict[str, Semantics]:
    """Return the same from an Avro schema. Kafka Connect keeps the names of the types in ``connect.name``."""
    found: dict[str, Semantics] = {"": _avro_fields(schema, {})}
    named: dict[str, Any] = {}
    _learn(schema, named)
    for field in schema.get("fields", []) if isinstance(schema, dict) else []:
        found[field["name"]] = _avro_fields(_branch(field["type"], named), named)
    return found


def _learn(schema: Any, named: dict[str, Any]) -> None:
    """Collect the records of a schema by name: Avro writes each of them once, and its name where it comes again."""
    if isinstance(schema, list):
        for each in schema:
            _learn(each, named)
    elif isinstance(schema, dict):
        if schema.get("name") and schema.get("fields") is not None:
            named[schema["name"]] = schema
        for field in schema.get("fields", []):
            _learn(field["type"], named)


def _branch(schema: Any, named: Mapping[str, Any]) -> Any:
    """Return the schema of a value that is not null."""
    if isinstance(schema, list):
        schema = next((each for each in schema if each != "null"), "null")
    return named.get(schema, schema) if isinstance(schema, str) else schema


def _avro_fields(schema: Any, named: Mapping[str, Any]) -> Semantics:
    fields = schema.get("fields", []) if isinstance(schema, dict) else []
    types = {field["name"]: _branch(field["type"], named) for field in fields}
    return {
        name: Semantic(str(kind.get("connect.name") or ""), kind.get("type") == "bytes", int(kind.get("scale") or 0))
        if isinstance(kind, dict)
        else Semantic(is_bytes=kind == "bytes")
        for name, kind in types.items()
    }


def json_columns(values: Mapping[str, Any], semantics: Semantics) -> dict[str, Any]:
    """Return the columns as JSON has them. Raises ValueError, TypeError and others for values that do not fit."""
    return {name: _converted(value, semantics.get(name, Semantic())) for name, value in values.items()}


def is_unsent(value: Any) -> bool:
    return value in (UNSENT, [UNSENT])


def _converted(value: Any, semantic: Semantic) -> Any:
    if value is None or is_unsent(value):
        return value
    convert = _CONVERSIONS.get(semantic.name)
    if semantic.name == "org.apache.kafka.connect.data.Decimal" and not isinstance(value, Decimal):
        value = _unscaled(value, semantic.scale)
    elif convert is not None and not isinstance(value, (date, time, datetime)):
        value = convert(value)
    elif semantic.is_bytes and not isinstance(value, Decimal):
        return None
    return _plain(value)


def _plain(value: Any) -> Any:
    """Return a value of fastavro as JSON has it."""
    if isinstance(value, Decimal):
        return format(value, "f") if abs(int(value.as_tuple().exponent)) < DIGITS else str(value)
    if isinstance(value, (date, time, datetime)):
        return value.isoformat()
    if isinstance(value, bytes):
        return None
    if isinstance(value, Mapping):
        return {str(name): _plain(each) for name, each in value.items()}
    return [_plain(each) for each in value] if isinstance(value, list) else value


def _unscaled(value: Any, scale: int) -> Decimal:
    """Return a decimal from its unscaled bytes, which JSON has in base64."""
    data = base64.b64decode(value, validate=True) if isinstance(value, str) else bytes(value)
    digits = str(int.from_bytes(data, "big", signed=True))  # raises ValueError for thousands of digits
    return Decimal(f"{digits}E{-scale}")


def _variable(value: Any) -> Decimal:
    return _unscaled(value["value"], int(value["scale"]))


def _moment(unit: timedelta, zone: Any = None) -> Callable[[Any], str]:
    return lambda value: (datetime(1970, 1, 1, tzinfo=zone) + int(value) * unit).isoformat()


def _nanoseconds(value: Any) -> str:
    return (datetime(1970, 1, 1) + timedelta(microseconds=int(value) // 1000)).isoformat()  # noqa: DTZ001  (without a zone)


def _day(value: Any) -> str:
    return (date(1970, 1, 1) + timedelta(days=int(value))).isoformat()


def _clock(unit: timedelta) -> Callable[[Any], str]:
    return lambda value: (datetime(1970, 1, 1) + int(value) * unit).time().isoformat()  # noqa: DTZ001


def _clock_nanoseconds(value: Any) -> str:
    return _clock(_MICRO)(int(value) // 1000)


_MILLI, _MICRO = timedelta(milliseconds=1), timedelta(microseconds=1)

_CONVERSIONS: Mapping[str, Callable[[Any], Any]] = {
    "io.debezium.time.Date": _day,
    "io.debezium.time.Time": _clock(_MILLI),
    "io.debezium.time.MicroTime": _clock(_MICRO),
    "io.debezium.time.NanoTime": _clock_nanoseconds,
    "io.debezium.time.Timestamp": _moment(_MILLI),
    "io.debezium.time.MicroTimestamp": _moment(_MICRO),
    "io.debezium.time.NanoTimestamp": _nanoseconds,
    "io.debezium.data.Json": json.loads,
    "io.debezium.data.VariableScaleDecimal": _variable,
    "org.apache.kafka.connect.data.Date": _day,
    "org.apache.kafka.connect.data.Time": _clock(_MILLI),
    "org.apache.kafka.connect.data.Timestamp": _moment(_MILLI, UTC),
}
