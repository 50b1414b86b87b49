"""Warehouse rows as objects: one object per row, so that a row is read, indexed, cited and erased like a file."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

from rag.errors import Rejected
from rag.ids import object_name, object_uri, row_hash
from rag.ingest.change_events import ObjectChange
from rag.labels import PRINCIPALS_LABEL, SUBJECTS_LABEL, TITLE_LABEL, encode_label, join_label
from rag.ports import Cursors, ObjectStore, Row
from rag.sources import Source
from rag.tables import Table, plain_text, render, template_columns
from rag.telemetry import SOURCE_ERRORS, logger

_log = logger(__name__)

MEDIA_TYPE = "application/vnd.tidemark.row+json"
TITLE_BYTES, SUBJECTS_BYTES = 500, 1000  # encoded
LABEL_BYTES = 1900  # encoded; S3 allows 2 KB of labels in all, with their names
CONCURRENT_WRITES = 16  # row objects


@dataclass(frozen=True, slots=True)
class RowChange:
    """A row to write and announce, or (``row`` None) a deleted row."""

    table: Table
    key: str
    row: Row | None
    origin: str = "poll"


async def write_rows(source: Source, changes: Sequence[RowChange], objects: ObjectStore) -> list[RowChange]:
    """Write one object per row, and delete the objects of deleted rows. Return the changes made.

    A refused row is counted and becomes a deletion: its older object shows content that the row no longer has.
    """
    written: list[RowChange] = []
    for start in range(0, len(changes), CONCURRENT_WRITES):
        batch = changes[start : start + CONCURRENT_WRITES]
        written += await asyncio.gather(*(_write(source, change, objects) for change in batch))
    await objects.delete([row_uri(source, change.table, change.key) for change in written if change.row is None])
    return written


async def _write(source: Source, change: RowChange, objects: ObjectStore) -> RowChange:
    if change.row is None:
        return change
    try:
        content, labels = row_object(change.table, change.row)
    except Rejected as error:
        SOURCE_ERRORS.labels(source.name, error.reason).inc()
        _log.warning("rows.refused", source=source.name, table=change.table.name, reason=error.reason)
        return replace(change, row=None)
    await objects.put(row_uri(source, change.table, change.key), content, media_type=MEDIA_TYPE, labels=labels)
    return change


def is_refused(change: RowChange) -> bool:
    """Return whether the row of the change cannot become an object."""
    try:
        if change.row:
            row_object(change.table, change.row)
    except Rejected:
        return True
    return False


async def record_hashes(source: Source, changes: Sequence[RowChange], cursors: Cursors) -> None:
    """Record the hashes of the announced rows, so that the next diff finds only later changes."""
    for table in {change.table for change in changes}:
        of_table = [change for change in changes if change.table == table]
        hashes = {change.key: table.recorded_hash(row_hash(change.row.body)) for change in of_table if change.row}
        deleted = [change.key for change in of_table if not change.row]
        await cursors.set_row_hashes(source.name, table.name, hashes, deleted)


def row_uri(source: Source, table: Table, key: str) -> str:
    """Return the uri of a row's object. Characters that a path cannot hold are escaped; a key too long for a name is hashed."""
    return object_uri(source.base_uri, f"{table.name.lower()}/{object_name(key)}.json")


def table_uri(source: Source, table: Table) -> str:
    """Return the prefix of the uris of all rows of a table."""
    return object_uri(source.base_uri, f"{table.name.lower()}/x").removesuffix("x")


def row_object(table: Table, row: Row) -> tuple[bytes, dict[str, str]]:
    """Return the row as JSON, and the labels that its columns give. With a text template, the object has the columns of the template
    only. Column names are matched without case, as in SQL.

    Raises Rejected for a row without a column that the mapping names, without a text, or with more names than labels can hold.
    """
    columns: Mapping[str, Any] = json.loads(row.body)
    folded = {name.casefold(): value for name, value in columns.items()}
    _require_columns(table, row)
    title = str(folded.get(table.title.casefold()) or "") if table.title else ""
    title = title or f"{table.name.rsplit('.', 1)[-1].title()} {row.key}"
    body = {"table": table.name, "key": row.key, "title": title, "columns": columns}
    if table.text is not None:
        read = {name.casefold() for name in template_columns(table.text)}
        if not any(plain_text(folded.get(name)).strip() for name in read):
            raise Rejected(
                f"row {row.key[:40]!r} of {table.name} has a value in none of the columns of the text template: check their names",
                reason="no_text",
            )
        body["text"] = render(table.text, folded)
        body["columns"] = {name: value for name, value in columns.items() if name.casefold() in read}
    return json.dumps(body, ensure_ascii=False, sort_keys=True).encode(), _labels(table, row, title, folded)


def _require_columns(table: Table, row: Row) -> None:
    """Raise Rejected when the mapping names a column that the row's table does not have exactly once. Some sources do not know the
    columns."""
    existing = [name.casefold() for name in row.columns]
    for name in table.columns if existing else ():
        if (number := existing.count(name.casefold())) != 1:
            raise Rejected(
                f"{table.name} has {number} columns {name!r} (case does not count), and its mapping needs one: correct SOURCES",
                reason="ambiguous_column" if number else "unknown_column",
            )


def _labels(table: Table, row: Row, title: str, folded: Mapping[str, Any]) -> dict[str, str]:
    labels = {TITLE_LABEL: encode_label(clipped(title))}
    subjects = [str(folded[name.casefold()]) for name in table.subjects if folded.get(name.casefold())]
    if subjects:
        labels[SUBJECTS_LABEL] = join_label(subjects)
        if len(labels[SUBJECTS_LABEL]) > SUBJECTS_BYTES:
            raise Rejected(
                f"row {row.key[:40]!r} of {table.name} names {len(subjects)} people: map fewer columns as subjects",
                reason="too_many_subjects",
            )
    if table.principals:
        principals = [name for column in table.principals for name in _principals(table, folded.get(column.casefold()))]
        labels[PRINCIPALS_LABEL] = join_label(principals)  # an empty label grants access to no one
        if len("".join(labels.values())) > LABEL_BYTES:
            raise Rejected(
                f"row {row.key[:40]!r} of {table.name} names {len(principals)} principals, more than labels hold: name groups",
                reason="too_many_principals",
            )
    return labels


def _principals(table: Table, value: Any) -> list[str]:
    """Return the principals that a column's value names: one text or number, or a list of them. A blank one grants access to no one."""
    names = value if isinstance(value, list) else [value]
    if any(isinstance(name, (bool, float, list, dict)) for name in names):
        raise Rejected(
            f"a principals column of {table.name} has neither a name nor a list of names: map another column",
            reason="bad_principals",
        )
    return [f"{table.principals_prefix}{text}" for name in names if name is not None and (text := str(name).strip())]


def clipped(title: str) -> str:
    """Return as much of the title as a label holds."""
    plain = "".join(each if each.isprintable() else " " for each in title)
    while len(encode_label(plain)) > TITLE_BYTES:
        plain = plain[: len(plain) * 9 // 10]
    return plain


def object_change(source: Source, change: RowChange) -> ObjectChange:
    """Return the change of the row's object."""
    occurred = change.row.changed if change.row else datetime.now(UTC)
    return ObjectChange(
        row_uri(source, change.table, change.key), occurred, change.origin, is_deletion=change.row is None
    )
