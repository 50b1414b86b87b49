"""Values of PostgreSQL, which arrive as texts, as values of JSON, and rows of them."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any, Final

import psycopg2
from psycopg2.extensions import UNICODEARRAY

from rag.ports import Row
from rag.tables import row_body

SESSION: Final[Mapping[str, str]] = {  # a value has one text, whatever the settings of server, database and role
    "client_encoding": "UTF8",
    "datestyle": "ISO",
    "intervalstyle": "postgres",
    "timezone": "UTC",
    "extra_float_digits": "1",
    "bytea_output": "hex",
    "lc_monetary": "C",
    "xmlbinary": "base64",
}


def json_value(type_oid: int, text: str) -> Any:
    """Return the value of a built-in type as JSON has it. Other types, and values that JSON lacks, stay texts. Bytes are None."""
    convert = _CONVERSIONS.get(type_oid)
    try:
        return convert(text) if convert else text
    except (ValueError, RecursionError, psycopg2.Error):
        return text


def make_row(columns: Sequence[tuple[str, int]], values: Sequence[str | None], key: str, changed: datetime) -> Row:
    """Return a row from its (name, type) columns and their texts."""
    present = {
        name: json_value(type_oid, text)
        for (name, type_oid), text in zip(columns, values, strict=True)
        if text is not None
    }
    return Row(key, changed, row_body(present), tuple(name for name, _ in columns))


def _float(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError("JSON has no such number")
    return value


def _json(text: str) -> Any:
    return json.loads(text, parse_float=_float, parse_constant=_float)


def _moment(text: str) -> str:
    return datetime.fromisoformat(text).isoformat()


def _array(text: str) -> Any:
    return UNICODEARRAY(text, None)


_CONVERSIONS: Final[Mapping[int, Callable[[str], Any]]] = {
    16: lambda text: text == "t",
    17: lambda text: None,  # bytea
    **dict.fromkeys((20, 21, 23, 26), int),  # int8, int2, int4, oid
    **dict.fromkeys((700, 701), _float),  # float4, float8
    1700: int,  # numeric: a whole number; one with decimals stays a text, which is exact
    **dict.fromkeys((114, 3802), _json),  # json, jsonb
    **dict.fromkeys((1114, 1184), _moment),  # timestamp, timestamptz
    # arrays of text, varchar, char, name, uuid
    **dict.fromkeys((1009, 1015, 1014, 1002, 1003, 2951), _array),
}
