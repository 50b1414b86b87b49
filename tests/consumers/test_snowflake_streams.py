from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

import pytest
import sqlglot
from sqlglot import exp

import consumers.snowflake
from consumers.runner import step
from consumers.snowflake import PAGE, OutboxStream, diff
from rag.adapters import snowflake as adapter
from rag.adapters.memory.events import MemoryEventLog
from rag.adapters.memory.ledger import MemoryLedger
from rag.adapters.memory.objects import MemoryObjects
from rag.errors import StaleStream, Unavailable
from rag.ids import Ids, row_hash
from rag.ports import Row
from rag.settings import TableSettings
from rag.sources import Source
from rag.tables import Table
from schemas.topics import CHANGED

IDS = Ids(b"0123456789abcdef")
SOURCE = Source("snowflake", "acme", "s3://internal/rows", ("group:staff",))
TICKETS = Table("TICKETS", "ID", "UPDATED_AT", "SUBJECT")
NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
NAMES = ("CRM.CHANGES", "CRM.CHANGES_OUTBOX")


class SimulatedStream:
    """A SIMULATOR of a table with a Snowflake stream and an outbox. It is not Snowflake, and shows only the rules that are documented:
    an update gives a DELETE and an INSERT with METADATA$ISUPDATE, a transaction that reads the stream advances it when it commits, and
    a stale stream refuses every read. ``fails`` names a call, before or after whose effect the process is killed.
    """

    def __init__(self) -> None:
        self.table: dict[str, Row] = {}
        self.stream: list[tuple[str, str, bool]] = []  # key, METADATA$ACTION, METADATA$ISUPDATE
        self.outbox: dict[int, str] = {}
        self.numbers = 0
        self.is_stale = False
        self.fails = ""

    def put(self, key: str, text: str) -> None:
        is_update = key in self.table
        self.table[key] = Row(key, NOON, json.dumps({"ID": key, "BODY": text}))
        self.stream += [(key, "DELETE", True)] * is_update + [(key, "INSERT", is_update)]

    def drop(self, key: str) -> None:
        del self.table[key]
        self.stream.append((key, "DELETE", False))

    async def changed(self, *_: Any, **__: Any) -> list[Row]:
        raise AssertionError("a streamed table is not polled by its watermark")

    async def hashes(self, table: str, key: str) -> dict[str, str]:
        return {key: row_hash(row.body) for key, row in self.table.items()}

    async def rows(self, table: str, key: str, changed: str, keys: Sequence[str]) -> list[Row]:
        return [self.table[each] for each in keys if each in self.table]

    async def pending(self, outbox: str, limit: int) -> list[tuple[int, str]]:
        assert outbox == NAMES[1]
        return sorted(self.outbox.items())[:limit]

    async def fill(self, stream: str, outbox: str, key: str) -> None:
        assert (stream, outbox) == NAMES
        self._kill("before fill")
        if self.is_stale:
            raise StaleStream("the stream is stale")
        for each in sorted({key for key, _, _ in self.stream}):
            self.numbers += 1
            self.outbox[self.numbers] = each
        self.stream = []
        self._kill("after fill")

    async def forget(self, outbox: str, numbers: Sequence[int]) -> None:
        self._kill("before forget")
        for number in numbers:
            self.outbox.pop(number, None)
        self._kill("after forget")

    def _kill(self, point: str) -> None:
        if self.fails == point:
            self.fails = ""
            raise Unavailable("killed")


