from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

from consumers.listing import is_document
from consumers.runner import step
from consumers.snowflake import SnowflakeStream, diff
from rag.adapters.memory.events import MemoryEventLog
from rag.adapters.memory.ledger import MemoryLedger
from rag.adapters.memory.objects import MemoryObjects
from rag.ids import Ids, row_hash
from rag.ingest.deletions import MASS
from rag.ports import Row
from rag.sources import Source
from rag.tables import Table
from schemas.events import ChangeKind, DocumentChanged
from schemas.topics import CHANGED

IDS = Ids(b"0123456789abcdef")
SOURCE = Source("snowflake", "acme", "s3://internal/rows", ("group:staff",))
TICKETS = Table("TICKETS", "ID", "UPDATED_AT", "SUBJECT", ("EMAIL",))
NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)


class MemoryWarehouse:
    """A table of (key → row) that keeps the contract of the port."""

    def __init__(self) -> None:
        self.table: dict[str, Row] = {}

    def put(self, key: str, text: str, changed: datetime, **columns: str) -> None:
        body = json.dumps({"ID": key, "SUBJECT": f"Ticket {key}", "BODY": text, **columns})
        self.table[key] = Row(key, changed, body)

    async def changed(
        self, table: str, key: str, changed: str, *, since: datetime | None, after: Row | None, limit: int
    ) -> list[Row]:
        rows = sorted(self.table.values(), key=lambda row: (row.changed, row.key))
        if after:
            rows = [row for row in rows if (row.changed, row.key) > (after.changed, after.key)]
        elif since:
            rows = [row for row in rows if row.changed >= since]
        return rows[:limit]

    async def hashes(self, table: str, key: str) -> dict[str, str]:
        return {key: row_hash(row.body) for key, row in self.table.items()}

    async def rows(self, table: str, key: str, changed: str, keys: Sequence[str]) -> list[Row]:
        return [self.table[each] for each in keys if each in self.table]


class World:
    def __init__(self) -> None:
        self.warehouse = MemoryWarehouse()
        self.objects = MemoryObjects("s3://internal")
        self.ledger = MemoryLedger()
        self.log = MemoryEventLog()
        self._read: set[tuple[int, int]] = set()

    def stream(self, *, diff_every: float = 0.0, overlap: float = 60.0) -> SnowflakeStream:
        return SnowflakeStream(
            SOURCE, TICKETS, self.warehouse, self.objects, self.ledger, every=0, diff_every=diff_every, overlap=overlap
        )  # fmt: skip

    async def announced(self, stream: SnowflakeStream) -> list[tuple[str, ChangeKind]]:
        """Run one turn of the stream and return the announced changes as (row key, kind)."""
        await step(stream, IDS, self.log)
        state = await self.log.describe(CHANGED)
        records = [r for p, (low, end) in state.bounds.items() for r in await self.log.read(CHANGED, p, low, end)]
        fresh = [record for record in records if (record.partition, record.offset) not in self._read]
        self._read |= {(record.partition, record.offset) for record in records}
        events: list[DocumentChanged] = [record.value for record in fresh]
        return sorted((event.uri.rsplit("/", 1)[1].removesuffix(".json"), event.kind) for event in events)


async def test_rows_are_written_as_objects_before_they_are_announced() -> None:
    world = World()
    world.warehouse.put("1", "The pump leaks", NOON, EMAIL="pat@example.com")
    assert await world.announced(world.stream()) == [("1", ChangeKind.CHANGED)]
    row = await world.objects.get("s3://internal/rows/tickets/1.json")
    assert row is not None
    assert json.loads(row.content)["columns"]["BODY"] == "The pump leaks"
    assert row.state.labels == {"title": "Ticket%201", "subjects": "pat@example.com"}
    assert row.state.media_type == "application/vnd.tidemark.row+json"


async def test_rows_inside_the_overlap_are_read_again_and_not_announced_again() -> None:
    world = World()
    world.warehouse.put("1", "a", NOON)
    stream = world.stream()
    await world.announced(stream)
    assert await world.announced(stream) == []


