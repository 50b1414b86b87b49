"""A document can be stuck, a partition cannot: an object that cannot be read is parked, and everything behind it goes on."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from rag.adapters.memory.events import MemoryEventLog
from rag.adapters.memory.models import HashEmbedder
from rag.errors import ObjectUnavailable, Unavailable
from rag.ingest.parking import ParkingPolicy
from rag.ingest.tasks import Report
from rag.models import DocumentStatus
from schemas.topics import CHANGED, DEAD, INDEXED, TOPICS
from tests.fakes.world import SPEC, TEXT, World

OLD = "s3://docs/old.md"
EDITED = TEXT.replace("Three", "Nine")
AT_ONCE = ParkingPolicy(first_wait=0, longest_wait=0)


@pytest.fixture
def world() -> World:
    """A world with one partition, so that a stuck document would stop every other one."""
    one_partition = {**TOPICS, CHANGED: replace(TOPICS[CHANGED], partitions=1)}
    return World(log=MemoryEventLog(one_partition), parking=AT_ONCE)


async def test_an_archived_object_does_not_hold_up_the_events_behind_it(world: World) -> None:
    await world.put("a.md")
    await world.run_lane()
    world.objects.unreadable[OLD] = "archived"
    await world.put("old.md", "# Old\n\nHelium.\n")
    await world.objects.delete(["s3://docs/a.md"])
    await world.announce("a.md", deleted=True)
    await world.run_lane()
    assert await world.found("ropes") == ""
    assert await world.due() == []
    row = await world.row("old.md")
    assert (row.status, row.reason, row.chunks, row.parking.attempts) == (DocumentStatus.PARKED, "archived", {}, 1)
    assert row.principals == ("group:staff",)
    assert await world.published(DEAD) == []


async def test_a_parked_document_is_read_when_its_object_can_be(world: World) -> None:
    world.objects.unreadable[OLD] = "archived"
    await world.put("old.md")
    await world.run_lane()
    assert (await world.lane.retry_parked()).documents == 1
    assert (await world.row("old.md")).parking.attempts == 2
    world.objects.unreadable.clear()
    await world.lane.retry_parked()
    row = await world.row("old.md")
    assert (row.status, row.parking, row.reason) == (DocumentStatus.LIVE, None, "")
    assert "Three ropes" in await world.found("ropes")
    assert await world.lane.retry_parked() == Report()


async def test_a_document_is_not_tried_before_its_time(world: World) -> None:
    world.parking = ParkingPolicy(first_wait=60)
    world.objects.unreadable[OLD] = "archived"
    await world.put("old.md")
    await world.run_lane()
    assert await world.lane.retry_parked() == Report()


async def test_the_older_version_is_served_as_stale_and_withdrawn_after_its_time(world: World) -> None:
    await world.put("old.md")
    await world.run_lane()
    world.objects.unreadable[OLD] = "key_unavailable"
    await world.put("old.md", EDITED)
    await world.run_lane()
    assert "Three ropes" in await world.found("ropes")
    assert [hit.provenance.is_stale for hit in await world.hits("ropes")] == [True, True]
    assert [event.state.value for event in await world.published(INDEXED)] == ["live", "live"]
    world.parking = replace(AT_ONCE, stale_seconds=0)
    await world.lane.retry_parked()
    assert await world.found("ropes") == ""
    assert await world.vectors.count(SPEC.index_id) == 0
    assert (await world.published(INDEXED))[-1].state.value == "deleted"
    world.objects.unreadable.clear()
    await world.lane.retry_parked()
    assert "Nine ropes" in await world.found("ropes")
    assert [hit.provenance.is_stale for hit in await world.hits("ropes")] == [False, False]


async def test_an_object_that_changes_while_it_is_parked_is_read_with_its_event(world: World) -> None:
    world.objects.unreadable[OLD] = "archived"
    await world.put("old.md")
    await world.run_lane()
    world.objects.unreadable.clear()
    await world.put("old.md", EDITED)
    await world.run_lane()
    assert "Nine ropes" in await world.found("ropes")
    assert await world.ledger.parked(SPEC.index_id, due=datetime.now(UTC) + timedelta(days=1)) == []


async def test_an_object_that_is_deleted_while_it_is_parked_is_deleted(world: World) -> None:
    await world.put("old.md")
    await world.run_lane()
    world.objects.unreadable[OLD] = "archived"
    await world.put("old.md", EDITED)
    await world.run_lane()
    await world.objects.delete([OLD])
    await world.lane.retry_parked()
    assert (await world.row("old.md")).status is DocumentStatus.DELETED
    assert await world.found("ropes") == ""


async def test_a_document_that_is_archived_after_it_was_indexed_stays(world: World) -> None:
    await world.put("old.md")
    await world.run_lane()
    world.objects.unreadable[OLD] = "archived"
    await world.announce("old.md")
    assert await world.run_lane() == Report()
    assert await world.backfill() == Report()
    assert (await world.row("old.md")).status is DocumentStatus.LIVE


async def test_a_suppressed_document_is_not_served_while_it_is_parked(world: World) -> None:
    await world.put("old.md")
    await world.run_lane()
    world.objects.unreadable[OLD] = "archived"
    await world.put("old.md", EDITED)
    await world.run_lane()
    await world.ledger.suppress("acme", [(await world.row("old.md")).document_id], reason="erasure")
    assert await world.found("ropes") == ""
    await world.lane.retry_parked()
    assert (await world.row("old.md")).status is DocumentStatus.SUPPRESSED
    assert await world.vectors.count(SPEC.index_id) == 0


async def test_a_container_that_refuses_everything_is_an_outage_and_keeps_the_position(world: World) -> None:
    await world.put("old.md")
    world.objects.denied.add("s3://docs")
    due = await world.due()
    with pytest.raises(Unavailable):
        await world.run_lane()
    assert await world.due() == due
    assert await world.ledger.parked_reasons(SPEC.index_id) == {}


class Choosy(HashEmbedder):
    """An embedder that refuses every text about helium, as a hosted model may refuse a text."""

    async def embed(self, texts: Any) -> Any:
        if any("helium" in text.lower() for text in texts):
            raise ObjectUnavailable("the model refuses an input", reason="embedder_refused")
        return await super().embed(texts)


async def test_an_input_that_the_embedder_refuses_parks_its_document_alone(world: World) -> None:
    world.embedder = Choosy(64)
    for number in range(9):
        await world.put(f"{number}.md", f"# {number}\n\nThe ropes of mast {number}.\n")
    await world.put("old.md", "# Old\n\nHelium.\n")
    report = await world.run_lane()
    assert (report.documents, report.embedded) == (10, 9)
    row = await world.row("old.md")
    assert (row.status, row.reason) == (DocumentStatus.PARKED, "embedder_refused")
    world.embedder = HashEmbedder(64)
    await world.lane.retry_parked()
    assert "Helium" in await world.found("helium")
