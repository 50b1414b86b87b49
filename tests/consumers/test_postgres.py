"""Change capture from a real PostgreSQL: whatever happens on the way, the objects end as the rows of the mapped tables."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from itertools import count
from pathlib import Path
from typing import Any

import psycopg
import pytest
from prometheus_client import REGISTRY

from consumers import postgres
from consumers.postgres import PostgresOptions, PostgresStream, open_session
from consumers.runner import step
from rag.adapters.memory.events import MemoryEventLog
from rag.adapters.memory.ledger import MemoryLedger
from rag.adapters.memory.objects import MemoryObjects
from rag.adapters.postgres_replication import connection_parameters
from rag.errors import Unavailable
from rag.ids import Ids
from rag.ingest.warehouse_rows import RowChange
from rag.sources import Source
from rag.tables import Table
from schemas.events import DocumentChanged
from schemas.topics import CHANGED

IDS = Ids(b"0123456789abcdef")
SOURCE = Source("crm", "acme", "s3://internal/crm", ("group:staff",))
PATIENCE = 30.0  # seconds until an expected state must be there
_numbers = count()


class World:
    """A schema with a publication, and the parts that a stream writes to."""

    def __init__(self, url: str, folder: Path) -> None:
        self.schema = f"capture{next(_numbers)}"
        self.opened: list[PostgresStream] = []
        self.database = psycopg.connect(url, autocommit=True)
        self.sql(f"create schema {self.schema}; set search_path to {self.schema}; set lock_timeout = '20s'")
        self.url = url
        self.dsn_file = folder / "dsn"
        self.dsn_file.write_text(url)
        self.options = PostgresOptions(dsn_file=self.dsn_file, publication=self.schema, slot=self.schema)
        self.objects = MemoryObjects("s3://internal")
        self.ledger = MemoryLedger()
        self.log = MemoryEventLog()
        self._read: set[tuple[int, int]] = set()

    def sql(self, query: str, *values: Any) -> list[tuple[Any, ...]]:
        cursor = self.database.execute(query, values or None)  # type: ignore[call-overload]
        while cursor.nextset():
            pass
        return cursor.fetchall() if cursor.description else []

    def create(self, columns: str = "id int primary key, note text", name: str = "notes") -> Table:
        """Create a table and publish it."""
        self.sql(f"create table {name} ({columns})")
        exists = self.sql("select 1 from pg_publication where pubname = %s", self.schema)
        verb = "alter publication {} add table {}" if exists else "create publication {} for table {}"
        self.sql(verb.format(self.schema, name))
        return self.table(name)

    def table(self, name: str = "notes", key: str | tuple[str, ...] = "ID", **mapping: Any) -> Table:
        return Table(f"{self.schema}.{name}", key, "UPDATED_AT", **mapping)

    def stream(self, *tables: Table) -> PostgresStream:
        connect = lambda: open_session(self.options, tables)  # noqa: E731
        stream = PostgresStream(SOURCE, tables, connect, self.objects, self.ledger)
        self.opened.append(stream)
        return stream

    async def announced(self) -> list[tuple[str, str]]:
        """Return the changes announced since the last call as (key, kind)."""
        state = await self.log.describe(CHANGED)
        records = [r for p, (low, end) in state.bounds.items() for r in await self.log.read(CHANGED, p, low, end)]
        fresh = [record for record in records if (record.partition, record.offset) not in self._read]
        self._read |= {(record.partition, record.offset) for record in fresh}
        events: list[DocumentChanged] = [record.value for record in fresh]
        return sorted((event.uri.rsplit("/", 1)[1].removesuffix(".json"), event.kind.value) for event in events)

    async def rows(self, name: str = "notes") -> dict[str, dict[str, Any]]:
        """Return key → columns of the row objects."""
        found = {}
        async for state in self.objects.list(f"s3://internal/crm/{self.schema}.{name}/"):
            body = json.loads((await self.objects.get(state.uri)).content)
            found[body["key"]] = body["columns"]
        return found

    async def notes(self) -> dict[str, str]:
        return {key: columns.get("note", "") for key, columns in (await self.rows()).items()}

    async def catch_up(self, stream: PostgresStream) -> None:
        """Run the stream until it has confirmed everything that is committed now."""
        (position,) = self.sql("select pg_current_wal_insert_lsn()")[0]

        async def is_confirmed() -> bool:
            is_streaming = stream._session is not None and stream._snapshot is None
            query = "select 1 from pg_replication_slots where slot_name = %s and confirmed_flush_lsn >= %s::pg_lsn"
            return is_streaming and bool(self.sql(query, stream._slot, position))

        self.sql("select pg_logical_emit_message(false, 'test', 'a position behind the last change', true)")
        await self.until(stream, is_confirmed)

    async def until(self, stream: PostgresStream, is_met: Callable[[], Awaitable[bool]]) -> None:
        deadline = time.monotonic() + PATIENCE
        while not await is_met():
            assert time.monotonic() < deadline, "the stream does not get there"
            await step(stream, IDS, self.log)

    def slots(self) -> list[str]:
        return [
            name
            for (name,) in self.sql(
                "select slot_name from pg_replication_slots where slot_name ~ %s", f"^{self.schema}_"
            )
        ]

    def drop_slots(self) -> None:
        for name in self.slots():
            self.sql("select pg_terminate_backend(active_pid) from pg_replication_slots where slot_name = %s", name)
            deadline = time.monotonic() + PATIENCE
            while self.sql("select 1 from pg_replication_slots where slot_name = %s and active", name):
                assert time.monotonic() < deadline
            self.sql("select pg_drop_replication_slot(%s)", name)

    async def close(self, stream: PostgresStream) -> None:
        """Close the connections of the stream, and wait until the server has noticed."""
        await stream.close()
        deadline = time.monotonic() + PATIENCE
        while self.sql("select 1 from pg_stat_activity where application_name = 'tidemark'"):
            assert time.monotonic() < deadline

    async def end(self) -> None:
        for stream in self.opened:
            await stream.close()
        self.drop_slots()
        self.sql(f"drop publication if exists {self.schema}; drop schema {self.schema} cascade")
        self.database.close()


@pytest.fixture
async def world(database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[World]:
    monkeypatch.setattr(postgres, "WAIT_SECONDS", 0.05)
    world = World(database_url, tmp_path)
    try:
        yield world
    finally:
        await world.end()


# -- snapshot and stream


async def test_rows_that_exist_come_first_and_then_every_change(world: World) -> None:
    stream = world.stream(world.create())
    world.sql("insert into notes values (1, 'one'), (2, 'two')")
    await world.catch_up(stream)
    assert await world.announced() == [("1", "CHANGED"), ("2", "CHANGED")]
    world.sql("insert into notes values (3, 'three')")
    world.sql("update notes set note = 'zwei' where id = 2")
    world.sql("delete from notes where id = 1")
    await world.catch_up(stream)
    assert await world.announced() == [("1", "DELETED"), ("2", "CHANGED"), ("3", "CHANGED")]
    assert await world.notes() == {"2": "zwei", "3": "three"}


async def test_several_changes_of_a_row_are_one_and_what_was_rolled_back_is_none(world: World) -> None:
    stream = world.stream(world.create())
    await world.catch_up(stream)
    world.sql("insert into notes values (1, 'a'); update notes set note = 'b'")
    world.sql("begin; insert into notes values (2, 'never'); rollback")
    world.sql("delete from notes; insert into notes values (1, 'c')")
    await world.catch_up(stream)
    assert await world.notes() == {"1": "c"}
    assert ("1", "DELETED") not in await world.announced()


async def test_a_row_that_ends_as_it_was_announced_is_not_announced_again(world: World) -> None:
    stream = world.stream(world.create())
    world.sql("insert into notes values (1, 'a')")
    await world.catch_up(stream)
    await world.announced()
    world.sql("begin; update notes set note = 'b'; update notes set note = 'a'; commit")
    await world.catch_up(stream)
    assert await world.announced() == []


async def test_names_are_quoted_and_a_compound_key_is_one_document(world: World) -> None:
    world.create('"User" text, "select" int, "Ünï" text, primary key ("User", "select")', '"order"')
    table = world.table("order", ("user", "SELECT"), text="{select}: {USER}")
    stream = world.stream(table)
    world.sql("""insert into "order" values ('a/b', 1, 'x')""")
    await world.catch_up(stream)
    world.sql("""insert into "order" values ('a', 2, 'y''"')""")
    await world.catch_up(stream)
    assert await world.rows("order") == {"a~1b/1": {"User": "a/b", "select": 1}, "a/2": {"User": "a", "select": 2}}


async def test_a_new_key_is_a_new_document_and_the_old_one_goes(world: World) -> None:
    stream = world.stream(world.create())
    world.sql("insert into notes values (1, 'a'), (2, 'b')")
    await world.catch_up(stream)
    world.sql("update notes set id = 3 where id = 1")
    world.sql("begin; update notes set id = 9 where id = 2; update notes set id = 2 where id = 3; commit")
    await world.catch_up(stream)
    assert await world.notes() == {"9": "b", "2": "a"}
    assert ("1", "DELETED") in await world.announced()


async def test_truncate_deletes_every_row_but_those_inserted_after_it(world: World) -> None:
    notes, others = world.create(), world.create(name="others")
    stream = world.stream(notes, others)
    world.sql("insert into notes select n, 'x' from generate_series(1, 1200) n; insert into others values (1, 'kept')")
    await world.catch_up(stream)
    world.sql(
        "begin; insert into notes values (5000, 'brief'); truncate notes; insert into notes values (7, 'new'); commit"
    )
    await world.catch_up(stream)
    assert await world.notes() == {"7": "new"}
    assert await world.rows("others") == {"1": {"id": 1, "note": "kept"}}


@pytest.mark.parametrize("identity", ["default", "full"])
async def test_a_long_value_that_was_not_sent_is_read_back(world: World, identity: str) -> None:
    table = world.create("id int primary key, title text, note text")
    world.sql(f"alter table notes alter note set storage external; alter table notes replica identity {identity}")
    stream = world.stream(table)
    await world.catch_up(stream)
    world.sql("insert into notes select n, 'a', repeat('long ', 4000) from generate_series(1, 3) n")
    await world.catch_up(stream)
    world.sql("update notes set title = 'b' where id < 3")
    world.sql("delete from notes where id = 2")
    world.sql("update notes set id = 30 where id = 3")
    await world.catch_up(stream)
    rows = await world.rows()
    assert {key: row["title"] for key, row in rows.items()} == {"1": "b", "30": "a"}
    assert {len(row["note"]) for row in rows.values()} == {20_000}


async def test_the_shape_of_a_table_changes_between_rows(world: World) -> None:
    stream = world.stream(world.create())
    await world.catch_up(stream)
    world.sql("insert into notes values (1, 'a')")
    world.sql("alter table notes add rank int default 7; insert into notes values (2, 'b')")
    world.sql("alter table notes drop note; insert into notes values (3, 9)")
    world.sql("alter table notes alter rank type text; insert into notes values (4, 'high')")
    await world.catch_up(stream)
    assert await world.rows() == {
        "1": {"id": 1, "note": "a"},
        "2": {"id": 2, "note": "b", "rank": 7},
        "3": {"id": 3, "rank": 9},
        "4": {"id": 4, "rank": "high"},
    }


async def test_a_row_without_a_mapped_column_is_withdrawn_and_its_neighbours_are_not(world: World) -> None:
    world.create("id int primary key, note text, team text")
    others = world.create(name="others")
    stream = world.stream(world.table(text="{note}", principals=("team",)), others)
    world.sql("insert into notes values (1, 'a', 'x'), (2, 'b', 'y')")
    await world.catch_up(stream)
    world.sql(
        "begin; alter table notes drop team; update notes set note = 'c' where id = 1; insert into others values (1, 'a'); commit"
    )
    await world.until(stream, lambda: _equal(world.rows("others"), {"1": {"id": 1, "note": "a"}}))
    assert list(await world.rows()) == ["2"]


async def test_a_transaction_of_ten_thousand_rows_comes_in_bounded_batches(world: World) -> None:
    stream = world.stream(world.create())
    await world.catch_up(stream)
    world.sql("insert into notes select n, 'x' from generate_series(1, 10000) n")
    sizes: list[int] = []

    async def is_complete() -> bool:
        return len(await world.rows()) == 10_000

    receive = stream.receive

    async def measured() -> Sequence[RowChange]:
        received = await receive()
        sizes.append(len(received))
        return received

    stream.receive = measured  # type: ignore[method-assign]
    await world.until(stream, is_complete)
    assert max(sizes) <= postgres.PAGE
    assert sum(sizes) == 10_000


VALUES = """
  true, 5, 12345678901234567890123456789, 1.50, 'NaN', 0.1, 'Infinity', '{"a": [1, 1e999]}', '{"a": [1, 2.5]}', '\\x00ff',
  '2026-03-01', '2026-03-01 12:00', '2026-03-01 12:00+02', 'infinity', '12:30', '1 day 2 hours', 'ab', '{a,"b c",NULL}', '{1,2}',
  '10.0.0.1', '550e8400-e29b-41d4-a716-446655440000', 'sad', '7', '{x}', '12.50', E'lines\\n"quoted" ü 🚀', null
