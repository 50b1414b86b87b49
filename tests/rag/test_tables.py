from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rag.ids import fingerprint
from rag.tables import Table, key_values, render, row_key, template_columns

TABLE = Table("NOTES", "ID", "AT", "TITLE", ("EMAIL",))


def test_a_template_renders_values_as_text() -> None:
    columns = {"name": "Ann {x}", "count": 3, "is_open": True, "tags": ["a", "ü"], "gone": None}
    template = "{{{NAME}}} {Count} {IS_OPEN} {TAGS} [{GONE}] [{MISSING}]"
    assert render(template, columns) == '{Ann {x}} 3 true ["a", "ü"] [] []'
    assert template_columns(template) == ("NAME", "Count", "IS_OPEN", "TAGS", "GONE", "MISSING")


@pytest.mark.parametrize(
    "template", ["{a.b}", "{a[0]}", "{a!s}", "{a:5}", "{a:{b}}", "{0}", "{}", "{a", "a}", "", "plain"]
)
def test_a_template_has_column_names_and_nothing_else(template: str) -> None:
    with pytest.raises(ValueError, match="template"):
        template_columns(template)


@given(st.lists(st.text(alphabet="a/~01", max_size=4), min_size=2, max_size=3))
def test_a_compound_key_has_the_values_it_was_made_of(values: list[str]) -> None:
    assert key_values(row_key(values), len(values)) == tuple(values)


def test_a_plain_key_is_its_value() -> None:
    assert row_key(["a/~b"]) == "a/~b"
    assert key_values("a/~b", 1) == ("a/~b",)


def test_every_part_of_the_mapping_changes_its_hash() -> None:
    others = [
        replace(TABLE, key=("ID", "B")),
        replace(TABLE, title=None),
        replace(TABLE, subjects=()),
        replace(TABLE, text="{A}"),
        replace(TABLE, text="{B}"),
        replace(TABLE, principals=("A",)),
        replace(TABLE, principals=("A",), principals_prefix="group:"),
    ]
    assert len({each.mapping for each in [TABLE, *others]}) == len(others) + 1


def test_a_mapping_without_the_newer_parts_keeps_its_hash_so_no_row_is_announced_again() -> None:
    assert TABLE.mapping == fingerprint({"key": "ID", "title": "TITLE", "subjects": ("EMAIL",)})
    assert replace(TABLE, key=("ID",)).mapping == TABLE.mapping
