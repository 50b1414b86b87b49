from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from consumers.preview import read_only_parts
from consumers.reconcile import reconcile
from consumers.retired import withdraw_retired
from consumers.snowflake import diff
from rag.adapters.memory.objects import MemoryObjects
from rag.ingest.change_events import publish_changes
from rag.ingest.warehouse_rows import object_change, record_hashes, write_rows
from rag.sources import Source
from rag.tables import Table
from schemas.topics import CHANGED
from tests.consumers.test_snowflake import NOON, MemoryWarehouse
from tests.fakes.world import IDS, SOURCE, TEXT, World


@pytest.fixture
def world() -> World:
    return World()


def preview(world: World) -> tuple[Any, list[str]]:
    lines: list[str] = []
    return SimpleNamespace(**{**vars(world.services), **read_only_parts(world.services, lines.append)}), lines


async def test_a_dry_run_prints_each_difference_and_changes_nothing(world: World) -> None:
    await world.put("gone.md")
    await world.put("same.md")
    await world.run_lane()
    await world.objects.delete(["s3://docs/gone.md"])
    await world.objects.put("s3://docs/new.md", TEXT.encode())
    before = await world.published(CHANGED)
    opened, lines = preview(world)
    for _ in range(2):
        await reconcile(SOURCE, opened)
    assert sorted(lines) == ["CHANGED  s3://docs/new.md  (s3)", "DELETED  s3://docs/gone.md  (s3)"]
    assert await world.published(CHANGED) == before
    assert await reconcile(SOURCE, world.services) == 2  # and the real run announces just these


async def test_a_dry_run_confirms_and_withdraws_nothing(world: World) -> None:
    await world.put("a.md")
    await world.run_lane()
    world.source = Source("elsewhere", "acme", "s3://elsewhere", ("group:staff",))
    opened, lines = preview(world)
    await withdraw_retired(opened, confirmed=True)
    assert lines == [f"DELETED  document {IDS.document_id('acme', 's3', 's3://docs/a.md')}  (no source contains it)"]
    await world.run_lane()
    assert (await world.row("a.md")).status == "live"


async def test_a_dry_run_writes_no_row_object_and_no_hash(world: World) -> None:
    table, warehouse = Table("TICKETS", "ID", "UPDATED_AT"), MemoryWarehouse()
    source = Source("rows", "acme", "s3://internal/rows", ("group:staff",))
    world.objects = MemoryObjects("s3://docs", "s3://internal")
    warehouse.put("1", "a", NOON)
    opened, lines = preview(world)
    changes = await diff(table, source, warehouse, opened.objects, opened.ledger)
    written = await write_rows(source, changes, opened.objects)
    await publish_changes([object_change(source, each) for each in written], source, IDS, opened.events)
    await record_hashes(source, changes, opened.ledger)
    assert lines == ["CHANGED  s3://internal/rows/tickets/1.json  (rows)"]
    assert [state async for state in world.objects.list("s3://internal/rows")] == []
    assert await world.ledger.row_hashes("rows", "TICKETS") == {}