"""


async def test_values_become_json_alike_in_snapshot_stream_and_a_new_snapshot(world: World) -> None:
    world.sql(
        "create type mood as enum ('sad'); create domain positive as int check (value > 0); create domain more as positive"
    )
    world.create(
        "id int primary key, a bool, b int8, c numeric, d numeric(9,2), e numeric, f float8, g float4, h json, i jsonb, j bytea, k date,"
        " l timestamp, m timestamptz, n timestamptz, o time, p interval, q char(5), r text[], s int[], t inet, u uuid, v mood, w more,"
        " x varchar[], y money, z text, zz text"
    )
    stream = world.stream(world.table())
    world.sql(f"insert into notes values (1, {VALUES})")  # noqa: S608
    await world.catch_up(stream)
    world.sql(f"insert into notes values (2, {VALUES})")  # noqa: S608
    await world.catch_up(stream)
    rows = await world.rows()
    first = rows["1"]
    assert first | {"id": 2} == rows["2"]
    expected = {
        "a": True, "b": 5, "c": 12345678901234567890123456789, "d": "1.50", "e": "NaN", "f": 0.1, "g": "Infinity", "i": {"a": [1, 2.5]},
        "l": "2026-03-01T12:00:00", "m": "2026-03-01T10:00:00+00:00", "n": "infinity", "q": "ab   ", "r": ["a", "b c", None], "s": "{1,2}",
        "t": "10.0.0.1", "v": "sad", "w": 7, "x": ["x"], "z": 'lines\n"quoted" ü 🚀',
    }  # fmt: skip
    assert {name: first.get(name) for name in expected} == expected
    assert {"j", "zz"}.isdisjoint(first)
    await world.announced()
    world.drop_slots()
    await _fails(stream)
    await world.catch_up(stream)
    assert await world.announced() == []


# -- crashes


STEPS = ["receive", "handle", "publish", "record", "confirm"]


@pytest.mark.parametrize("at", STEPS)
@pytest.mark.parametrize("phase", ["snapshot", "stream"])
async def test_a_process_that_is_killed_at_any_step_repeats_changes_and_loses_none(
    world: World, at: str, phase: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgres, "PAGE", 4)  # a batch ends with a transaction, and within one
    table = world.create()
    world.sql("insert into notes select n, 'x' from generate_series(1, 5) n")
    if phase == "stream":
        await world.catch_up(world.stream(table))
        await world.close(world.opened[-1])
        for change in ("update notes set note = 'y' where id = 1", "delete from notes where id = 5",
                       "update notes set id = 40 where id = 4", "insert into notes values (6, 'z')"):  # fmt: skip
            world.sql(change)
    for _ in range(3):  # each process dies at its first chance, and the next one begins where it must
        stream = world.stream(table)
        await _die(world, stream, at, monkeypatch)
        await world.close(stream)
    world.sql("insert into notes values (9, 'later')")
    await world.catch_up(world.stream(table))
    assert await world.notes() == {str(key): note for key, note in world.sql("select id, note from notes")}


async def _die(world: World, stream: PostgresStream, at: str, monkeypatch: pytest.MonkeyPatch) -> None:
    class Killed(BaseException):
        pass

    async def die(*_: object, **__: object) -> None:
        raise Killed

    async def run() -> None:
        while True:
            received = await stream.receive()
            if at == "receive" and received:
                raise Killed
            if received:
                await _turn(stream, received, world)

    places = {
        "handle": (world.objects, "put"),
        "publish": (world.log, "publish"),
        "record": (world.ledger, "set_row_hashes"),
    }
    with monkeypatch.context() as broken:
        if at in places:
            broken.setattr(*places[at], die)
        if at == "confirm":
            broken.setattr(stream, "_proceed", die)
        with pytest.raises(Killed):
            await run()


async def _turn(stream: PostgresStream, received: Sequence[RowChange], world: World) -> None:
    from rag.ingest.change_events import publish_changes

    handled = await stream.handle([change for message in received for change in stream.decode(message)])
    await publish_changes(handled, SOURCE, IDS, world.log)
    await stream.commit(received)


async def test_a_batch_that_could_not_be_stored_comes_again_in_the_same_connection(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    stream = world.stream(world.create())
    await world.catch_up(stream)
    session = stream._session
    world.sql("insert into notes values (1, 'a')")

    async def refuse(*_: object, **__: object) -> None:
        raise Unavailable("down")

    with monkeypatch.context() as broken:
        broken.setattr(world.objects, "put", refuse)
        with pytest.raises(Unavailable, match="down"):
            await world.catch_up(stream)
    await world.catch_up(stream)
    assert await world.notes() == {"1": "a"}
    assert stream._session is session


async def test_a_connection_that_is_lost_before_the_confirmation_is_opened_again(world: World) -> None:
    stream = world.stream(world.create())
    await world.catch_up(stream)
    world.sql("insert into notes values (1, 'a')")
    received: Sequence[RowChange] = []
    while not received:
        received = await stream.receive()
    world.sql(
        "select pg_terminate_backend(active_pid) from pg_replication_slots where slot_name ~ %s", f"^{world.schema}_"
    )
    await _turn(stream, received, world)
    world.sql("insert into notes values (2, 'b')")
    await _fails(stream)
    await world.catch_up(stream)
    assert await world.notes() == {"1": "a", "2": "b"}


# -- the slot


async def test_a_slot_dropped_behind_our_back_is_noticed_and_rows_gone_meanwhile_are_found(world: World) -> None:
    stream = world.stream(world.create())
    world.sql("insert into notes values (1, 'a'), (2, 'b'), (3, 'c')")
    await world.catch_up(stream)
    await world.announced()
    (old,) = world.slots()
    world.drop_slots()
    world.sql("delete from notes where id = 1; update notes set note = 'bb' where id = 2")
    world.sql(
        "select pg_create_logical_replication_slot(%s, 'pgoutput')", f"{world.schema}_00000000"
    )  # a slot that looks like ours
    await _fails(stream)
    await world.catch_up(stream)
    assert await world.announced() == [("1", "DELETED"), ("2", "CHANGED")]
    assert old not in world.slots()
    assert len(world.slots()) == 1


async def test_a_slot_that_lost_its_log_is_made_again(world: World) -> None:
    table = world.create()
    await world.catch_up(world.stream(table))
    await world.close(world.opened[-1])
    world.sql("insert into notes values (1, 'a')")
    world.sql("alter system set max_slot_wal_keep_size = '1MB'")
    world.sql("select pg_reload_conf()")
    try:
        (slot,) = world.slots()
        deadline = time.monotonic() + PATIENCE
        while world.sql("select wal_status from pg_replication_slots where slot_name = %s", slot) != [("lost",)]:
            assert time.monotonic() < deadline
            world.sql("select pg_logical_emit_message(false, 'test', repeat('x', 1000000)) from generate_series(1, 4)")
            world.sql("select pg_switch_wal()")
            world.sql("checkpoint")
    finally:
        world.sql("alter system reset max_slot_wal_keep_size")
        world.sql("select pg_reload_conf()")
    await world.catch_up(world.stream(table))
    assert await world.notes() == {"1": "a"}
    assert world.slots() != [slot]


@pytest.mark.parametrize("part", ["system", "timeline", "database", "slot"])
async def test_another_database_at_the_address_leads_to_a_new_snapshot(world: World, part: str) -> None:
    table = world.create()
    world.sql("insert into notes values (1, 'a')")
    await world.catch_up(world.stream(table))
    await world.close(world.opened[-1])
    before, cursor = world.slots(), await world.ledger.cursor("crm/postgres")
    await world.ledger.set_row_hashes("crm", table.name, {"99": "gone"})
    await world.ledger.set_cursor("crm/postgres", {**cursor, part: "other"})
    await world.catch_up(world.stream(table))
    assert ("99", "DELETED") in await world.announced()
    assert world.slots() != before


async def test_a_changed_mapping_announces_the_rows_again(world: World) -> None:
    table = world.create()
    world.sql("insert into notes values (1, 'a')")
    await world.catch_up(world.stream(table))
    await world.close(world.opened[-1])
    await world.announced()
    await world.catch_up(world.stream(world.table(text="Note: {note}")))
    assert await world.announced() == [("1", "CHANGED")]


async def test_a_table_that_is_created_again_under_its_name_is_compared_anew(world: World) -> None:
    stream = world.stream(world.create())
    world.sql("insert into notes values (1, 'old'), (2, 'same')")
    await world.catch_up(stream)
    world.sql(
        "begin; create table fresh (id int primary key, note text); insert into fresh values (2, 'same'), (3, 'new');"
        " drop table notes; alter table fresh rename to notes; commit"
    )
    world.sql(f"alter publication {world.schema} add table notes")
    world.sql("insert into notes values (4, 'later')")
    await _fails(stream)
    await world.catch_up(stream)
    assert await world.notes() == {"2": "same", "3": "new", "4": "later"}


async def test_a_lost_row_object_is_written_by_a_new_snapshot(world: World) -> None:
    table = world.create()
    world.sql("insert into notes values (1, 'a'), (2, 'b')")
    await world.catch_up(world.stream(table))
    await world.close(world.opened[-1])
    await world.objects.delete([f"s3://internal/crm/{world.schema}.notes/1.json"])
    world.drop_slots()
    await world.catch_up(world.stream(table))
    assert await world.notes() == {"1": "a", "2": "b"}


async def test_the_log_of_other_tables_is_not_kept_for_a_quiet_source(world: World) -> None:
    stream = world.stream(world.create())
    await world.catch_up(stream)
    world.sql("create table noise (a text); insert into noise select repeat('x', 1000) from generate_series(1, 1000)")
    await world.catch_up(stream)  # reads until the position behind the noise is confirmed
    stream._measured = float("-inf")
    await step(stream, IDS, world.log)
    assert (REGISTRY.get_sample_value("tidemark_source_lag_bytes", {"source": "crm"}) or 0) < 1_000_000


async def test_a_stream_stays_alive_while_a_batch_is_in_work(world: World) -> None:
    world.dsn_file.write_text(f"{world.url}?options=-c%20wal_sender_timeout%3D1000")
    stream = world.stream(world.create())
    await world.catch_up(stream)
    session = stream._session
    world.sql("insert into notes values (1, 'a')")
    received: Sequence[RowChange] = []
    while not received:
        received = await stream.receive()
    await asyncio.sleep(2.5)  # longer than the server's patience of a second
    assert world.sql("select active from pg_replication_slots where slot_name = %s", stream._slot) == [(True,)]
    await _turn(stream, received, world)
    await world.catch_up(stream)
    assert stream._session is session


async def test_one_process_captures_at_a_time(world: World) -> None:
    table = world.create()
    await world.catch_up(world.stream(table))
    with pytest.raises(Unavailable, match="another process"):
        await world.stream(table).receive()


# -- a database that is not set up


def _drop_identity(world: World) -> None:
    world.sql("alter table notes replica identity nothing")


def _narrow(world: World) -> None:
    world.sql(f"alter publication {world.schema} set (publish = 'insert')")


def _filter(world: World) -> None:
    world.sql(f"alter publication {world.schema} set table notes where (id > 5)")


def _unpublish(world: World) -> None:
    world.sql(f"create table b (); alter publication {world.schema} set table b")


@pytest.mark.parametrize(
    ("spoil", "mapping", "message"),
    [
        (_drop_identity, {}, "replica identity of .*notes .*REPLICA IDENTITY"),
        (_narrow, {}, "publish = "),
        (_filter, {}, "remove the filter"),
        (_unpublish, {}, "ADD TABLE"),
        (lambda world: world.sql(f"drop publication {world.schema}"), {}, "CREATE PUBLICATION"),
        (lambda world: world.sql("drop table notes"), {}, "0 tables"),
        (lambda world: None, {"title": "headline"}, "'headline'"),
        (lambda world: None, {"key": "note"}, "replica identity"),
        (lambda world: world.sql("alter table notes replica identity full"), {"key": "note"}, "unique index"),
    ],
)
async def test_a_table_that_cannot_be_captured_is_named_with_the_remedy(
    world: World, spoil: Callable[[World], Any], mapping: dict[str, Any], message: str
) -> None:
    world.create()
    spoil(world)
    with pytest.raises(Unavailable, match=message):
        await world.stream(world.table(**mapping)).receive()
    assert world.slots() == []


async def test_changes_missed_while_a_table_was_unpublished_are_found(world: World) -> None:
    table = world.create()
    stream = world.stream(table)
    world.sql("insert into notes values (1, 'a'), (2, 'b')")
    await world.catch_up(stream)
    _unpublish(world)
    world.sql("delete from notes where id = 1")
    stream._measured = float("-inf")
    with pytest.raises(Unavailable, match="ADD TABLE"):
        await stream.receive()
    world.sql(f"alter publication {world.schema} add table notes")
    await world.catch_up(stream)
    assert await world.notes() == {"2": "b"}


async def test_the_connection_string_is_in_no_message(world: World) -> None:
    table = world.create()
    for dsn in ("postgresql://u:hunter2@127.0.0.1:1/x", "password=hunter2 hunter2", f"{world.url}x?hunter2=1"):
        world.dsn_file.write_text(dsn)
        with pytest.raises(Unavailable) as caught:
            await world.stream(table).receive()
        assert "hunter2" not in str(caught.value)
    world.dsn_file.unlink()
    with pytest.raises(Unavailable, match="mount it"):
        await world.stream(table).receive()


@pytest.mark.parametrize(
    "options",
    [{}, {"dsn": "password=hunter2"}, {"dsn_file": "/x", "slot": "A;B"}, {"dsn_file": "/x", "slot": "a" * 60}],
)
def test_wrong_options_are_refused_without_their_values(options: dict[str, str]) -> None:
    with pytest.raises(ValueError, match="PostgresOptions") as caught:
        PostgresOptions.model_validate(options)
    assert "hunter2" not in str(caught.value)


def test_production_needs_tls_on_the_network() -> None:
    for dsn in ("postgresql://db/crm", "host=db sslmode=prefer"):
        with pytest.raises(Unavailable, match="sslmode"):
            connection_parameters(dsn, require_tls=True)
    for dsn in ("postgresql://db/crm?sslmode=verify-full", "host=/run/postgresql", "dbname=crm"):
        assert connection_parameters(dsn, require_tls=True)


async def _equal(found: Awaitable[Any], expected: Any) -> bool:
    return bool(await found == expected)


async def _fails(stream: PostgresStream) -> None:
    """Run the stream until it notices that its connection or its table is gone."""

    async def run() -> None:
        for _ in range(100):
            stream._measured = float("-inf")
            assert not await stream.receive()

    with pytest.raises(Unavailable):
        await run()
