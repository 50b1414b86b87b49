"""The third walk in memory, as far as it exists: what is suppressed disappears at once, and no replay or backfill brings it back."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any

import pytest

from rag.ids import erasure_id
from rag.ingest.artifacts import CONTAINER
from rag.models import DocumentStatus, Erasure, OffsetRange
from schemas.topics import CHANGED, INDEXED
from tests.fakes.gateway import Gateway, gateway
from tests.fakes.world import IDS, SPEC, TEXT, World

QUESTION = "How many ropes hold a zeppelin?"
BY_ID, BY_SUBJECT, OTHER = "by-id.md", "by-subject.md", "other.md"


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture
async def door(world: World) -> AsyncIterator[Gateway]:
    """A gateway over three documents: one to suppress by its id, one by the person whom it names, and one that stays."""
    await world.put(BY_ID)
    await world.put(BY_SUBJECT, "# Pilot\n\nPat ties two ropes to the zeppelin.\n", subjects="pat@example.com")
    await world.put(OTHER, "# Galley\n\nSoup is served at noon.\n")
    await world.run_lane()
    async with gateway(world) as opened:
        yield opened


async def suppress(world: World) -> None:
    """Record the suppressions, as the request of an erasure does before anything else."""
    document_id = IDS.document_id("acme", "s3", f"s3://docs/{BY_ID}")
    subject_id = IDS.subject_id("acme", " PAT@example.com")
    await world.ledger.suppress("acme", [document_id, subject_id], reason="erasure request 7")


async def replay(world: World) -> None:
    """Run the lane over every event that the log still holds, as after a loss of all positions."""
    state = await world.log.describe(CHANGED)
    for partition, (low, end) in state.bounds.items():
        await world.lane.run(OffsetRange(CHANGED, state.epoch, partition, low, end))


async def assert_only_the_other_document_is_there(world: World, door: Gateway) -> None:
    hits = await door.search("alice", "zeppelin ropes Pat soup", top_k=50)
    assert {hit["uri"] for hit in hits} == {f"s3://docs/{OTHER}"}
    listed = (await door.get("alice", "/v1/documents"))["documents"]
    assert {each["uri"] for each in listed} == {f"s3://docs/{OTHER}"}


async def test_a_suppression_hides_points_catalog_and_cached_answers_at_once(world: World, door: Gateway) -> None:
    """Nothing is deleted yet, and no event was published: the ledger alone decides what is visible."""
    first = await door.ask("alice", QUESTION)
    assert "ropes" in first["answer"]
    assert (await door.ask("alice", QUESTION))["cached"]
    await suppress(world)
    answer = await door.ask("alice", QUESTION)
    assert not answer["cached"]
    assert answer["citations"] == []
    assert "ropes" not in answer["answer"]
    await assert_only_the_other_document_is_there(world, door)


async def test_a_replay_of_every_event_brings_nothing_back_and_removes_the_remains(world: World, door: Gateway) -> None:
    await suppress(world)
    await replay(world)
    for key in (BY_ID, BY_SUBJECT):
        row = await world.row(key)
        assert (row.status, row.reason, row.chunks) == (DocumentStatus.SUPPRESSED, "suppressed", {})
    kept = [each.point_id for each in (await world.row(OTHER)).chunks.values()]
    assert [point_id async for point_id, _ in world.vectors.scroll(SPEC.index_id)] == sorted(kept)
    stored = {state.uri.split("/")[5] async for state in world.artifacts.list(CONTAINER)}
    assert stored == {(await world.row(OTHER)).document_id}
    await assert_only_the_other_document_is_there(world, door)


async def test_a_backfill_brings_nothing_back(world: World, door: Gateway) -> None:
    await suppress(world)
    await world.backfill()
    assert (await world.row(BY_ID)).status is DocumentStatus.SUPPRESSED
    assert (await world.row(BY_SUBJECT)).status is DocumentStatus.SUPPRESSED
    await assert_only_the_other_document_is_there(world, door)
    await world.backfill()
    await assert_only_the_other_document_is_there(world, door)


async def test_a_new_version_and_a_new_document_about_the_person_stay_out(world: World, door: Gateway) -> None:
    await suppress(world)
    await world.put(BY_ID, TEXT.replace("Three", "Nine"))
    await world.put(
        "new.md", "# New\n\nPat moors the zeppelin with ropes.\n", subjects="kim@example.com,pat@example.com"
    )
    await world.run_lane()
    assert (await world.row("new.md")).status is DocumentStatus.SUPPRESSED
    await assert_only_the_other_document_is_there(world, door)


async def test_a_document_that_is_suppressed_by_its_id_is_neither_read_nor_parsed(
    world: World, door: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    await suppress(world)
    read, get = [], world.objects.get

    async def watched(uri: str, *, limit: int | None = None) -> object:
        read.append(uri)
        return await get(uri, limit=limit)

    monkeypatch.setattr(world.objects, "get", watched)
    parsed = world.parsing.parsed
    await world.put(BY_ID, TEXT.replace("Three", "Nine"))
    await world.run_lane()
    assert read == []
    assert world.parsing.parsed == parsed


async def test_a_suppression_between_embed_and_index_withdraws_the_document(world: World, door: Gateway) -> None:
    """The ledger asks again inside its transaction: the request may come while a worker holds the vectors already."""
    await world.put(BY_ID, TEXT.replace("Three", "Nine"))
    (due,) = await world.due()
    batch = await world.lane.collect(await world.lane.read(due), due)
    embedded = await world.lane.embed(await world.lane.chunk(await world.lane.parse(batch)))
    await suppress(world)
    report = await world.lane.index(embedded)
    assert [outcome.task.status for outcome in report.outcomes] == [DocumentStatus.SUPPRESSED]
    assert (await world.row(BY_ID)).chunks == {}
    await assert_only_the_other_document_is_there(world, door)


async def test_another_tenant_keeps_its_own_documents(world: World, door: Gateway) -> None:
    document_id = IDS.document_id("acme", "s3", f"s3://docs/{BY_ID}")
    await world.ledger.suppress("globex", [document_id], reason="a request of another tenant")
    await replay(world)
    assert "Three ropes" in await world.found("ropes")


async def test_the_events_of_a_suppressed_document_report_a_deletion(world: World, door: Gateway) -> None:
    before = {(each.document_id, each.revision) for each in await world.published(INDEXED)}
    await suppress(world)
    await replay(world)
    suppressed = {(await world.row(key)).document_id for key in (BY_ID, BY_SUBJECT)}
    fresh = [each for each in await world.published(INDEXED) if (each.document_id, each.revision) not in before]
    outcomes = {each.document_id: (each.state.value, each.chunks) for each in fresh if each.document_id in suppressed}
    assert outcomes == dict.fromkeys(suppressed, ("deleted", 0))


async def test_a_document_that_is_erased_over_the_gateway_is_gone_at_once_and_for_good(
    world: World, door: Gateway
) -> None:
    record = await world.row(BY_ID)
    points = {each.point_id for each in record.chunks.values()}
    assert await door.delete("alice", f"/v1/documents/{record.document_id}", "rag:query rag:erase") == 202
    assert "Three ropes" not in await world.found("ropes")  # before any lane has run
    assert points <= {point_id async for point_id, _ in world.vectors.scroll(SPEC.index_id)}
    await world.run_lane()
    assert points.isdisjoint([point_id async for point_id, _ in world.vectors.scroll(SPEC.index_id)])
    assert (await world.row(BY_ID)).status is DocumentStatus.SUPPRESSED
    await world.put(BY_ID, TEXT.replace("Three", "Nine"))  # its source still has it, and lists it
    await world.run_lane()
    await replay(world)
    await world.backfill()
    assert "ropes hold" not in await world.found("ropes")
    assert (await world.row(BY_ID)).chunks == {}
    assert "Soup" in await world.found("soup")


async def erase_pat(world: World, *spared: str) -> None:
    """Accept the erasure of a person, whom the officer leaves in the ``spared`` documents."""
    now = datetime.now(UTC)
    documents = tuple(IDS.document_id("acme", "s3", f"s3://docs/{key}") for key in spared)
    people = (IDS.subject_id("acme", "pat@example.com"),)
    erasure = Erasure(
        erasure_id(),
        "acme",
        "subject",
        "asked",
        "officer",
        (),
        now,
        now,
        now,
        subject_ids=people,
        spared=documents,
        subject_lengths=(len("pat@example.com"),),
    )
    await world.ledger.accept(erasure, [])


MENTION = "# Ropes\n\nAsk <PAT@Example.com> for more zeppelin ropes.\n"


async def test_an_erased_person_does_not_come_back_under_a_new_name(
    world: World, door: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    await erase_pat(world)
    written, put = [], world.artifacts.put

    async def watched(uri: str, content: bytes, **options: Any) -> Any:
        written.append(content)
        return await put(uri, content, **options)

    monkeypatch.setattr(world.artifacts, "put", watched)
    await world.put("new-name.md", MENTION)
    await world.put("pat@example.com/notes.md", "# Notes\n\nThe path has the zeppelin's pilot.\n")
    await world.put("title.md", "# Pat@example.com\n\nA title about a zeppelin.\n")
    await world.put("fine.md", "# Ropes\n\nAsk pat@example.community for zeppelin ropes.\n")
    await world.run_lane()
    hits = {hit["uri"] for hit in await door.search("alice", "zeppelin ropes pilot title", top_k=50)}
    assert hits == {f"s3://docs/{BY_ID}", f"s3://docs/{OTHER}", "s3://docs/fine.md"}
    assert (await world.row("new-name.md")).status is DocumentStatus.SUPPRESSED
    assert written
    texts = b"".join(written).lower().replace(b"pat@example.community", b"")
    assert b"pat@example.com" not in texts  # not even for a moment
    await replay(world)
    assert (await world.row("new-name.md")).status is DocumentStatus.SUPPRESSED
    await world.put("new-name.md", "# Ropes\n\nAsk the office for more zeppelin ropes.\n")
    await world.run_lane()
    assert "Ask the office" in await world.found("more zeppelin ropes")


async def test_a_document_that_an_officer_left_out_may_go_on_mentioning_the_person(world: World, door: Gateway) -> None:
    await world.put("minutes.md", MENTION)
    await world.put("plain.md", "# Plain\n\nNothing of importance.\n")
    await world.run_lane()
    await erase_pat(world, "minutes.md")
    await world.put("minutes.md", MENTION.replace("more", "fewer"))
    await world.put("plain.md", MENTION)
    await world.run_lane()
    assert "fewer zeppelin ropes" in await world.found("fewer zeppelin ropes")
    assert (await world.row("plain.md")).status is DocumentStatus.SUPPRESSED


async def test_an_erasure_between_parse_and_index_refuses_the_mention(world: World, door: Gateway) -> None:
    """The text was searched before the person was erased, so the ledger refuses what the search did not cover."""
    await world.put("new-name.md", MENTION)
    await world.put("fine.md", "# Fine\n\nA zeppelin of nobody.\n")
    batches = [await world.lane.collect(await world.lane.read(due), due) for due in await world.due()]
    embedded = [await world.lane.embed(await world.lane.chunk(await world.lane.parse(each))) for each in batches]
    await erase_pat(world)
    for each in embedded:
        await world.lane.index(each)
    assert (await world.row("new-name.md")).status is DocumentStatus.SUPPRESSED
    assert (await world.row("fine.md")).status is DocumentStatus.LIVE
    assert "PAT@Example" not in await world.found("zeppelin ropes")