async def test_a_restart_continues_at_the_cursor() -> None:
    world = World()
    world.warehouse.put("1", "a", NOON)
    await world.announced(world.stream())
    world.warehouse.put("2", "b", NOON + timedelta(seconds=1))
    assert await world.announced(world.stream()) == [("2", ChangeKind.CHANGED)]


async def test_the_diff_finds_a_commit_that_came_later_than_the_overlap() -> None:
    world = World()
    world.warehouse.put("1", "a", NOON)
    await world.announced(world.stream())
    world.warehouse.put("0", "committed late", NOON - timedelta(hours=5))
    assert await world.announced(world.stream()) == [("0", ChangeKind.CHANGED)]


async def test_the_diff_finds_deleted_rows_and_deletes_their_objects() -> None:
    world = World()
    world.warehouse.put("1", "a", NOON)
    world.warehouse.put("2", "b", NOON)
    await world.announced(world.stream())
    del world.warehouse.table["1"]
    assert await world.announced(world.stream()) == [("1", ChangeKind.DELETED)]
    assert await world.objects.head("s3://internal/rows/tickets/1.json") is None


async def test_a_crash_before_the_commit_announces_again() -> None:
    world = World()
    world.warehouse.put("1", "a", NOON)
    stream = world.stream()
    messages = await stream.receive()
    await stream.handle([change for message in messages for change in stream.decode(message)])
    assert await world.announced(world.stream()) == [("1", ChangeKind.CHANGED)]


async def test_a_truncated_table_deletes_nothing_until_it_is_confirmed() -> None:
    world = World()
    for number in range(MASS + 2):
        world.warehouse.put(str(number), "a", NOON)
    await world.announced(world.stream())
    world.warehouse.table.clear()
    assert await world.announced(world.stream()) == []
    assert len(await diff(TICKETS, SOURCE, world.warehouse, world.objects, world.ledger, confirmed=True)) == MASS + 2


async def test_a_refused_row_deletes_its_older_object_once() -> None:
    world = World()
    world.warehouse.put("1", "public", NOON, EMAIL="pat@example.com")
    world.warehouse.put("2", "other", NOON)
    await world.announced(world.stream())
    world.warehouse.put("1", "withdrawn", NOON + timedelta(seconds=1), EMAIL="p" * 1200)
    assert await world.announced(world.stream()) == [("1", ChangeKind.DELETED)]
    assert await world.objects.head("s3://internal/rows/tickets/1.json") is None
    assert await world.announced(world.stream()) == []
    world.warehouse.put("1", "public again", NOON + timedelta(seconds=2), EMAIL="pat@example.com")
    assert await world.announced(world.stream()) == [("1", ChangeKind.CHANGED)]


async def test_the_diff_finds_a_lost_row_object() -> None:
    world = World()
    world.warehouse.put("1", "a", NOON)
    world.warehouse.put("2", "b", NOON)
    await world.announced(world.stream())
    await world.objects.delete(["s3://internal/rows/tickets/1.json"])
    assert await world.announced(world.stream()) == [("1", ChangeKind.CHANGED)]
    assert await world.objects.head("s3://internal/rows/tickets/1.json") is not None
    assert await world.announced(world.stream()) == []


ODD_KEYS = ["", ".", "..", "~$x", "a/b", "../../etc", "x" * 500, "%2E", "\x00", "ü", " ", ".hidden", "~"]


async def test_odd_row_keys_stop_no_table_and_share_no_object() -> None:
    world = World()
    for number, key in enumerate(ODD_KEYS):
        world.warehouse.put(key, f"row {number}", NOON)
    world.warehouse.put("plain", "row", NOON)
    assert len(await world.announced(world.stream())) == len(ODD_KEYS) + 1
    stored = [state.uri async for state in world.objects.list("s3://internal/rows/tickets")]
    assert len(stored) == len(ODD_KEYS) + 1
    assert all(is_document(uri) for uri in stored)  # or a listing would take them for deleted
    assert await world.announced(world.stream()) == []
