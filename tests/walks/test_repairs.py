"""Ledger, vector index and artifact store are compared and made equal again, after one of them lost or gained something."""

from __future__ import annotations

import uuid
from dataclasses import replace

import pytest

from rag.adapters.memory.events import MemoryEventLog
from rag.adapters.memory.vectors import MemoryVectors
from rag.errors import LostIndex, Unavailable
from rag.ingest.artifacts import CONTAINER, shard_of, shards
from rag.ingest.indexing import sweep
from rag.ingest.parking import ParkingPolicy
from rag.ingest.repair import Repairs, rebuild, repair_documents, repair_points, repair_step, require_rebuilt
from rag.ingest.tasks import Report
from rag.models import DocumentStatus
from rag.ports import Delta
from schemas.topics import CHANGED, TOPICS
from tests.fakes.crashes import Crash, Watched
from tests.fakes.world import SPEC, TEXT, World


@pytest.fixture
async def world() -> World:
    made = World()
    await made.put("a.md")
    await made.put("b.md", "# B\n\nHelium.\n")
    await made.run_lane()
    made.embedder.embedded = made.parsing.parsed = 0
    return made


async def shard(world: World, key: str = "a.md") -> str:
    return shard_of((await world.row(key)).document_id)


async def points(world: World) -> dict[str, str]:
    return dict([each async for each in world.vectors.scroll(SPEC.index_id)])


async def assert_equal(world: World) -> None:
    """Assert that index and artifact store hold what the ledger lists, and nothing else."""
    rows = [await world.row(key) for key in ("a.md", "b.md")]
    assert await points(world) == {each.point_id: each.payload_hash for row in rows for each in row.chunks.values()}
    stored = {state.uri.removeprefix(f"{CONTAINER}/") async for state in world.artifacts.list(CONTAINER)}
    assert stored == {key for row in rows for key in row.artifacts}


async def repair_all(world: World, *, abandoned_seconds: float = 0) -> Repairs:
    return await repair_step(world.lane, world.ledger, number=len(shards()), abandoned_seconds=abandoned_seconds)


async def test_an_index_without_a_difference_is_not_touched(world: World) -> None:
    before, row = await points(world), await world.row("a.md")
    assert await repair_all(world) == Repairs()
    assert await points(world) == before
    assert await world.row("a.md") == row


async def test_a_lost_point_is_written_again_without_parsing_or_embedding(world: World) -> None:
    row = await world.row("a.md")
    await world.vectors.delete(SPEC.index_id, [next(iter(row.chunks.values())).point_id])
    assert await repair_all(world) == Repairs(documents=1)
    assert (world.embedder.embedded, world.parsing.parsed) == (0, 0)
    assert "Three ropes" in await world.found("ropes")
    await assert_equal(world)


async def test_a_point_with_another_payload_is_written_again(world: World) -> None:
    row = await world.row("a.md")
    (point,) = await world.vectors.retrieve(SPEC.index_id, [next(iter(row.chunks.values())).point_id])
    await world.vectors.upsert(SPEC.index_id, [replace(point, payload=point.payload | {"payload_hash": "other"})])
    assert await repair_all(world) == Repairs(documents=1)
    await assert_equal(world)


async def test_an_orphan_is_deleted_and_an_intent_is_spared(world: World) -> None:
    """A late upsert leaves an orphan, perhaps of a document that the ledger does not know."""
    (point,) = await world.vectors.retrieve(SPEC.index_id, [next(iter(await points(world)))])
    orphans = [replace(point, point_id=str(uuid.uuid4()), payload=point.payload | {"document_id": str(uuid.uuid4())})
               for _ in range(3)]  # fmt: skip
    await world.vectors.upsert(SPEC.index_id, orphans)
    intended = replace(point, point_id=str(uuid.uuid4()))
    row = await world.row("a.md")
    chunk, placement = next(iter(row.chunks.items()))
    planned = replace(row, chunks={chunk: replace(placement, point_id=intended.point_id)})
    await world.ledger.record_intent(SPEC.index_id, [Delta(planned, writes={chunk: {}})])
    await world.vectors.upsert(SPEC.index_id, [intended])
    total, start, pages = Repairs(), "", 0
    while start or not pages:
        repairs, start = await repair_points(world.lane, start=start, limit=2)
        total, pages = total + repairs, pages + 1
    assert (total, pages) == (Repairs(points=3), 4)
    await world.vectors.delete(SPEC.index_id, [intended.point_id])
    await assert_equal(world)


