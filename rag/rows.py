"""Warehouse rows as objects: one object per row, so that a row is read, indexed, cited and erased like any file."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from rag.announcements import Notice
from rag.ids import object_uri, row_hash
from rag.ports import Cursors, ObjectStore, Row
from rag.sources import SUBJECTS_LABEL, TITLE_LABEL, Source

MEDIA_TYPE = "application/vnd.tidemark.row+json"
TOGETHER = 16  # row objects written at once


@dataclass(frozen=True, slots=True)
class Table:
    """A mapped table; names are identifiers from the settings."""

    name: str
    key: str
    changed: str
    title: str | None = None
    subjects: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class RowChange:
    """A row to write and announce, or (``row`` None) one that is gone."""

    table: Table
    key: str
    row: Row | None
    origin: str = "poll"


async def write_rows(source: Source, changes: Sequence[RowChange], objects: ObjectStore) -> None:
    """One object per row, deleted with the row."""

    async def one(change: RowChange) -> None:
        if change.row:
            content, labels = row_object(change.table, change.row)
            await objects.put(row_uri(source, change.table, change.key), content, media_type=MEDIA_TYPE, labels=labels)

    for start in range(0, len(changes), TOGETHER):
        await asyncio.gather(*(one(change) for change in changes[start : start + TOGETHER]))
    await objects.delete([row_uri(source, change.table, change.key) for change in changes if change.row is None])


async def remember(source: Source, changes: Sequence[RowChange], cursors: Cursors) -> None:
    """The hashes of what was announced."""
    for table in {change.table for change in changes}:
        mine = [change for change in changes if change.table == table]
        hashes = {change.key: row_hash(change.row.body) for change in mine if change.row}
        await cursors.set_row_hashes(source.name, table.name, hashes, [change.key for change in mine if not change.row])


def row_uri(source: Source, table: Table, key: str) -> str:
    return object_uri(source.base_uri, f"{table.name.lower()}/{key}.json")


def row_object(table: Table, row: Row) -> tuple[bytes, dict[str, str]]:
    """The row as an object: its JSON, and the labels that its columns give."""
    columns: Mapping[str, Any] = json.loads(row.body)
    title = str(columns.get(table.title, "")) if table.title else ""
    title = title or f"{table.name.rsplit('.', 1)[-1].title()} {row.key}"
    body = {"table": table.name, "key": row.key, "title": title, "columns": columns}
    labels = {TITLE_LABEL: title[:300]}
    subjects = [str(columns[name]) for name in table.subjects if columns.get(name)]
    if subjects:
        labels[SUBJECTS_LABEL] = ",".join(subjects)
    return json.dumps(body, ensure_ascii=False, sort_keys=True).encode(), labels


def notice(source: Source, change: RowChange) -> Notice:
    occurred = change.row.changed if change.row else datetime.now(UTC)
    return Notice(row_uri(source, change.table, change.key), occurred, change.origin, is_deletion=change.row is None)
