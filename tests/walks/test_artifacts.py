"""The artifact store holds the artifacts of shown documents and no others, whatever happens on the way."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from rag.errors import Unavailable
from rag.ingest.artifacts import CONTAINER
from rag.models import DocumentStatus
from rag.sources import Source
from tests.fakes.world import SOURCE, SPEC, TEXT, World

EDITED = TEXT.replace("Three", "Nine")


@pytest.fixture
def world() -> World:
    return World()


async def stored(world: World) -> set[str]:
    return {state.uri.removeprefix(f"{CONTAINER}/") async for state in world.artifacts.list(CONTAINER)}


async def assert_listed(world: World, *keys: str) -> None:
    """Assert that the store holds the artifacts that the ledger lists for the documents, and no others."""
    listed = {artifact for key in keys for artifact in (await world.row(key)).artifacts}
    assert await stored(world) == listed


async def test_an_edit_replaces_the_artifacts(world: World) -> None:
    await world.put("a.md")
    await world.run_lane()
    await world.put("a.md", EDITED)
    await world.run_lane()
    await assert_listed(world, "a.md")
    assert len(await stored(world)) == 3


async def test_a_change_of_access_parses_and_embeds_nothing_and_keeps_the_artifacts(world: World) -> None:
    await world.put("a.md")
    await world.run_lane()
    before = await stored(world)
    world.source = Source(SOURCE.name, SOURCE.tenant, SOURCE.base_uri, ("group:board",))
    await world.announce("a.md")
    assert (await world.run_lane()).documents == 1
    assert (world.parsing.parsed, world.embedder.embedded) == (1, 2)
    assert await stored(world) == before
    await assert_listed(world, "a.md")


async def test_the_same_content_with_another_media_type_is_parsed_again(world: World) -> None:
    await world.put("a.md")
    await world.run_lane()
    await world.objects.put("s3://docs/a.md", TEXT.encode(), media_type="text/plain")
    await world.announce("a.md")
    await world.run_lane()
    assert world.parsing.parsed == 2
    await assert_listed(world, "a.md")


async def test_a_crash_uses_the_artifacts_again_that_it_left(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    await world.put("a.md")
    swap = world.ledger.swap

    async def cut(*_: Any, **__: Any) -> Any:
        raise Unavailable("the database does not answer")

    monkeypatch.setattr(world.ledger, "swap", cut)
    with pytest.raises(Unavailable):
        await world.run_lane()
    monkeypatch.setattr(world.ledger, "swap", swap)
    await world.run_lane()
    assert (world.parsing.parsed, world.embedder.embedded) == (1, 2)
    await assert_listed(world, "a.md")


async def test_a_document_that_dies_after_it_was_parsed_leaves_no_artifact(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    await world.put("a.md")
    await world.put("b.md", EDITED)
    monkeypatch.setattr(type(world.pipeline), "_cut", _broken)
    await world.run_lane()
    assert (await world.row("a.md")).status is DocumentStatus.DEAD
    assert await stored(world) == set()


def _broken(*_: Any) -> Any:
    raise ZeroDivisionError


async def test_a_writer_that_loses_deletes_its_own_artifacts_and_none_of_the_winners(world: World) -> None:
    await world.put("a.md")
    await world.run_lane()
    (row, partition) = (await world.row("a.md"), (await world.row("a.md")).partition)
    slow = await world.pipeline.live_batch(partition)
    slow = replace(slow, tasks=tuple(replace(task, parsed="", chunked="", embedded="") for task in slow.tasks))
    slow = await world.lane.embed(await world.lane.chunk(await world.lane.parse(slow)))
    assert slow.tasks[0].parsed not in row.artifacts
    await world.put("a.md", EDITED)
    await world.run_lane()
    winner = (await world.row("a.md")).artifacts
    await world.lane.index(slow)  # loses, and derives the current version again
    assert "Nine ropes" in await world.found("ropes")
    assert not {slow.tasks[0].parsed, *winner} & await stored(world)
    await assert_listed(world, "a.md")


async def test_two_writers_of_the_same_version_leave_the_artifacts_of_one(world: World) -> None:
    """Both derive from one revision, so they share the keys. The one that loses must not delete them."""
    await world.put("a.md")
    (due,) = await world.due()
    await world.pipeline.prepare()
    batch = await world.lane.collect(await world.lane.read(due), due)
    first, second = [await world.lane.embed(await world.lane.chunk(await world.lane.parse(batch))) for _ in range(2)]
    assert first.tasks[0].parsed == second.tasks[0].parsed
    await world.lane.index(first)
    await world.lane.index(second)
    await assert_listed(world, "a.md")
    assert (await world.pipeline.artifacts.parsed((await world.row("a.md")).artifacts[0])).text
    assert (await world.backfill()).written == 2


async def test_a_deleted_and_a_suppressed_document_leave_no_artifact_of_any_version(world: World) -> None:
    for key in ("a.md", "b.md"):
        await world.put(key)
        await world.run_lane()
        row = await world.row(key)
        leftover = row.artifacts[0].replace("/0-", "/0-other")  # of a writer that was killed
        await world.artifacts.put(f"{CONTAINER}/{leftover}", b"{}")
    await world.objects.delete(["s3://docs/a.md"])
    await world.ledger.suppress("acme", [(await world.row("b.md")).document_id], reason="erasure")
    for key in ("a.md", "b.md"):
        await world.announce(key)
    await world.run_lane()
    assert await stored(world) == set()


async def test_a_damaged_artifact_is_made_again(world: World) -> None:
    await world.put("a.md")
    await world.run_lane()
    row = await world.row("a.md")
    for key in row.artifacts:
        await world.artifacts.put(f"{CONTAINER}/{key}", b"damaged")
    report = await world.lane.index(await world.pipeline.live_batch(row.partition))
    assert (report.documents, report.written) == (1, 2)
    assert await world.vectors.count(SPEC.index_id) == 2
    await assert_listed(world, "a.md")