async def test_a_missing_artifact_of_a_shown_document_is_derived_again(world: World) -> None:
    row = await world.row("a.md")
    await world.artifacts.delete([f"{CONTAINER}/{row.artifacts[1]}"])
    assert await repair_documents(world.lane, await shard(world)) == Repairs(documents=1)
    assert (world.parsing.parsed, world.embedder.embedded) == (1, 0)
    assert await repair_documents(world.lane, await shard(world)) == Repairs()
    await repair_all(world)
    await assert_equal(world)


async def test_superseded_artifacts_are_deleted_at_once_and_abandoned_ones_when_they_are_old(world: World) -> None:
    row = await world.row("a.md")
    superseded, running = (f"{CONTAINER}/{row.artifacts[0]}".replace("/0-", f"/{n}-other") for n in (0, row.revision))
    unknown = f"{CONTAINER}/{SPEC.index_id}/{await shard(world)}/{uuid.uuid4()}/0-v/parsed.json"
    for uri in (superseded, running, unknown):
        await world.artifacts.put(uri, b"{}")
    assert await repair_documents(world.lane, await shard(world), abandoned_seconds=3600) == Repairs(artifacts=1)
    assert await world.artifacts.head(superseded) is None
    assert await world.artifacts.head(running) is not None
    assert await repair_documents(world.lane, await shard(world), abandoned_seconds=0) == Repairs(artifacts=2)
    await assert_equal(world)


async def test_artifacts_of_a_deleted_document_are_deleted(world: World) -> None:
    row = await world.row("a.md")
    await world.objects.delete(["s3://docs/a.md"])
    await world.announce("a.md")
    await world.run_lane()
    await world.artifacts.put(f"{CONTAINER}/{row.artifacts[0]}", b"{}")  # a put that the store executes late
    assert await repair_documents(world.lane, shard_of(row.document_id)) == Repairs(artifacts=1)
    await assert_equal(world)


async def test_steps_take_turns_until_every_shard_was_compared(world: World) -> None:
    row = await world.row("a.md")
    await world.vectors.delete(SPEC.index_id, [each.point_id for each in row.chunks.values()])
    for _ in range(24):
        await repair_step(world.lane, world.ledger)
    assert "Three ropes" in await world.found("ropes")
    assert (await world.ledger.cursor(f"repair/{SPEC.index_id}"))["shard"] == (24 * 11) % 256


async def test_a_shard_that_fails_does_not_hold_up_the_next_step(world: World) -> None:
    world.artifacts.denied.add(CONTAINER)
    with pytest.raises(Unavailable):
        await repair_step(world.lane, world.ledger)
    assert (await world.ledger.cursor(f"repair/{SPEC.index_id}"))["shard"] == 11


