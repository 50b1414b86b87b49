"""Snowflake by polling: a watermark with an overlap for the fast path, a diff of row hashes for late commits and deletes.

A changed row is first written to the object store, one object per row, and then announced like any file.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from datetime import datetime, timedelta

from consumers.listing import REMEDY, is_mass
from rag.announcements import Notice
from rag.ids import row_hash
from rag.ports import Cursors, ObjectStore, Row, Warehouse
from rag.rows import RowChange, Table, notice, remember, row_uri, write_rows
from rag.sources import Source
from rag.telemetry import logger

_log = logger(__name__)

PAGE = 500  # rows of one turn: bounds memory and what a crash repeats


class SnowflakeStream:
    """Tables take turns; the watermark of each is in ``cursors`` and moves when its rows were announced."""

    def __init__(
        self,
        source: Source,
        tables: Sequence[Table],
        warehouse: Warehouse,
        objects: ObjectStore,
        cursors: Cursors,
        *,
        every: float,
        diff_every: float,
        overlap: float,
    ) -> None:
        self.source = source
        self._tables = tables
        self._warehouse = warehouse
        self._objects = objects
        self._cursors = cursors
        self._every = every
        self._diff_every = diff_every
        self._overlap = timedelta(seconds=overlap)
        self._after: dict[str, Row | None] = {}
        self._diffed: dict[str, float] = {}
        self._changes: dict[str, RowChange] = {}
        self._read: dict[str, datetime] = {}

    async def receive(self) -> Sequence[RowChange]:
        """Changes of all tables since the last turn; waits when the last turn had found all there was."""
        if self._diffed and not any(self._after.values()):
            await asyncio.sleep(self._every)
        changes: list[RowChange] = []
        for table in self._tables:
            changes += await self._poll(table)
            if (
                time.monotonic() - self._diffed.get(table.name, float("-inf")) >= self._diff_every
                and not self._after[table.name]
            ):
                changes += await diff(table, self.source, self._warehouse, self._cursors)
                self._diffed[table.name] = time.monotonic()
        latest = {row_uri(self.source, change.table, change.key): change for change in changes}
        self._changes = latest
        return list(latest.values())

    def decode(self, message: RowChange) -> Sequence[Notice]:
        return (notice(self.source, message),)

    async def handle(self, notices: Sequence[Notice]) -> Sequence[Notice]:
        """Row objects first: whoever reads the event finds the row."""
        changes = [self._changes[notice.uri] for notice in notices]
        await write_rows(self.source, changes, self._objects)
        return notices

    async def commit(self, messages: Sequence[RowChange]) -> None:
        await remember(self.source, messages, self._cursors)
        for name, read in self._read.items():
            await self._cursors.set_cursor(self._cursor(name), {"read": read.isoformat()})

    async def _poll(self, table: Table) -> list[RowChange]:
        after = self._after.get(table.name)
        since = None if after else await self._since(table)
        rows = await self._warehouse.changed(table.name, table.key, table.changed, since=since, after=after, limit=PAGE)
        self._after[table.name] = rows[-1] if len(rows) == PAGE else None
        if rows:
            self._read[table.name] = rows[-1].changed
        known = await self._cursors.row_hashes(self.source.name, table.name, [row.key for row in rows])
        return [RowChange(table, row.key, row) for row in rows if known.get(row.key) != row_hash(row.body)]

    async def _since(self, table: Table) -> datetime | None:
        read = (await self._cursors.cursor(self._cursor(table.name))).get("read")
        return datetime.fromisoformat(read) - self._overlap if read else None

    def _cursor(self, table: str) -> str:
        return f"{self.source.name}/{table}"


async def diff(
    table: Table, source: Source, warehouse: Warehouse, cursors: Cursors, *, confirmed: bool = False
) -> list[RowChange]:
    """Rows whose hash is not the one last announced (late commits), and rows that are gone.

    Most of a table gone at once is a reload under way, or an accident: reported and held back until ``confirmed``.
    """
    known = await cursors.row_hashes(source.name, table.name)
    current = await warehouse.hashes(table.name, table.key)
    late = sorted(key for key, digest in current.items() if known.get(key) != digest)
    gone = sorted(known.keys() - current.keys())
    if is_mass(len(gone), len(known)) and not confirmed:
        _log.error(
            "rows.mass_deletion", source=source.name, table=table.name, gone=len(gone), known=len(known), remedy=REMEDY
        )
        gone = []
    changes = [RowChange(table, key, None, "listing") for key in gone]
    for start in range(0, len(late), PAGE):
        rows = await warehouse.rows(table.name, table.key, table.changed, late[start : start + PAGE])
        changes += [RowChange(table, row.key, row, "listing") for row in rows]
    return changes
