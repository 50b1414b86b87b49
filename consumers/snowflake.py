"""Snowflake by polling. A watermark with an overlap finds most changes fast. A diff of row hashes finds late commits and deletes.

A changed row is first written to the object store, one object per row, and then announced like any file.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import partial

from rag.adapters.snowflake import SnowflakeWarehouse, key_expression
from rag.errors import StaleStream
from rag.ids import row_hash
from rag.ingest.change_events import ObjectChange
from rag.ingest.deletions import REMEDY, is_mass
from rag.ingest.tasks import windows
from rag.ingest.warehouse_rows import (
    RowChange,
    is_refused,
    object_change,
    record_hashes,
    row_uri,
    table_uri,
    write_rows,
)
from rag.ports import Cursors, ObjectStore, Row, StreamedWarehouse, Warehouse
from rag.settings import SourceSettings, snowflake_parameters
from rag.sources import Source
from rag.tables import Table
from rag.telemetry import logger
from rag.wiring import Services

_log = logger(__name__)

PAGE = 500  # rows of one turn: bounds memory and the work that a crash repeats


def streams(chosen: SourceSettings, opened: Services) -> Mapping[str, SnowflakeStream]:
    """Make a stream for each table."""
    settings = opened.settings
    warehouse = SnowflakeWarehouse(snowflake_parameters(settings))
    made: dict[str, SnowflakeStream] = {}
    for each in chosen.tables:
        table = each.mapped()
        make = partial(OutboxStream, stream=each.stream) if each.stream else SnowflakeStream
        made[f"{chosen.name}/{table.name}"] = make(
            chosen.source(),
            table,
            warehouse,
            opened.objects,
            opened.ledger,
            every=settings.poll_seconds,
            diff_every=settings.reconcile_seconds,
            overlap=settings.overlap_seconds,
        )
    return made


def tables(chosen: SourceSettings) -> list[Table]:
    return [each.mapped() for each in chosen.tables]


@dataclass(frozen=True, slots=True)
class Progress:
    """The progress in a table: the last row of a full page (more rows wait behind it), the newest change, the time of the last diff,
    and the numbers of the entries of an outbox that are read."""

    after: Row | None = None
    read: datetime | None = None
    diffed: float = float("-inf")  # monotonic
    entries: tuple[int, ...] = ()

    @property
    def has_more(self) -> bool:
        return self.after is not None or len(self.entries) == PAGE


class SnowflakeStream:
    """The stream of one table. It progresses once the changes are announced. The watermark outlives the process in ``cursors``."""

    def __init__(
        self,
        source: Source,
        table: Table,
        warehouse: Warehouse,
        objects: ObjectStore,
        cursors: Cursors,
        *,
        every: float,
        diff_every: float,
        overlap: float,
    ) -> None:
        self.source = source
        self._table = table
        self._warehouse = warehouse
        self._objects = objects
        self._cursors = cursors
        self._every = every
        self._diff_every = diff_every
        self._overlap = timedelta(seconds=overlap)
        self._cursor = f"{source.name}/{table.name}"
        self._done = Progress()
        self._next = Progress()
        self._changes: dict[str, RowChange] = {}

    async def receive(self) -> Sequence[RowChange]:
        """Return the changes since the last turn. Wait first when the last turn reached the end of the table."""
        if self._done.diffed > float("-inf") and not self._done.has_more:
            await asyncio.sleep(self._every)
        changes = await self._poll()
        if not self._next.has_more and time.monotonic() - self._done.diffed >= self._diff_every:
            changes += await diff(self._table, self.source, self._warehouse, self._objects, self._cursors)
            self._next = replace(self._next, diffed=time.monotonic())
        self._changes = {row_uri(self.source, change.table, change.key): change for change in changes}
        if not changes:
            await self._proceed()
        return list(self._changes.values())

    def decode(self, message: RowChange) -> Sequence[ObjectChange]:
        return (object_change(self.source, message),)

    async def handle(self, changes: Sequence[ObjectChange]) -> Sequence[ObjectChange]:
        """Write the row objects first, so that a reader of the event finds the row."""
        written = await write_rows(self.source, [self._changes[each.uri] for each in changes], self._objects)
        return [object_change(self.source, change) for change in written]

    async def commit(self, messages: Sequence[RowChange]) -> None:
        await record_hashes(self.source, messages, self._cursors)
        await self._proceed()

    async def _poll(self) -> list[RowChange]:
        table, after = self._table, self._done.after
        since = None if after else await self._since()
        key = key_expression(table.key_columns)
        rows = await self._warehouse.changed(table.name, key, table.changed, since=since, after=after, limit=PAGE)
        # A clock that runs ahead, or a date in the far future, must not hide later changes.
        newest = min(rows[-1].changed, datetime.now(UTC)) if rows else self._done.read
        self._next = replace(self._done, after=rows[-1] if len(rows) == PAGE else None, read=newest)
        known = await self._cursors.row_hashes(self.source.name, table.name, [row.key for row in rows])
        return [
            RowChange(table, row.key, row)
            for row in rows
            if known.get(row.key) != table.recorded_hash(row_hash(row.body))
        ]

    async def _since(self) -> datetime | None:
        read = (await self._cursors.cursor(self._cursor)).get("read")
        return datetime.fromisoformat(read) - self._overlap if read else None

    async def _proceed(self) -> None:
        if self._next.read and self._next.read != self._done.read:
            await self._cursors.set_cursor(self._cursor, {"read": self._next.read.isoformat()})
        self._done = self._next


class OutboxStream(SnowflakeStream):
    """The stream of one table by a Snowflake stream. Its changes go to an outbox, whose entries are deleted once they are announced.

    An entry is only a hint of a key: the row is read as it is then, so that its hash is that of the diff.
    """

    def __init__(
        self,
        source: Source,
        table: Table,
        warehouse: StreamedWarehouse,
        objects: ObjectStore,
        cursors: Cursors,
        *,
        stream: str,
        every: float,
        diff_every: float,
        overlap: float,
    ) -> None:
        super().__init__(
            source, table, warehouse, objects, cursors, every=every, diff_every=diff_every, overlap=overlap
        )
        self._streamed = warehouse
        self._stream = stream
        self._outbox = f"{stream}_OUTBOX"
        self._is_stale = False

    async def _poll(self) -> list[RowChange]:
        table, expression = self._table, key_expression(self._table.key_columns)
        entries = await self._streamed.pending(self._outbox, PAGE)
        if not entries and await self._fill(expression):
            entries = await self._streamed.pending(self._outbox, PAGE)
        self._next = replace(self._done, entries=tuple(number for number, _ in entries))
        keys = sorted({key for _, key in entries})
        rows = {row.key: row for row in await self._warehouse.rows(table.name, expression, table.changed, keys)}
        known = await self._cursors.row_hashes(self.source.name, table.name, keys) if keys else {}
        return [
            RowChange(table, key, row)
            for key in keys
            if (row := rows.get(key)) is None or known.get(key) != table.recorded_hash(row_hash(row.body))
        ]

    async def _fill(self, expression: str) -> bool:
        """Return whether the stream was read. When it has become stale, the next diff is due at once."""
        try:
            await self._streamed.fill(self._stream, self._outbox, expression)
        except StaleStream:
            _log.error(
                "rows.stale_stream", source=self.source.name, table=self._table.name, stream=self._stream,
                remedy=f"create or replace stream {self._stream} on table {self._table.name};"
                " until then every change waits for the periodic diff",
            )  # fmt: skip
            if not self._is_stale:
                self._done = replace(self._done, diffed=float("-inf"))
            self._is_stale = True
            return False
        self._is_stale = False
        return True

    async def _proceed(self) -> None:
        await self._streamed.forget(self._outbox, self._next.entries)
        await super()._proceed()


async def diff(
    table: Table,
    source: Source,
    warehouse: Warehouse,
    objects: ObjectStore,
    cursors: Cursors,
    *,
    confirmed: bool = False,
) -> list[RowChange]:
    """Return the rows whose hash differs from the last announced one (late commits), those whose object was lost, and the rows that
    are gone.

    When most of a table is gone at once, a reload is under way or an accident happened: log it, and hold the deletions back until
    ``confirmed``.
    """
    known = await cursors.row_hashes(source.name, table.name)
    expression = key_expression(table.key_columns)
    current = await warehouse.hashes(table.name, expression)
    stored = {state.uri async for state in objects.list(table_uri(source, table))}
    late = {key for key, digest in current.items() if known.get(key) != table.recorded_hash(digest)}
    lost = {key for key in current.keys() - late if row_uri(source, table, key) not in stored}
    gone = sorted(known.keys() - current.keys())
    if is_mass(len(gone), len(known)) and not confirmed:
        _log.error(
            "rows.mass_deletion", source=source.name, table=table.name, gone=len(gone), known=len(known), remedy=REMEDY
        )
        gone = []
    changes = [RowChange(table, key, None, "listing") for key in gone]
    for keys in windows(sorted(late | lost), PAGE):
        rows = await warehouse.rows(table.name, expression, table.changed, keys)
        found = [RowChange(table, row.key, row, "listing") for row in rows]
        # A refused row has no object, and its deletion was announced with its hash.
        changes += [change for change in found if change.key not in lost or not is_refused(change)]
    return changes