async def test_a_document_that_changes_meanwhile_is_left_to_its_own_event(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    listing = world.ledger.shard

    async def overtaken(index_id: str, name: str) -> object:
        records = await listing(index_id, name)
        monkeypatch.setattr(world.ledger, "shard", listing)
        await world.put("a.md", TEXT.replace("Three", "Nine"))
        await world.run_lane()
        return records

    monkeypatch.setattr(world.ledger, "shard", overtaken)
    assert await repair_documents(world.lane, await shard(world)) == Repairs()
    assert (await world.row("a.md")).revision == 2
    await assert_equal(world)


async def test_a_stale_document_gets_its_points_back_and_stays_parked(world: World) -> None:
    world.parking = ParkingPolicy()
    world.objects.unreadable["s3://docs/a.md"] = "archived"
    await world.put("a.md", TEXT.replace("Three", "Nine"))
    await world.run_lane()
    before = await world.row("a.md")
    await world.vectors.delete(SPEC.index_id, [each.point_id for each in before.chunks.values()])
    assert await repair_all(world) == Repairs(documents=1)
    after = await world.row("a.md")
    assert (after.status, after.reason, after.parking) == (DocumentStatus.PARKED, "archived", before.parking)
    assert (after.version, after.change_token) == (before.version, before.change_token)
    assert "Three ropes" in await world.found("ropes")


async def test_a_lost_collection_is_not_replaced_by_an_empty_one(world: World) -> None:
    world.vectors = MemoryVectors()
    await world.put("b.md", "# B\n\nHelium and argon.\n")
    with pytest.raises(LostIndex, match="python -m assets rebuild"):
        await world.run_lane()
    assert not await world.vectors.exists(SPEC.index_id)
    assert await world.due()


async def test_a_collection_that_was_emptied_is_lost_as_well(world: World) -> None:
    await world.vectors.delete(SPEC.index_id, list(await points(world)))
    with pytest.raises(LostIndex):
        await world.pipeline.prepare()


async def test_a_rebuild_writes_every_point_from_the_artifacts_and_ends_the_alarm(world: World) -> None:
    world.vectors = MemoryVectors()
    lines: list[str] = []
    assert (await rebuild(world.lane, world.ledger, report=lines.append)).documents == 2
    assert (world.embedder.embedded, world.parsing.parsed) == (0, 0)
    assert lines[-1].startswith("256 of 256 shards, 2 documents")
    await require_rebuilt(world.pipeline, world.ledger)
    assert await world.run_lane() == Report()
    assert "Three ropes" in await world.found("ropes")
    assert "Helium" in await world.found("helium")
    await assert_equal(world)


async def test_an_interrupted_rebuild_is_reported_until_it_ends(world: World) -> None:
    world.vectors = MemoryVectors()
    failing = await shard(world)
    listed = world.ledger.shard

    async def broken(index_id: str, name: str) -> object:
        if name == failing:
            raise Unavailable("the database does not answer")
        return await listed(index_id, name)

    world.ledger.shard = broken  # type: ignore[method-assign, assignment]
    with pytest.raises(LostIndex, match="1 of 256 shards"):
        await rebuild(world.lane, world.ledger)
    with pytest.raises(LostIndex, match="has not ended"):
        await require_rebuilt(world.pipeline, world.ledger)
    world.ledger.shard = listed  # type: ignore[method-assign]
    assert (await rebuild(world.lane, world.ledger)).documents == 1
    await require_rebuilt(world.pipeline, world.ledger)


async def test_after_a_crash_between_any_two_calls_a_repair_leaves_exactly_the_state_in_the_ledger() -> None:
    crash_after = 1
    while True:
        world = World(log=MemoryEventLog({**TOPICS, CHANGED: replace(TOPICS[CHANGED], partitions=1)}))
        await world.put("a.md")
        await world.put("b.md", "# B\n\nHelium.\n")
        await world.run_lane()
        await world.put("a.md", TEXT.replace("Three", "Nine"))
        await world.objects.delete(["s3://docs/b.md"])
        await world.announce("b.md")
        await world.put("broken.pdf", b"%PDF-1.7 truncated")
        watched = Watched(world)
        watched.restart(crash_after=crash_after)
        try:
            await world.run_lane()
        except Crash:
            watched.restart()
            await world.put("a.md", TEXT.replace("Three", "Ten"))  # the content of the crashed derivation is overtaken
            await world.run_lane()
            await repair_all(world)
            await sweep(SPEC.index_id, ledger=world.ledger, vectors=world.vectors, older_than=0)
            await assert_equal(world)
            assert "Ten ropes" in await world.found("ropes"), crash_after
            crash_after += 1
        else:
            break
    assert crash_after > 20
