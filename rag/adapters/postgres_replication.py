"""The changes of PostgreSQL tables by logical replication: a slot, its snapshot, and the stream of the plugin ``pgoutput``.

Progress is kept by the slot. Its name has a random part, so that a slot that someone made again is never taken for the one whose
snapshot was read.
"""

from __future__ import annotations

import re
import secrets
import select
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

import psycopg2
from psycopg2 import sql
from psycopg2.extensions import ISOLATION_LEVEL_AUTOCOMMIT, new_type, parse_dsn, register_type, string_types
from psycopg2.extras import LogicalReplicationConnection

from rag.adapters.pgoutput import FULL, Message, Relation, decode
from rag.adapters.postgres_values import SESSION, make_row
from rag.errors import Unavailable
from rag.ports import Row
from rag.tables import Table, key_values, row_key

CONNECT_SECONDS: Final = 10
FEEDBACK_SECONDS: Final = 10.0  # at most, between two signs of life; the server's wal_sender_timeout is 60 by default
TLS_MODES: Final = frozenset({"require", "verify-ca", "verify-full"})
_TEXTS = new_type(tuple(string_types), "TEXTS", lambda value, _: value)  # the server's texts, as in the stream


@dataclass(frozen=True, slots=True)
class Origin:
    """The database that a snapshot was read from. After a restore or a failover, another one may answer at the address."""

    system: str
    timeline: str
    database: str


@dataclass(frozen=True, slots=True)
class CapturedTable:
    """A mapped table as the database has it: the published columns with their types, and the positions of the key's columns."""

    table: Table
    oid: int
    schema: str
    name: str
    columns: tuple[tuple[str, int], ...]
    key: tuple[int, ...]

    @property
    def identifier(self) -> sql.Identifier:
        return sql.Identifier(self.schema, self.name)

    @property
    def key_identifiers(self) -> sql.Composed:
        return sql.SQL(", ").join(sql.Identifier(self.columns[at][0]) for at in self.key)

    def row(self, values: Sequence[str | None], changed: datetime) -> Row | None:
        """Return the row, or None for one whose key has a null."""
        key = self.row_key(values)
        return None if key is None else make_row(self.columns, values, key, changed)

    def row_key(self, values: Sequence[Any]) -> str | None:
        parts = [values[at] for at in self.key]
        return row_key(parts) if all(isinstance(part, str) for part in parts) else None


class Misconfigured(Unavailable):
    """A database that is not set up for the source. The message has the remedy. Changes may be missed until then."""


