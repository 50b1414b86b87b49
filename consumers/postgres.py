"""PostgreSQL by its log: a snapshot of the mapped tables, then every committed change, in order.

A row is written as an object and announced, as in ``consumers.snowflake``. The server's slot keeps the progress. It is confirmed when the
changes are announced and their hashes are recorded, so that a crash repeats changes and loses none.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

from pydantic import BaseModel, Field

from rag.adapters.pgoutput import Begin, Commit, Delete, Relation, Toast, Truncate, Upsert, Values
from rag.adapters.postgres_replication import CapturedTable, Misconfigured, PostgresSession, connection_parameters
from rag.errors import Unavailable
from rag.ids import row_hash
from rag.ingest.change_events import ObjectChange
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
from rag.ports import Cursors, ObjectStore
from rag.settings import SourceSettings
from rag.sources import Source
from rag.tables import Table
from rag.telemetry import SOURCE_LAG_BYTES, logger
from rag.wiring import Services

_log = logger(__name__)

PAGE = 500  # rows of one turn: bounds memory and the work that a crash repeats
PAGE_BYTES = 16 * 2**20  # of messages of one turn
WAIT_SECONDS = 1.0  # for the first message of a turn
LAG_SECONDS = 10.0  # between two measurements of the slot

P = ParamSpec("P")
T = TypeVar("T")


class PostgresOptions(BaseModel, extra="forbid", hide_input_in_errors=True):
    """The ``options`` of a source of the kind ``postgres``."""

    dsn_file: (
        Path  # holds a libpq connection string or URI; it is read for each connection, so that a password may change
    )
    publication: str = Field("tidemark", pattern=r"^[A-Za-z_][A-Za-z0-9_$]{0,62}$")
    slot: str = Field("tidemark", pattern=r"^[a-z_][a-z0-9_]{0,53}$")  # each snapshot adds nine characters of its own


def streams(chosen: SourceSettings, opened: Services) -> Mapping[str, PostgresStream]:
    """Make the stream of the source's slot, which has the changes of all its tables."""
    options = PostgresOptions.model_validate(chosen.options)
    tables = tuple(each.mapped() for each in chosen.tables)
    if not tables:
        raise ValueError(f"source {chosen.name!r} maps no table: add tables in SOURCES")
    is_production = opened.settings.tidemark_environment == "production"

    def connect() -> PostgresSession:
        return open_session(options, tables, require_tls=is_production)

    return {chosen.name: PostgresStream(chosen.source(), tables, connect, opened.objects, opened.ledger)}


def open_session(options: PostgresOptions, tables: Sequence[Table], *, require_tls: bool = False) -> PostgresSession:
    """Connect to the database. Raises Unavailable, also for an unreadable file."""
    try:
        dsn = options.dsn_file.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise Unavailable(f"dsn_file {options.dsn_file} cannot be read ({type(error).__name__}): mount it") from error
    parameters = connection_parameters(dsn, require_tls=require_tls)
    return PostgresSession(parameters, options.publication, options.slot, tables)


Found = dict[tuple[str, str], RowChange | None]
"""(table, key) → the last change of the row, or None for a row that must be read back, because a value was not sent."""


@dataclass(frozen=True, slots=True)
class Batch:
    """Changes of one turn. ``confirmed`` is the position to confirm when they are announced; 0 in the middle of a transaction."""

    changes: tuple[RowChange, ...] = ()
    confirmed: int = 0


@dataclass(slots=True)
class Shapes:
    """The progress through the stream's messages: the present shape of each table, and the open transaction."""

    tables: dict[int, CapturedTable]
    committed_at: datetime = field(default_factory=lambda: datetime.now(UTC))
    is_open: bool = False  # within a transaction