class World:
    def __init__(self) -> None:
        self.warehouse = SimulatedStream()
        self.objects = MemoryObjects("s3://internal")
        self.ledger = MemoryLedger()
        self.log = MemoryEventLog()
        self._read: set[tuple[int, int]] = set()

    def stream(self, diff_every: float = 1e9) -> OutboxStream:
        return OutboxStream(
            SOURCE, TICKETS, self.warehouse, self.objects, self.ledger,
            stream=NAMES[0], every=0, diff_every=diff_every, overlap=0,
        )  # fmt: skip

    async def announced(self, stream: OutboxStream) -> list[tuple[str, str]]:
        await step(stream, IDS, self.log)
        state = await self.log.describe(CHANGED)
        records = [r for p, (low, end) in state.bounds.items() for r in await self.log.read(CHANGED, p, low, end)]
        fresh = [record.value for record in records if (record.partition, record.offset) not in self._read]
        self._read |= {(record.partition, record.offset) for record in records}
        return sorted((event.uri.rsplit("/", 1)[1].removesuffix(".json"), event.kind.value) for event in fresh)

    async def started(self) -> OutboxStream:
        """Return a stream whose first diff is done, over the rows 1 and 2."""
        self.warehouse.put("1", "one")
        self.warehouse.put("2", "two")
        stream = self.stream()
        assert [key for key, _ in await self.announced(stream)] == ["1", "2"]
        assert await self.announced(stream) == []
        return stream

    async def differs(self) -> list[Any]:
        return await diff(TICKETS, SOURCE, self.warehouse, self.objects, self.ledger)


async def test_an_update_is_one_change_and_a_deletion_is_found_without_a_diff() -> None:
    world = World()
    stream = await world.started()
    world.warehouse.put("1", "one, corrected")
    world.warehouse.drop("2")
    changes = dict(await world.announced(stream))
    assert changes.keys() == {"1", "2"}
    assert changes["1"] != changes["2"] == "DELETED"
    assert await world.announced(stream) == []
    assert world.warehouse.outbox == {}
    assert await world.differs() == []


async def test_a_row_that_came_and_went_or_came_back_is_announced_as_it_is_now() -> None:
    world = World()
    stream = await world.started()
    world.warehouse.put("3", "short")
    world.warehouse.drop("3")
    world.warehouse.drop("1")
    world.warehouse.put("1", "back")
    assert dict(await world.announced(stream))["3"] == "DELETED"
    row = await world.objects.get("s3://internal/rows/tickets/1.json")
    assert json.loads(row.content)["columns"]["BODY"] == "back"
    assert await world.differs() == []


@pytest.mark.parametrize("point", ["before fill", "after fill", "before forget", "after forget"])
async def test_a_process_that_is_killed_at_any_point_repeats_changes_and_loses_none(point: str) -> None:
    world = World()
    stream = await world.started()
    world.warehouse.put("1", "new")
    world.warehouse.drop("2")
    world.warehouse.fails = point
    with pytest.raises(Unavailable):
        await step(stream, IDS, world.log)
    if point != "after forget":
        assert world.warehouse.stream or world.warehouse.outbox
    again = world.stream(diff_every=1e9)
    again._done = again._next = stream._done  # no first diff, which would find the changes as well
    await step(again, IDS, world.log)
    assert await world.objects.head("s3://internal/rows/tickets/2.json") is None
    row = await world.objects.get("s3://internal/rows/tickets/1.json")
    assert json.loads(row.content)["columns"]["BODY"] == "new"
    assert {key for key, _ in await world.announced(again)} == {"1", "2"}  # all events of both processes
    assert (world.warehouse.stream, world.warehouse.outbox) == ([], {})
    assert await world.differs() == []


async def test_entries_stay_in_the_outbox_until_their_changes_are_announced() -> None:
    world = World()
    stream = await world.started()
    world.warehouse.put("1", "new")
    assert len(await stream.receive()) == 1
    assert list(world.warehouse.outbox.values()) == ["1"]
    assert len(await stream.receive()) == 1


async def test_a_large_change_is_read_in_pages_without_a_diff_in_between() -> None:
    world = World()
    stream = await world.started()
    for number in range(PAGE + 5):
        world.warehouse.put(f"n{number}", "x")
    assert len(await world.announced(stream)) == PAGE
    assert len(world.warehouse.outbox) == 5
    assert len(await world.announced(stream)) == 5
    assert await world.differs() == []


