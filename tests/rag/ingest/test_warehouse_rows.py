from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st

from rag.adapters.memory.ledger import MemoryLedger
from rag.adapters.memory.objects import MemoryObjects
from rag.errors import Rejected
from rag.ids import object_key, row_hash
from rag.ingest.warehouse_rows import (
    SUBJECTS_BYTES,
    TITLE_BYTES,
    RowChange,
    object_change,
    record_hashes,
    row_object,
    row_uri,
    table_uri,
    write_rows,
)
from rag.labels import decode_label, encode_label, split_label
from rag.ports import Row
from rag.sources import Source
from rag.tables import Table

SOURCE = Source("snowflake", "acme", "s3://internal/rows", ("group:staff",))
TICKETS = Table("PUBLIC.TICKETS", "ID", "UPDATED_AT", "Subject", ("email", "OWNER"))
NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)


def row(key: str = "7", **columns: Any) -> Row:
    return Row(key, NOON, json.dumps({"ID": key, **columns}))


# -- a row as an object


def test_a_row_becomes_json_with_its_title_and_the_people_it_names() -> None:
    content, labels = row_object(TICKETS, row(SUBJECT="Pump leaks", EMAIL="pat@example.com", owner="Kim, M."))
    body = json.loads(content)
    assert (body["table"], body["key"], body["title"]) == ("PUBLIC.TICKETS", "7", "Pump leaks")
    assert body["columns"]["EMAIL"] == "pat@example.com"
    assert decode_label(labels["title"]) == "Pump leaks"
    assert split_label(labels["subjects"]) == ("pat@example.com", "Kim, M.")


def test_equal_rows_are_equal_bytes_whatever_the_order_of_their_columns() -> None:
    one, other = row(A=1, B="ü"), Row("7", NOON, json.dumps({"B": "ü", "ID": "7", "A": 1}))
    assert row_object(TICKETS, one) == row_object(TICKETS, other)


@pytest.mark.parametrize("columns", [{}, {"SUBJECT": None}, {"SUBJECT": ""}])
def test_a_row_without_a_title_is_called_by_its_table_and_key(columns: dict[str, Any]) -> None:
    assert row_object(TICKETS, row(**columns))[1] == {"title": encode_label("Tickets 7")}
    assert row_object(Table("T", "ID", "AT"), row(**columns))[1] == {"title": encode_label("T 7")}


@pytest.mark.parametrize("title", ["x" * 5000, "ü" * 900, "tab\tand\nline\x00", "🚀" * 300])
def test_a_title_fits_a_label_and_is_printable(title: str) -> None:
    label = row_object(TICKETS, row(SUBJECT=title))[1]["title"]
    assert 0 < len(label.encode()) <= TITLE_BYTES
    assert decode_label(label).isprintable()


def test_a_row_that_names_too_many_people_is_refused_without_their_names() -> None:
    names = Table("T", "ID", "AT", None, tuple(f"P{number}" for number in range(60)))
    crowd = row(**{f"P{number}": f"person-{number}@example.com" for number in range(60)})
    assert SUBJECTS_BYTES < 60 * 20
    with pytest.raises(Rejected, match="names 60 people") as caught:
        row_object(names, crowd)
    assert caught.value.reason == "too_many_subjects"
    assert "@" not in str(caught.value)


# -- a mapping with a text and principals

NOTES = Table("NOTES", "ID", "AT", text="{NAME} wrote: {note}", principals=("TEAM",), principals_prefix="group:")


def principals(value: Any, table: Table = NOTES) -> tuple[str, ...]:
    labels = row_object(table, row(NAME="Ann", TEAM=value))[1]
    return SOURCE.access(row_uri(SOURCE, table, "7"), labels).principals


def test_a_template_is_the_text_and_the_object_has_its_columns_only() -> None:
    body = json.loads(row_object(NOTES, row(name="Ann", NOTE="It leaks.", SALARY=1))[0])
    assert body["text"] == "Ann wrote: It leaks."
    assert body["columns"] == {"name": "Ann", "NOTE": "It leaks."}


def test_a_row_without_a_text_is_refused() -> None:
    with pytest.raises(Rejected) as caught:
        row_object(NOTES, row(NAME=" ", OTHER="x"))
    assert caught.value.reason == "no_text"


def test_a_row_names_its_principals() -> None:
    assert principals("finance") == ("group:finance",)
    assert principals(["a,b", 7, None, ""]) == ("group:7", "group:a,b")


@pytest.mark.parametrize("value", [None, "", "  ", []])
def test_a_row_without_principals_grants_access_to_no_one(value: Any) -> None:
    assert principals(value) == ()