class PostgresStream:
    """The stream of one slot. A batch that was not committed is returned again."""

    def __init__(
        self,
        source: Source,
        tables: Sequence[Table],
        connect: Callable[[], PostgresSession],
        objects: ObjectStore,
        cursors: Cursors,
    ) -> None:
        self.source = source
        self._tables = tables
        self._connect = connect
        self._objects = objects
        self._cursors = cursors
        self._cursor = f"{source.name}/postgres"
        self._session: PostgresSession | None = None
        self._slot = ""
        self._snapshot: AsyncIterator[Batch] | None = None
        self._shapes = Shapes({})
        self._waiting: deque[Batch] = deque()  # the first one is not committed
        self._changes: dict[str, RowChange] = {}
        self._measured = float("-inf")

    async def receive(self) -> Sequence[RowChange]:
        """Return the next changes, each row once."""
        try:
            if not self._waiting:
                self._waiting.extend(await self._next())
        except BaseException as error:
            await self._disconnect(cancelled=isinstance(error, asyncio.CancelledError))
            if isinstance(error, Misconfigured):  # changes may pass by meanwhile: compare all rows afterwards
                await self._cursors.set_cursor(self._cursor, {})
            raise
        changes = self._waiting[0].changes if self._waiting else ()
        self._changes = {row_uri(self.source, change.table, change.key): change for change in changes}
        if self._waiting and not changes:
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

    async def close(self) -> None:
        """Close the connections. The next turn opens them again."""
        await self._disconnect(cancelled=False)

    async def _proceed(self) -> None:
        """Confirm the first batch. When the connection is lost, the server sends it again, and its hashes show that it is known."""
        batch = self._waiting.popleft()
        if not batch.confirmed or self._session is None:
            return
        try:
            await asyncio.to_thread(self._session.confirm, batch.confirmed)
        except Unavailable as error:
            _log.warning("postgres.unconfirmed", source=self.source.name, why=str(error))
            await self._disconnect(cancelled=False)

    async def _next(self) -> list[Batch]:
        session = self._session or await self._open()
        if self._snapshot is not None:
            batch = await anext(self._snapshot, None)
            if batch is not None:
                return [batch]
            await self._finish_snapshot(session)
        if time.monotonic() - self._measured >= LAG_SECONDS:
            await asyncio.to_thread(session.require_tables)
            SOURCE_LAG_BYTES.labels(self.source.name).set(await asyncio.to_thread(session.lag, self._slot))
            self._measured = time.monotonic()
        return await self._read(session)

    # -- connection and snapshot

    async def _open(self) -> PostgresSession:
        """Connect, and go on with the slot, or begin a snapshot when the slot cannot have every change since the last one."""
        session = self._session = await asyncio.to_thread(self._connect)
        self._waiting.clear()
        self._shapes = Shapes({captured.oid: captured for captured in session.tables})
        recorded = await self._cursors.cursor(self._cursor)
        slot = str(recorded.get("slot", ""))
        if recorded == self._progress(session, slot) and await asyncio.to_thread(session.has_slot, slot):
            await self._start(session, slot)
        else:
            self._slot = await asyncio.to_thread(session.create_slot)
            self._snapshot = self._read_snapshot(session)
            _log.info("postgres.snapshot", source=self.source.name, slot=self._slot)
        return session

    def _progress(self, session: PostgresSession, slot: str) -> dict[str, Any]:
        """Return the cursor of a complete snapshot: the slot is good for this database and these mappings only."""
        origin = session.origin
        return {
            "slot": slot,
            "system": origin.system,
            "timeline": origin.timeline,
            "database": origin.database,
            "tables": {each.table.name: f"{each.oid}/{each.table.mapping}" for each in session.tables},
        }

    async def _start(self, session: PostgresSession, slot: str) -> None:
        await asyncio.to_thread(session.start, slot)
        self._slot = slot

    async def _finish_snapshot(self, session: PostgresSession) -> None:
        """Record that the snapshot is announced: from now on, the slot has every later change."""
        self._snapshot = None
        await asyncio.to_thread(session.end_snapshot)
        await self._cursors.set_cursor(self._cursor, self._progress(session, self._slot))
        await self._start(session, self._slot)

    async def _read_snapshot(self, session: PostgresSession) -> AsyncIterator[Batch]:
        """Yield the rows that differ from the announced ones, those whose object was lost, and the rows that are gone."""
        for captured in session.tables:
            table = captured.table
            known = await self._cursors.row_hashes(self.source.name, table.name)
            stored = {state.uri async for state in self._objects.list(table_uri(self.source, table))}
            after: str | None = None
            while rows := await asyncio.to_thread(session.page, captured, after, PAGE):
                changes = [RowChange(table, row.key, row, "listing") for row in rows]
                yield Batch(
                    tuple(
                        change
                        for change in changes
                        if _is_new(change, known.pop(change.key, None))
                        or (row_uri(self.source, table, change.key) not in stored and not is_refused(change))
                    )
                )
                after = rows[-1].key
            for keys in windows(sorted(known), PAGE):
                yield Batch(tuple(RowChange(table, key, None, "listing") for key in keys))

    async def _disconnect(self, *, cancelled: bool) -> None:
        """Forget everything that is not confirmed, and close the connections. A cancelled turn does not wait for the server."""
        session, self._session, self._snapshot = self._session, None, None
        self._waiting.clear()
        if session is not None:
            if cancelled:
                await asyncio.shield(asyncio.to_thread(session.cancel))
            await asyncio.shield(asyncio.to_thread(session.close))

    # -- the stream

    async def _read(self, session: PostgresSession) -> list[Batch]:
        messages = await asyncio.to_thread(session.read, PAGE, PAGE_BYTES, WAIT_SECONDS)
        if not messages:
            # Without this, the server would keep the log of other tables and databases for a quiet source.
            return [] if self._shapes.is_open else [Batch(confirmed=session.received)]
        found: Found = {}
        confirmed = 0
        for message in messages:
            if isinstance(message, Commit):
                self._shapes.is_open, confirmed = False, message.end
            elif isinstance(message, Begin):
                self._shapes.is_open, self._shapes.committed_at = True, message.committed_at
            elif isinstance(message, Relation):
                await self._reshape(message, session)
            elif isinstance(message, Truncate):
                await self._truncate(message, found)
            elif captured := self._shapes.tables.get(message.oid):
                _apply(message, captured, self._shapes.committed_at, found)
        changes = await self._settled(found, session)
        pages = [Batch(tuple(page)) for page in windows(changes, PAGE)] or [Batch()]
        return [*pages[:-1], Batch(pages[-1].changes, confirmed)]

    async def _reshape(self, relation: Relation, session: PostgresSession) -> None:
        """Learn the shape of the next rows. A mapped table that is another one now, or has another name, needs a new snapshot."""
        for captured in list(self._shapes.tables.values()):
            if captured.oid == relation.oid:
                self._shapes.tables[relation.oid] = await asyncio.to_thread(session.reshaped, captured, relation)
            elif (captured.schema, captured.name) == (relation.schema, relation.name):
                raise Unavailable(
                    f"table {captured.schema}.{captured.name} was created again: its rows are compared anew"
                )

    async def _truncate(self, message: Truncate, found: Found) -> None:
        """Put the deletion of every row that was announced, or is about to be, into ``found``."""
        for oid in message.oids:
            if captured := self._shapes.tables.get(oid):
                table = captured.table
                announced = await self._cursors.row_hashes(self.source.name, table.name)
                pending = [key for name, key in found if name == table.name]
                for key in dict.fromkeys([*announced, *pending]):
                    found[table.name, key] = RowChange(table, key, None)

    async def _settled(self, found: Found, session: PostgresSession) -> list[RowChange]:
        """Return the changes with the rows that had to be read back, without the rows that are announced as they are."""
        changes: list[RowChange] = []
        for table in self._tables:
            own = {key: change for (name, key), change in found.items() if name == table.name}
            for keys in windows([key for key, change in own.items() if change is None], PAGE):
                rows = await asyncio.to_thread(session.rows, table, keys)
                # A row that is gone by now is deleted by a later message.
                own |= {key: RowChange(table, key, rows.get(key)) for key in keys}
            settled = [change for change in own.values() if change]
            upserts = [change.key for change in settled if change.row]
            known = await self._cursors.row_hashes(self.source.name, table.name, upserts) if upserts else {}
            changes += [change for change in settled if not change.row or _is_new(change, known.get(change.key))]
        return changes