async def test_a_stale_stream_is_logged_with_its_remedy_and_a_diff_finds_the_changes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    world = World()
    stream = await world.started()
    remedies: list[str] = []
    monkeypatch.setattr(
        consumers.snowflake, "_log", SimpleNamespace(error=lambda _, **named: remedies.append(named["remedy"]))
    )
    world.warehouse.is_stale = True
    world.warehouse.put("1", "missed")
    world.warehouse.drop("2")
    world.warehouse.put("3", "missed too")
    world.warehouse.stream = []
    assert {"1", "3"} <= {key for key, _ in await world.announced(stream)}
    assert ["create or replace stream CRM.CHANGES on table TICKETS" in each for each in remedies] == [True]
    calls: list[str] = []

    async def hashes(*_: Any) -> dict[str, str]:
        calls.append("diff")
        return {}

    monkeypatch.setattr(world.warehouse, "hashes", hashes)
    await step(stream, IDS, world.log)
    assert calls == []  # one diff at once, and then one per interval
    world.warehouse.is_stale = False
    world.warehouse.put("4", "created again")
    assert [key for key, _ in await world.announced(stream)] == ["4"]


# -- the SQL


def test_every_statement_is_sql_of_snowflake_and_touches_only_the_stream_and_the_outbox() -> None:
    key = adapter.key_expression(("ORDER_ID", "NUMBER"))
    begin, insert, commit = (
        sqlglot.parse_one(each, dialect="snowflake") for each in adapter.fill_statements(*NAMES, key)
    )
    assert isinstance(begin, exp.Transaction)
    assert isinstance(commit, exp.Commit)
    assert isinstance(insert, exp.Insert)
    assert tables(insert.this) == {NAMES[1]}
    assert tables(insert.expression) == {NAMES[0]}
    assert {each.name.lower() for each in insert.expression.find_all(exp.Column)} == {
        "order_id", "number", "metadata$action", "metadata$isupdate",
    }  # fmt: skip
    pending = sqlglot.parse_one(adapter.pending_statement(NAMES[1], 500), dialect="snowflake")
    assert isinstance(pending, exp.Select)
    assert tables(pending) == {NAMES[1]}
    forget = sqlglot.parse_one(adapter.forget_statement(NAMES[1], [1, 2]), dialect="snowflake")
    assert isinstance(forget, exp.Delete)
    assert tables(forget) == {NAMES[1]}
    assert [each.name for each in forget.find_all(exp.Literal)] == ["1", "2"]


def tables(tree: exp.Expression) -> set[str]:
    return {f"{each.db}.{each.name}" for each in tree.find_all(exp.Table)}


class Connection:
    """A connection that notes its statements, of which one may fail."""

    def __init__(self, error: Exception | None) -> None:
        self.statements: list[str] = []
        self._error = error

    def cursor(self) -> Connection:
        return self

    def execute(self, statement: str) -> None:
        self.statements.append(statement.split()[0])
        if self._error and statement.startswith("insert"):
            raise self._error

    def close(self) -> None:
        self.statements.append("close")


@pytest.mark.heavy  # the connector starts a process when it is imported
@pytest.mark.parametrize(
    ("message", "expected"),
    [("", None), ("Stream CHANGES is stale", StaleStream), ("Object 'STALE_ITEMS' does not exist", Unavailable)],
)
async def test_the_move_is_one_transaction_of_one_connection(
    monkeypatch: pytest.MonkeyPatch, message: str, expected: type[Exception] | None
) -> None:
    import snowflake.connector

    connection = Connection(snowflake.connector.errors.ProgrammingError(message) if message else None)
    monkeypatch.setattr(snowflake.connector, "connect", lambda **_: connection)
    warehouse = adapter.SnowflakeWarehouse({})
    if expected is None:
        await warehouse.fill(*NAMES, "ID")
        assert connection.statements == ["begin", "insert", "commit", "close"]
        return
    with pytest.raises(Unavailable) as caught:
        await warehouse.fill(*NAMES, "ID")
    assert type(caught.value) is expected
    assert connection.statements == ["begin", "insert", "close"]


@pytest.mark.parametrize("name", ["", "a b", "x; drop table t", "a.b.c.d"])
def test_a_stream_is_named_by_an_identifier(name: str) -> None:
    with pytest.raises(ValueError, match="stream"):
        TableSettings(table="T", stream=name)