class PostgresSession:
    """The connections of one source to its database. Its methods block, and all but ``cancel`` are called by one thread at a time.

    Every method raises Unavailable when the server does not answer, refuses, or is not configured for the source.
    """

    def __init__(self, parameters: Mapping[str, str], publication: str, slot: str, tables: Sequence[Table]) -> None:
        self._parameters = dict(parameters)
        self._publication = publication
        self._slot = slot
        self._lock = threading.Lock()  # of the replication connection, which a thread keeps alive
        self._ended = threading.Event()
        self._snapshot: Any = None
        self._stream: Any = None
        self._base_types: dict[int, int] = {}
        self._replication: Any = None
        self._queries = self._connect()
        try:
            with _translated("the set-up of change capture"):
                self._acquire()
                self._replication = self._connect(LogicalReplicationConnection)
                self.origin = self._identify()
                self._require_publication()
                self.tables = tuple(self._captured(table) for table in tables)
        except BaseException:
            self.close()
            raise

    # -- the slot

    def has_slot(self, name: str) -> bool:
        """Return whether the slot exists and has all changes since its creation that were not confirmed."""
        found = self._query(
            "select active_pid from pg_replication_slots where slot_name = %s and database = current_database()"
            " and plugin = 'pgoutput' and wal_status is distinct from 'lost'",
            (name,),
        )
        if found and found[0][0]:
            raise Unavailable(
                f"slot {name} is in use by process {found[0][0]} of the server: wait, or end that process"
            )
        return bool(found)

    def create_slot(self) -> str:
        """Drop the earlier slots of the source, create one, and open its snapshot for ``page``. Return its name."""
        with _translated(f"the creation of a slot {self._slot}_..."):
            for name, active in self._query(
                "select slot_name, active_pid from pg_replication_slots where database = current_database() and slot_name ~ %s",
                (f"^{re.escape(self._slot)}_[0-9a-f]{{8}}$",),
            ):
                if active:
                    raise Unavailable(
                        f"slot {name} is in use by process {active} of the server: wait, or end that process"
                    )
                self._query("select pg_drop_replication_slot(%s)", (name,))
            name = f"{self._slot}_{secrets.token_hex(4)}"
            cursor = self._replication.cursor()
            cursor.execute(f'CREATE_REPLICATION_SLOT "{name}" LOGICAL pgoutput EXPORT_SNAPSHOT')
            snapshot = cursor.fetchone()[2]
            self._snapshot = self._connect()
            self._snapshot.set_session(isolation_level="REPEATABLE READ", readonly=True, autocommit=False)
            with self._snapshot.cursor() as reading:
                reading.execute("set transaction snapshot %s", (snapshot,))
        return name

    def page(self, captured: CapturedTable, after: str | None, limit: int) -> list[Row]:
        """Return the next rows of the snapshot in order of the key."""
        where = self._not_null(captured)
        if after is not None:
            bound = sql.SQL(", ").join(sql.Literal(value) for value in key_values(after, len(captured.key)))
            where += sql.SQL(" and ({}) > ({})").format(captured.key_identifiers, bound)
        tail = sql.SQL(" order by {} limit {}").format(captured.key_identifiers, sql.Literal(limit))
        return self._rows(self._snapshot, captured, where + tail)

    def end_snapshot(self) -> None:
        self._snapshot.close()
        self._snapshot = None

    def require_tables(self) -> None:
        """Raise Unavailable when a table was dropped, renamed, or removed from the publication: the stream does not tell."""
        for captured in self.tables:
            if self._captured(captured.table).oid != captured.oid:
                raise Unavailable(
                    f"table {captured.schema}.{captured.name} was created again: its rows are compared anew"
                )

    def lag(self, slot: str) -> int:
        """Return the bytes of the log that the server keeps for the slot."""
        found = self._query(
            "select pg_wal_lsn_diff(case when pg_is_in_recovery() then pg_last_wal_receive_lsn() else pg_current_wal_lsn() end,"
            " confirmed_flush_lsn)::bigint from pg_replication_slots where slot_name = %s",
            (slot,),
        )
        return int(found[0][0] or 0) if found else 0

    # -- the stream

    def start(self, slot: str) -> None:
        """Stream the changes of the slot from the last confirmed position on."""
        names = '"' + self._publication.replace('"', '""') + '"'
        with _translated(f"slot {slot}"), self._lock:
            self._stream = self._replication.cursor()
            self._stream.start_replication(
                slot_name=slot,
                decode=False,
                status_interval=FEEDBACK_SECONDS,
                options={"proto_version": "1", "publication_names": names},
            )
        every = min(FEEDBACK_SECONDS, max(self._sender_timeout() / 3, 0.1))
        threading.Thread(target=self._keep_alive, args=(every,), name="postgres-feedback", daemon=True).start()

    def read(self, limit: int, size: int, seconds: float) -> list[Message]:
        """Return the next messages: at most ``limit``, of about ``size`` bytes. Wait up to ``seconds`` for the first one."""
        messages: list[Message] = []
        deadline = time.monotonic() + seconds
        with _translated("the stream of changes"):
            while len(messages) < limit and size > 0 and not self._ended.is_set():
                with self._lock:
                    received = self._stream.read_message()
                if received is not None:
                    size -= len(received.payload)
                    message = decode(received.payload)
                    messages += [message] if message else []
                elif messages or time.monotonic() >= deadline:
                    break
                else:
                    select.select([self._replication], [], [], min(0.5, max(deadline - time.monotonic(), 0)))
        return messages

    @property
    def received(self) -> int:
        """Return the position up to which the server has sent everything that the caller has read, when ``read`` found nothing."""
        return int(self._stream.wal_end)

    def confirm(self, position: int) -> None:
        """Let the server forget the changes before the position: they are not sent again."""
        with _translated("the confirmed position"), self._lock:
            self._stream.send_feedback(write_lsn=position, flush_lsn=position, apply_lsn=position, force=True)

    def rows(self, table: Table, keys: Sequence[str]) -> dict[str, Row]:
        """Return key → row as it is now, of those that exist. The table may have another shape now than in the stream."""
        captured = self._captured(table)
        wanted = sql.SQL(", ").join(
            sql.SQL("({})").format(
                sql.SQL(", ").join(sql.Literal(value) for value in key_values(key, len(captured.key)))
            )
            for key in keys
        )
        where = self._not_null(captured) + sql.SQL(" and ({}) in ({})").format(captured.key_identifiers, wanted)
        return {row.key: row for row in self._rows(self._queries, captured, where)}

    def reshaped(self, captured: CapturedTable, relation: Relation) -> CapturedTable:
        """Return the table in the shape in which its next rows are sent."""
        if (relation.schema, relation.name) != (captured.schema, captured.name):
            raise Misconfigured(
                f"table {captured.schema}.{captured.name} was renamed to {relation.schema}.{relation.name}: map it in SOURCES"
            )
        self._learn_types([each.type_oid for each in relation.columns])
        columns = tuple((each.name, self._base(each.type_oid)) for each in relation.columns)
        identity = {each.name for each in relation.columns if each.is_key or relation.identity == FULL}
        return self._checked(captured.table, relation.oid, relation.schema, relation.name, columns, identity)

    def cancel(self) -> None:
        """Make a call that another thread waits for fail soon."""
        self._ended.set()
        for connection in (self._queries, self._snapshot, self._replication):
            if connection is not None and not connection.closed:
                try:
                    connection.cancel()
                except psycopg2.Error:
                    continue

    def close(self) -> None:
        self._ended.set()
        with self._lock:
            for connection in (self._snapshot, self._replication, self._queries):
                if connection is not None:
                    connection.close()

    # -- within

    def _connect(self, factory: Any = None) -> Any:
        options = " ".join(f"-c {name}={value}" for name, value in SESSION.items() if name != "client_encoding")
        limits = "-c statement_timeout=0 -c idle_in_transaction_session_timeout=0"  # a snapshot may take long
        given = self._parameters.get("options", "")
        arguments: dict[str, Any] = {
            "connect_timeout": CONNECT_SECONDS,
            "application_name": "tidemark",
            "keepalives_idle": 30,
            **self._parameters,
            "client_encoding": SESSION["client_encoding"],
            "options": f"{given} {options} {limits}".strip(),
        }
        with _translated("a connection"):
            connection = psycopg2.connect(connection_factory=factory, **arguments)
        if factory is None:
            connection.set_isolation_level(ISOLATION_LEVEL_AUTOCOMMIT)
        return connection

    def _acquire(self) -> None:
        """Make sure that one process captures for the source. The lock ends with the connection."""
        locked = self._query("select pg_try_advisory_lock(hashtextextended(%s, 0))", (f"tidemark {self._slot}",))
        if not locked[0][0]:
            raise Unavailable(
                f"another process captures with slot {self._slot}: run one, or choose another slot in SOURCES"
            )

    def _identify(self) -> Origin:
        cursor = self._replication.cursor()
        cursor.execute("IDENTIFY_SYSTEM")
        system, timeline, _, database = cursor.fetchone()
        return Origin(str(system), str(timeline), str(database))

    def _sender_timeout(self) -> float:
        """Return the seconds after which the server ends a silent stream."""
        milliseconds = float(self._query("select setting from pg_settings where name = 'wal_sender_timeout'", ())[0][0])
        return milliseconds / 1000 or 3 * FEEDBACK_SECONDS

    def _require_publication(self) -> None:
        found = self._query(
            "select pubinsert and pubupdate and pubdelete and pubtruncate from pg_publication where pubname = %s",
            (self._publication,),
        )
        if not found:
            raise Misconfigured(
                f"publication {self._publication} does not exist: CREATE PUBLICATION {self._publication} FOR TABLE ..."
            )
        if not found[0][0]:
            raise Misconfigured(
                f"publication {self._publication} leaves out some operations:"
                f" ALTER PUBLICATION {self._publication} SET (publish = 'insert, update, delete, truncate')"
            )

    def _captured(self, table: Table) -> CapturedTable:
        schema, name = self._find(table)
        published = self._query(
            "select attnames::text[], rowfilter from pg_publication_tables"
            " where pubname = %s and schemaname = %s and tablename = %s",
            (self._publication, schema, name),
        )
        if not published:
            raise Misconfigured(
                f"table {schema}.{name} is not in publication {self._publication}: ALTER PUBLICATION {self._publication} ADD TABLE"
                f" {schema}.{name} (a partitioned table needs publish_via_partition_root = true)"
            )
        if published[0][1]:
            raise Misconfigured(
                f"publication {self._publication} filters the rows of {schema}.{name}, so a snapshot would differ: remove the filter"
            )
        attributes = self._query(
            "select a.attname, a.atttypid, c.oid, c.relreplident, coalesce(a.attnum = any(i.indkey), false)"
            " from pg_attribute a join pg_class c on c.oid = a.attrelid join pg_namespace n on n.oid = c.relnamespace"
            " left join pg_index i on i.indrelid = c.oid"
            "  and (c.relreplident = 'd' and i.indisprimary or c.relreplident = 'i' and i.indisreplident)"
            " where n.nspname = %s and c.relname = %s and a.attname = any(%s) order by a.attnum",
            (schema, name, list(published[0][0])),
        )
        self._learn_types([int(type_oid) for _, type_oid, _, _, _ in attributes])
        columns = tuple((column, self._base(int(type_oid))) for column, type_oid, _, _, _ in attributes)
        identity = {column for column, _, _, kind, is_key in attributes if is_key or kind == "f"}
        captured = self._checked(table, int(attributes[0][2]), schema, name, columns, identity)
        folded = [column.casefold() for column, _ in columns]
        for column in table.columns:
            if folded.count(column.casefold()) != 1:
                raise Misconfigured(
                    f"{schema}.{name} publishes {folded.count(column.casefold())} columns {column!r} (case does not count), and its"
                    " mapping needs one: correct SOURCES"
                )
        self._require_unique(captured)
        return captured

    def _find(self, table: Table) -> tuple[str, str]:
        schema, _, name = table.name.rpartition(".")
        found = self._query(
            "select n.nspname, c.relname from pg_class c join pg_namespace n on n.oid = c.relnamespace"
            " where c.relkind in ('r', 'p') and lower(n.nspname) = lower(%s) and lower(c.relname) = lower(%s)",
            (schema or "public", name),
        )
        exact = [each for each in found if each == (schema or "public", name)]
        if len(exact or found) != 1:
            raise Misconfigured(
                f"the database has {len(found)} tables {table.name!r}: name one as schema.table in SOURCES"
            )
        ((schema, name),) = exact or found
        return schema, name

    def _checked(
        self,
        table: Table,
        oid: int,
        schema: str,
        name: str,
        columns: tuple[tuple[str, int], ...],
        identity: set[str],
    ) -> CapturedTable:
        """Raise Unavailable unless each update and deletion names its row by the mapped key."""
        positions = {column.casefold(): at for at, (column, _) in enumerate(columns)}
        if missing := [column for column in table.key_columns if column.casefold() not in positions]:
            raise Misconfigured(f"{schema}.{name} has no key column {missing[0]!r}: correct its key in SOURCES")
        key = tuple(positions[column.casefold()] for column in table.key_columns)
        if not {columns[at][0] for at in key} <= identity:
            raise Misconfigured(
                f"the replica identity of {schema}.{name} lacks its key ({', '.join(table.key_columns)}), so updates and deletions name no"
                f" row: ALTER TABLE {schema}.{name} REPLICA IDENTITY FULL, or USING INDEX with a unique index of the key"
            )
        return CapturedTable(table, oid, schema, name, columns, key)

    def _require_unique(self, captured: CapturedTable) -> None:
        key = [captured.columns[at][0] for at in captured.key]
        unique = self._query(
            "select 1 from pg_index i where i.indrelid = %s and i.indisunique and i.indisvalid and i.indpred is null"
            " and i.indexprs is null and (select array_agg(a.attname::text) from pg_attribute a"
            "  where a.attrelid = i.indrelid and a.attnum = any((i.indkey::int2[])[0:i.indnkeyatts - 1])) <@ %s::text[] limit 1",
            (captured.oid, key),
        )
        if not unique:
            raise Misconfigured(
                f"{captured.schema}.{captured.name} has no unique index on its key ({', '.join(key)}), so rows could share a document:"
                " create one, or map another key"
            )

    def _learn_types(self, type_oids: Sequence[int]) -> None:
        """Learn the base types of domains, because the stream names the domain and a query its base type."""
        unknown = [
            oid for oid in type_oids if oid >= 16384 and oid not in self._base_types
        ]  # below are the built-in ones
        if not unknown:
            return
        found = self._query(
            "with recursive base (root, oid) as (select oid, oid from pg_type where oid = any(%s::oid[]) union"
            " select b.root, t.typbasetype from base b join pg_type t on t.oid = b.oid where t.typtype = 'd')"
            " select b.root, b.oid from base b join pg_type t on t.oid = b.oid where t.typtype <> 'd'",
            (unknown,),
        )
        self._base_types |= {int(root): int(base) for root, base in found}

    def _base(self, type_oid: int) -> int:
        return self._base_types.get(type_oid, type_oid)

    def _not_null(self, captured: CapturedTable) -> sql.Composed:
        tests = (sql.SQL("{} is not null").format(sql.Identifier(captured.columns[at][0])) for at in captured.key)
        return sql.SQL(" where ") + sql.SQL(" and ").join(tests)

    def _rows(self, connection: Any, captured: CapturedTable, tail: sql.Composable) -> list[Row]:
        names = sql.SQL(", ").join(sql.Identifier(name) for name, _ in captured.columns)
        query = sql.SQL("select {} from {}").format(names, captured.identifier) + tail
        now = datetime.now(UTC)
        with _translated(f"rows of {captured.schema}.{captured.name}"), connection.cursor() as cursor:
            register_type(_TEXTS, cursor)
            cursor.execute(query)
            return [row for values in cursor.fetchall() if (row := captured.row(values, now))]

    def _query(self, query: str, values: Sequence[Any]) -> list[tuple[Any, ...]]:
        with _translated("a query"), self._queries.cursor() as cursor:
            cursor.execute(query, values)
            return list(cursor.fetchall()) if cursor.description else []

    def _keep_alive(self, every: float) -> None:
        """Send signs of life while the caller works on a batch and reads nothing."""
        while not self._ended.wait(every):
            with self._lock:
                if self._ended.is_set():
                    return
                try:
                    self._stream.send_feedback(force=True)
                except psycopg2.Error:
                    return  # the next read raises it


