from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import pytest

from rag.adapters.postgres_values import json_value, make_row


@pytest.mark.parametrize(
    ("type_oid", "text", "value"),
    [
        (16, "t", True),
        (16, "f", False),
        (20, "-9223372036854775808", -(2**63)),
        (701, "1e300", 1e300),
        (701, "NaN", "NaN"),
        (1700, "12", 12),
        (1700, "12.30", "12.30"),
        (1700, "9" * 5000, "9" * 5000),
        (3802, '{"a": [null, "ü"]}', {"a": [None, "ü"]}),
        (114, '{"a": 1e999}', '{"a": 1e999}'),
        (114, "[" * 100_000, "[" * 100_000),
        (1184, "2026-03-01 12:00:00.5+00", "2026-03-01T12:00:00.500000+00:00"),
        (1114, "0044-03-15 00:00:00 BC", "0044-03-15 00:00:00 BC"),
        (17, "\\x00", None),
        (1009, '{"a,b",NULL,c}', ["a,b", None, "c"]),
        (1009, "[0:0]={a}", ["a"]),
        (3614, "'a' 'b'", "'a' 'b'"),
    ],
)
def test_a_value_is_that_of_json_or_its_text(type_oid: int, text: str, value: Any) -> None:
    assert json_value(type_oid, text) == value


def test_a_row_leaves_out_nulls_and_knows_all_columns() -> None:
    row = make_row((("id", 23), ("note", 25), ("data", 114)), ("1", None, '"\\ud800"'), "1", datetime.now(UTC))
    assert json.loads(row.body) == {"id": 1, "data": "?"}
    assert row.columns == ("id", "note", "data")
