"""The order of delivery of the lane: a crash between any two port calls repeats work and loses nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import pytest

from rag.adapters.memory.events import MemoryEventLog
from rag.errors import LostEvents, Unavailable
from rag.ingest import pipeline
from rag.ingest.indexing import sweep
from rag.ingest.tasks import Report
from rag.models import Batch, DocumentStatus, OffsetRange, Point
from schemas.topics import CHANGED, DEAD, INDEXED, TOPICS
from tests.fakes.crashes import Crash, Watched
from tests.fakes.world import SPEC, TEXT, World

ONE_PARTITION = {**TOPICS, CHANGED: replace(TOPICS[CHANGED], partitions=1)}
FIRST_CALL = {
    "log.read": "read",
    "ledger.recorded": "collect",
    "artifacts.put parsed.json": "parse",
    "artifacts.put chunks.json": "chunk",
    "artifacts.put vectors.npz": "embed",
    "ledger.swap": "index",
    f"log.publish {INDEXED}": "publish",
}
"""The first call of each kind → the step that makes it."""


@pytest.fixture
def world() -> World:
    return World(log=MemoryEventLog(ONE_PARTITION))


@dataclass(frozen=True)
class Story:
    """A changed, a new, a deleted and a broken document, and a record that no codec can read: all in one offset range."""

    world: World
    watched: Watched

    async def run(self, *, crash_after: int = 0) -> list[str]:
        """Run the lane in a new process. Return the calls of the process."""
        process = self.watched.restart(crash_after=crash_after)
        await self.world.lane.publish()  # events that a crash left
        for due in await self.world.due():
            await self.world.lane.run(due)
        return process.calls


async def story(world: World) -> Story:
    await world.put("changed.md")
    await world.put("deleted.md", "# Deleted\n\nThe gangway is painted green.\n")
    await world.run_lane()
    await world.put("changed.md", TEXT.replace("Three", "Nine"))
    await world.put("new.md", "# New\n\nSoup is served at noon.\n")
    await world.put("broken.pdf", b"%PDF-1.7 truncated")
    await world.objects.delete(["s3://docs/deleted.md"])
    await world.announce("deleted.md", deleted=True)
    world.log.append(CHANGED, b"no document", b"\x00garbage")
    return Story(world, Watched(world))


async def test_the_steps_come_in_the_order_of_the_page(world: World) -> None:
    calls = await (await story(world)).run()
    assert [FIRST_CALL[call] for call in dict.fromkeys(calls) if call in FIRST_CALL] == [*FIRST_CALL.values()]
    assert calls[-1] == "ledger.unpublished"


async def test_a_crash_between_any_two_calls_loses_neither_a_change_nor_its_outcome() -> None:
    crash_after = 1
    while True:
        world = World(log=MemoryEventLog(ONE_PARTITION))
        played = await story(world)
        try:
            await played.run(crash_after=crash_after)
        except Crash:
            await played.run()
            await _assert_all_is_delivered(played, crash_after)
            crash_after += 1
        else:
            break
    assert crash_after > len(FIRST_CALL)


async def _assert_all_is_delivered(played: Story, crash_after: int) -> None:
    world = played.world
    assert await world.due() == [], f"the position did not reach the end after a crash at call {crash_after}"
    found = await world.found("ropes soup gangway storm")
    assert "Nine ropes" in found, crash_after
    assert "Soup" in found, crash_after
    assert "Three" not in found, crash_after
    assert "gangway" not in found, crash_after
    rows = {key: await world.row(key) for key in ("changed.md", "new.md", "deleted.md", "broken.pdf")}
    assert {key: row.status for key, row in rows.items()} == {
        "changed.md": DocumentStatus.LIVE, "new.md": DocumentStatus.LIVE,
        "deleted.md": DocumentStatus.DELETED, "broken.pdf": DocumentStatus.DEAD,
    }  # fmt: skip
    events = {(event.document_id, event.revision): event for event in await world.published(INDEXED)}
    for key, row in rows.items():
        event = events.get((row.document_id, row.revision))
        assert event, f"revision {row.revision} of {key} was never published after a crash at call {crash_after}"
        assert event.state.value == row.status.value
    assert {event.reason for event in await world.published(DEAD)} == {"corrupt", "undecodable"}, crash_after
    await sweep(SPEC.index_id, ledger=world.ledger, vectors=world.vectors, older_than=0)
    points = [point_id async for point_id, _ in world.vectors.scroll(SPEC.index_id)]
    assert sorted(points) == sorted(each.point_id for row in rows.values() for each in row.chunks.values()), crash_after


async def test_a_failed_window_loses_no_event_of_an_earlier_one(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline, "WINDOW", 1)
    for number in range(3):
        await world.put(f"{number}.md", f"# Number {number}\n\nText {number}.\n")
    upsert, batches = world.vectors.upsert, 0

    async def fails_at_last(index_id: str, points: Any) -> None:
        nonlocal batches
        batches += 1
        if batches == 3:
            raise Unavailable("the vector index does not answer")
        await upsert(index_id, points)

    monkeypatch.setattr(world.vectors, "upsert", fails_at_last)
    with pytest.raises(Unavailable):
        await world.run_lane()
    assert await _position(world) is None
    monkeypatch.setattr(world.vectors, "upsert", upsert)
    await world.run_lane()
    ids = [event.document_id for event in await world.published(INDEXED)]
    assert len(ids) == len(set(ids)) == 3


async def test_a_failed_step_leaves_the_position_where_it_was(world: World) -> None:
    await world.put("a.md")
    await world.run_lane()
    before = await _position(world)
    await world.put("b.md")
    world.objects.denied.add("s3://docs")
    with pytest.raises(Unavailable):
        await world.run_lane()
    assert await _position(world) == before == 1


async def test_a_range_without_a_usable_record_still_advances(world: World) -> None:
    world.log.append(CHANGED, b"no document", b"\x00garbage")
    assert await world.run_lane() == Report()
    assert await _position(world) == 1
    assert [event.reason for event in await world.published(DEAD)] == ["undecodable"]


async def test_a_backfill_publishes_its_outcomes_and_moves_no_position(world: World) -> None:
    await world.put("a.md")
    await world.run_lane()
    before = await _position(world)
    report = await world.lane.derive(await world.pipeline.live_batch(0, run_id="backfill-1"))
    assert (report.documents, report.embedded) == (1, 0)
    assert await _position(world) == before
    last = (await world.published(INDEXED))[-1]
    assert (last.offset, last.revision) == (-1, (await world.row("a.md")).revision)


async def test_events_that_the_log_has_dropped_are_an_alarm_and_move_nothing(world: World) -> None:
    await world.put("a.md")
    await world.put("b.md")
    world.log.truncate(CHANGED, 0, 1)
    epoch = (await world.log.describe(CHANGED)).epoch
    with pytest.raises(LostEvents, match="reconcile"):
        await world.lane.run(OffsetRange(CHANGED, epoch, 0, 0, 2))
    assert await _position(world) is None


async def test_every_document_of_a_run_carries_the_run_and_the_offset_that_caused_it(world: World) -> None:
    await world.pipeline.prepare()
    await world.put("a.md")
    state = await world.log.describe(CHANGED)
    await world.lane.run(OffsetRange(CHANGED, state.epoch, 0, 0, 1), run_id="run-7")
    cause = (await world.row("a.md")).cause
    assert (cause.topic, cause.epoch, cause.partition, cause.offset, cause.run_id) == (
        CHANGED,
        state.epoch,
        0,
        0,
        "run-7",
    )


async def test_a_batch_whose_rules_changed_between_two_steps_is_derived_again(world: World) -> None:
    await world.pipeline.prepare()
    await world.put("a.md")
    (due,) = await world.due()
    lane = world.lane
    embedded = await lane.embed(await lane.chunk(await lane.parse(await lane.collect(await lane.read(due), due))))
    world.source = replace(world.source, principals=("group:finance",))  # the last step runs in another process
    await world.lane.index(embedded)
    assert (await world.row("a.md")).principals == ("group:finance",)


async def test_long_documents_are_loaded_in_small_windows(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline, "TEXT", 250)
    await world.pipeline.prepare()
    for number in range(6):
        await world.put(f"{number}.md", f"# Log {number}\n\n" + "The crew adds two cables. " * 4)
    at_once: list[int] = []
    upsert = world.vectors.upsert

    async def counted(index_id: str, points: Sequence[Point]) -> None:
        at_once.append(len({point.payload["document_id"] for point in points}))
        await upsert(index_id, points)

    monkeypatch.setattr(world.vectors, "upsert", counted)
    await world.run_lane()
    assert at_once == [2, 2, 2]
    await world.backfill()
    assert at_once[3:] == [2, 2, 2]


async def test_an_empty_batch_goes_through_every_step(world: World) -> None:
    await world.pipeline.prepare()
    assert await world.lane.derive(Batch(SPEC.index_id, 0, ())) == Report()


async def _position(world: World) -> int | None:
    state = await world.log.describe(CHANGED)
    return (await world.ledger.positions(SPEC.index_id, CHANGED, state.epoch)).get(0)