def connection_parameters(dsn: str, *, require_tls: bool) -> dict[str, str]:
    """Return the parameters of a libpq connection string or URI. Raises Unavailable, without the text, which holds a secret."""
    try:
        parameters = parse_dsn(dsn.strip())
    except psycopg2.Error:
        raise Unavailable("the file that dsn_file names is not a libpq connection string or URI: correct it") from None
    is_local = parameters.get("host", "/").startswith("/")
    if require_tls and not is_local and parameters.get("sslmode") not in TLS_MODES:
        raise Unavailable(
            f"production needs sslmode={' or '.join(sorted(TLS_MODES))} in the connection string of dsn_file"
        )
    return parameters


@contextmanager
def _translated(subject: str) -> Iterator[None]:
    try:
        yield
    except psycopg2.Error as error:
        code = f" {error.pgcode}" if error.pgcode else ""
        detail = f": {error.diag.message_primary}" if subject.startswith("slot") and error.diag.message_primary else ""
        raise Unavailable(
            f"PostgreSQL refuses or fails for {subject} ({type(error).__name__}{code}){detail}; check dsn_file, rights and the server"
        ) from error
    except (OSError, ValueError) as error:  # a closed socket; a message that is not of the protocol
        raise Unavailable(f"the connection to PostgreSQL failed for {subject} ({type(error).__name__})") from error