def _apply(message: Upsert | Delete, captured: CapturedTable, committed_at: datetime, found: Found) -> None:
    """Put the change of a row into ``found``. A later change of a row replaces an earlier one."""
    table, old = captured.table, _key(captured, message.old)
    if isinstance(message, Delete):
        if old is not None:
            found[table.name, old] = RowChange(table, old, None)
        return
    values = _whole(message)
    key = _key(captured, values)
    if old is not None and old != key:
        found[table.name, old] = RowChange(table, old, None)
    if key is not None:
        is_whole = Toast.UNCHANGED not in values
        row = captured.row(_texts(values), committed_at) if is_whole else None
        found[table.name, key] = RowChange(table, key, row) if is_whole else None


def _is_new(change: RowChange, known: str | None) -> bool:
    return change.row is not None and known != change.table.recorded_hash(row_hash(change.row.body))


def _whole(message: Upsert) -> Values:
    """Return the new row, with the values that were not sent taken from the old row as far as it has them."""
    if message.old is None:
        return message.new
    return tuple(
        old if new is Toast.UNCHANGED and (message.is_old_full or old is not None) else new
        for new, old in zip(message.new, message.old, strict=True)
    )


def _key(captured: CapturedTable, values: Values | None) -> str | None:
    if values is None:
        return None
    if len(values) != len(captured.columns):
        raise Unavailable(
            f"a change of {captured.schema}.{captured.name} has {len(values)} values, not {len(captured.columns)}"
        )
    return captured.row_key(values)


def _texts(values: Values) -> list[str | None]:
    return [value for value in values if value is not Toast.UNCHANGED]