@pytest.mark.parametrize("value", [True, 1.5, {"a": 1}, [["a"]]])
def test_a_value_that_is_not_a_name_is_refused(value: Any) -> None:
    with pytest.raises(Rejected) as caught:
        principals(value)
    assert caught.value.reason == "bad_principals"


def test_more_principals_than_labels_hold_are_refused() -> None:
    with pytest.raises(Rejected) as caught:
        principals([f"team-{number}" for number in range(300)])
    assert caught.value.reason == "too_many_principals"


@pytest.mark.parametrize(
    ("columns", "reason"),
    [(("ID", "NAME", "NOTE"), "unknown_column"), (("ID", "NAME", "NOTE", "Team", "TEAM"), "ambiguous_column")],
)
def test_a_column_that_the_table_does_not_have_once_is_refused(columns: tuple[str, ...], reason: str) -> None:
    known = Row("7", NOON, json.dumps({"ID": 7, "NAME": "Ann", "TEAM": "a"}), columns)
    with pytest.raises(Rejected) as caught:
        row_object(NOTES, known)
    assert caught.value.reason == reason


# -- addresses


@given(
    st.text(st.characters(codec="utf-8"), min_size=1, max_size=600),
    st.text(st.characters(codec="utf-8"), min_size=1, max_size=600),
)
def test_every_key_has_an_address_of_its_own_below_its_table(one: str, other: str) -> None:
    first, second = (row_uri(SOURCE, TICKETS, key) for key in (one, other))
    assert first.startswith(table_uri(SOURCE, TICKETS))
    container, key = object_key(first)
    assert container == "s3://internal"
    assert key.count("/") == 2
    assert len(key.encode()) <= 1024
    assert (first == second) is (one == other)


def test_tables_do_not_share_addresses() -> None:
    other = Table("PUBLIC.TICKETS_OLD", "ID", "AT")
    assert not row_uri(SOURCE, other, "7").startswith(table_uri(SOURCE, TICKETS))


# -- writing and announcing


async def test_rows_are_written_deleted_and_refused_one_by_one() -> None:
    objects = MemoryObjects("s3://internal")
    await objects.put(row_uri(SOURCE, TICKETS, "gone"), b"{}")
    crowded = Table("PUBLIC.TICKETS", "ID", "AT", None, tuple(f"P{number}" for number in range(60)))
    crowd = row("crowd", **{f"P{number}": f"person-{number}@example.com" for number in range(60)})
    await objects.put(row_uri(SOURCE, TICKETS, "crowd"), b"{}")
    changes = [
        RowChange(TICKETS, "7", row(SUBJECT="A")),
        RowChange(crowded, "crowd", crowd),
        RowChange(TICKETS, "gone", None, "listing"),
        *(RowChange(TICKETS, str(number), row(str(number))) for number in range(100, 140)),
    ]
    with structlog.testing.capture_logs() as logs:
        written = await write_rows(SOURCE, changes, objects)
    assert [change.key for change in written] == [change.key for change in changes]
    assert [change.key for change in written if change.row is None] == ["crowd", "gone"]
    assert [each["reason"] for each in logs] == ["too_many_subjects"]
    assert await objects.head(row_uri(SOURCE, TICKETS, "gone")) is None
    assert await objects.head(row_uri(SOURCE, TICKETS, "crowd")) is None
    state = await objects.head(row_uri(SOURCE, TICKETS, "7"))
    assert state
    assert (state.media_type, state.labels) == ("application/vnd.tidemark.row+json", {"title": "A"})


def test_a_change_of_a_row_is_a_change_of_its_object() -> None:
    changed = object_change(SOURCE, RowChange(TICKETS, "7", row()))
    assert (changed.uri, changed.occurred_at, changed.is_deletion) == (row_uri(SOURCE, TICKETS, "7"), NOON, False)
    gone = object_change(SOURCE, RowChange(TICKETS, "7", None, "listing"))
    assert (gone.uri, gone.is_deletion, gone.origin) == (changed.uri, True, "listing")


async def test_hashes_of_announced_rows_are_kept_by_table_and_dropped_with_the_row() -> None:
    ledger = MemoryLedger()
    other = Table("NOTES", "ID", "AT")
    await record_hashes(SOURCE, [RowChange(TICKETS, "7", row()), RowChange(other, "7", row(A=1))], ledger)
    assert await ledger.row_hashes("snowflake", "PUBLIC.TICKETS") == {"7": TICKETS.recorded_hash(row_hash(row().body))}
    assert await ledger.row_hashes("snowflake", "NOTES") == {"7": other.recorded_hash(row_hash(row(A=1).body))}
    await record_hashes(SOURCE, [RowChange(TICKETS, "7", None)], ledger)
    assert await ledger.row_hashes("snowflake", "PUBLIC.TICKETS") == {}
    assert await ledger.row_hashes("snowflake", "NOTES")
