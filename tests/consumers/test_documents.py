"""The stream lane in memory: it takes events as they come, alone and beside others, whatever happens to it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest

from consumers import documents
from consumers.documents import StreamLane
from consumers.health import Loop
from rag.errors import Unavailable
from rag.ingest.parking import ParkingPolicy
from rag.ingest.positions import consumer_group
from rag.ingest.tasks import Report
from rag.models import OffsetRange
from schemas.topics import CHANGED, DEAD, INDEXED
from tests.fakes.world import SPEC, TEXT, World


@dataclass
class Seen:
    """Reports of ``StreamLane``, kept."""

    batches: list[tuple[OffsetRange, Report]] = field(default_factory=list)

    async def applied(self, done: OffsetRange, report: Report, seconds: float) -> None:
        self.batches.append((done, report))


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(documents, "POLL_SECONDS", 0.01)
    monkeypatch.setattr(documents, "wait_random_exponential", lambda **_: lambda _: 0.001)


@asynccontextmanager
async def streaming(world: World, **options: Any) -> AsyncIterator[tuple[StreamLane, Seen, Loop]]:
    """A stream lane that runs for the time of the block."""
    seen, loop = Seen(), Loop("stream")
    stream = StreamLane(world.lane, world.log, world.ledger, seen, **options)
    task = asyncio.create_task(stream.run(loop))
    try:
        yield stream, seen, loop
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def until(condition: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(20):
        while not await condition():  # noqa: ASYNC110  (a condition over several parts has no event)
            await asyncio.sleep(0.005)


async def settled(world: World) -> None:
    """Until nothing waits in the log, and every outcome is published."""

    async def nothing_waits() -> bool:
        return not await world.due()

    await until(nothing_waits)
    await world.lane.publish()


async def test_a_change_is_found_without_a_run(world: World) -> None:
    async with streaming(world) as (_, seen, loop):
        await world.put("a.md")
        await settled(world)
        assert "Three ropes" in await world.found("ropes")
        await world.put("a.md", TEXT.replace("Three", "Nine"))
        await settled(world)
        assert "Nine ropes" in await world.found("ropes")
        await until(lambda: _true(len(seen.batches) == 2))
    assert [report.documents for _, report in seen.batches] == [1, 1]
    assert [event.state.value for event in await world.published(INDEXED)] == ["live", "live"]
    assert loop.state == "working"


async def _true(value: bool) -> bool:
    return value


async def test_events_that_arrive_during_a_batch_are_the_next_one(world: World) -> None:
    release, parse = asyncio.Event(), world.parsing.parse

    async def slow(*arguments: Any, **options: Any) -> Any:
        await release.wait()
        return await parse(*arguments, **options)

    world.parsing.parse = slow  # type: ignore[method-assign]
    async with streaming(world) as (stream, seen, _):
        await world.put("a.md")
        await until(lambda: _true(bool(stream._workers)))
        for number in range(5):
            await world.put("a.md", TEXT.replace("Three", str(number)))
        await until(lambda: _true(sum(map(len, stream._waiting.values())) == 5))
        release.set()
        await settled(world)
        await until(lambda: _true(len(seen.batches) == 2))
    assert [done.end - done.start for done, _ in seen.batches] == [1, 5]
    assert "4 ropes" in await world.found("ropes")


async def test_a_failing_partition_holds_up_no_other(world: World) -> None:
    upsert = world.vectors.upsert
    stuck: set[int] = set()

    async def partly(index_id: str, points: Any) -> None:
        partitions = {point.payload["partition"] for point in points}
        stuck.update(partitions if not stuck else ())
        if partitions <= stuck:
            raise Unavailable("the vector index does not answer")
        await upsert(index_id, points)

    world.vectors.upsert = partly  # type: ignore[method-assign]
    async with streaming(world) as (_, seen, _):
        for number in range(12):
            await world.put(f"{number}.md", f"# {number}\n\nText {number} of the mooring.\n")
        await until(lambda: _true({done.partition for done, _ in seen.batches} == _used(world) - stuck))
        world.vectors.upsert = upsert  # type: ignore[method-assign]
        await settled(world)
    assert await world.vectors.count(SPEC.index_id) == 12


def _used(world: World) -> set[int]:
    return {number for number, partition in enumerate(world.log._topics[CHANGED][1]) if partition.end}


async def test_a_bug_is_retried_and_stops_nothing_else(world: World) -> None:
    swap, failures = world.ledger.swap, 3

    async def broken(*arguments: Any, **options: Any) -> Any:
        nonlocal failures
        failures -= 1
        if failures >= 0:
            raise ZeroDivisionError
        return await swap(*arguments, **options)

    world.ledger.swap = broken  # type: ignore[method-assign]
    async with streaming(world):
        await world.put("a.md")
        await settled(world)
    assert "Three ropes" in await world.found("ropes")


async def test_a_lane_with_older_settings_says_so_in_its_health_and_keeps_its_position(world: World) -> None:
    digests = world.sources.digests(["s3"])
    await world.ledger.declare_settings({"s3": "newer"})
    async with streaming(world) as (_, _, loop):
        await world.put("a.md")
        await until(lambda: _true(loop.state == "failing"))
        assert "different settings of source 's3'" in loop.why
        await world.ledger.declare_settings(digests)
        await settled(world)
        await until(lambda: _true(loop.state == "working"))
    assert "Three ropes" in await world.found("ropes")


async def test_poison_and_undecodable_records_go_to_the_dead_letters(world: World) -> None:
    async with streaming(world):
        await world.put("broken.pdf", b"%PDF-1.7 truncated")
        world.log.append(CHANGED, b"no document", b"\x00garbage")
        await world.put("good.md")
        await settled(world)
    assert sorted(event.reason for event in await world.published(DEAD)) == ["corrupt", "undecodable"]
    assert "Three ropes" in await world.found("ropes")


async def test_two_members_divide_the_partitions_and_lose_nothing_when_one_leaves(world: World) -> None:
    async with streaming(world) as (first, _, _):
        for number in range(10):
            await world.put(f"{number}.md", f"# {number}\n\nText {number}.\n")
        async with streaming(world) as (second, _, _):
            await until(lambda: _true(len(first._positions) == len(second._positions) == 4))
            assert not first._positions.keys() & second._positions.keys()
            for number in range(10, 20):
                await world.put(f"{number}.md", f"# {number}\n\nText {number}.\n")
        await until(lambda: _true(len(first._positions) == 8))
        for number in range(20, 30):
            await world.put(f"{number}.md", f"# {number}\n\nText {number}.\n")
        await settled(world)
    assert await world.vectors.count(SPEC.index_id) == 30


async def test_a_parked_document_is_read_when_it_can_be(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(documents, "PARKED_SECONDS", 0.0)
    world.parking = ParkingPolicy(first_wait=0, longest_wait=0)
    world.objects.unreadable["s3://docs/a.md"] = "archived"
    async with streaming(world):
        await world.put("a.md")
        await settled(world)
        assert (await world.row("a.md")).reason == "archived"
        world.objects.unreadable.clear()

        async def is_found() -> bool:
            return "Three ropes" in await world.found("ropes")

        await until(is_found)


async def test_both_lanes_on_one_range_are_harmless(world: World) -> None:
    async with streaming(world):
        for number in range(10):
            await world.put(f"{number}.md", f"# {number}\n\nText {number}.\n")
            await world.run_lane()
        await settled(world)
    assert await world.vectors.count(SPEC.index_id) == 10
    live = [event.document_id for event in await world.published(INDEXED)]
    assert len(set(live)) == 10


async def test_events_in_memory_are_bounded_by_their_bytes(world: World) -> None:
    release, parse = asyncio.Event(), world.parsing.parse

    async def slow(*arguments: Any, **options: Any) -> Any:
        await release.wait()
        return await parse(*arguments, **options)

    world.parsing.parse = slow  # type: ignore[method-assign]
    async with streaming(world, buffer_bytes=2_000) as (stream, _, _):
        await world.put("a.md")
        await until(lambda: _true(bool(stream._workers)))
        for wave in range(20):
            await world.put("a.md", TEXT.replace("Three", str(wave)))
            await asyncio.sleep(0.02)
        waiting = sum(record.size for records in stream._waiting.values() for record in records)
        assert 0 < waiting < 4_000
        release.set()
        await settled(world)
    assert "19 ropes" in await world.found("ropes")


async def test_the_sensor_sees_a_member_while_the_lane_runs(world: World) -> None:
    group = consumer_group(SPEC.index_id)
    async with streaming(world):
        await until(lambda: _is_member(world, group, 1))
    await until(lambda: _is_member(world, group, 0))


async def _is_member(world: World, group: str, count: int) -> bool:
    return await world.log.members(group) == count


async def test_an_outage_of_the_log_is_waited_for_and_shown(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    describe, is_down = world.log.describe, True

    async def down(topic: str) -> Any:
        if is_down:
            raise Unavailable("Kafka does not answer")
        return await describe(topic)

    monkeypatch.setattr(world.log, "describe", down)
    async with streaming(world) as (_, _, loop):
        await until(lambda: _true(loop.state == "failing"))
        assert "Kafka does not answer" in loop.why
        is_down = False
        await world.put("a.md")
        await settled(world)
        await until(lambda: _true(loop.state == "working"))
    assert "Three ropes" in await world.found("ropes")


async def test_outcomes_that_a_crash_left_are_published_without_a_new_change(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(documents, "RELAY_SECONDS", 0.0)
    await world.put("a.md")
    (due,) = await world.due()
    batch = await world.lane.collect(await world.lane.read(due), due)
    await world.pipeline.prepare()
    embedded = await world.lane.embed(await world.lane.chunk(await world.lane.parse(batch)))
    await world.lane.index(embedded)  # and the process ends here
    assert await world.published(INDEXED) == []
    async with streaming(world):
        await until(lambda: _published(world))


async def _published(world: World) -> bool:
    return len(await world.published(INDEXED)) == 1
