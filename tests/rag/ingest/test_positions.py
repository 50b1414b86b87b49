"""Where an index goes on in the log, whatever happened to the log meanwhile."""

from __future__ import annotations

import pytest
from prometheus_client import REGISTRY

from rag.adapters.memory.events import MemoryEventLog
from rag.ingest.positions import locate, report_lost
from rag.models import OffsetRange
from rag.ports import TopicState
from schemas.topics import CHANGED
from tests.fakes.world import SPEC, World


@pytest.fixture
def world() -> World:
    return World()


async def located(world: World) -> tuple[str, dict[int, int]]:
    state, positions = await locate(SPEC.index_id, CHANGED, world.log, world.ledger)
    return state.epoch, positions


async def test_an_index_that_never_read_starts_at_the_first_offset_of_each_partition(world: World) -> None:
    epoch, positions = await located(world)
    assert epoch == (await world.log.describe(CHANGED)).epoch
    assert positions == dict.fromkeys(range(8), 0)


async def test_an_index_goes_on_at_its_positions(world: World) -> None:
    await world.put("a.md")
    await world.run_lane()
    _, positions = await located(world)
    assert sorted(positions.values()) == [0] * 7 + [1]


async def test_a_recreated_topic_is_a_new_epoch(world: World) -> None:
    await world.put("a.md")
    await world.run_lane()
    before, _ = await located(world)
    world.log.recreate(CHANGED)
    epoch, positions = await located(world)
    assert epoch != before
    assert set(positions.values()) == {0}


async def test_a_log_that_ends_before_the_position_is_read_again_from_its_start(world: World) -> None:
    """A broker restored from an older copy keeps the topic's id and gives the lost offsets to other events."""
    older = MemoryEventLog()
    for key in ("a.md", "b.md"):
        await world.put(key)
    await world.run_lane()
    before, _ = await located(world)
    world.log._topics[CHANGED] = (world.log._topics[CHANGED][0], older._topics[CHANGED][1])
    epoch, positions = await located(world)
    assert epoch == f"{before}#1"
    assert set(positions.values()) == {0}
    assert (await located(world))[0] == epoch, "the generation is counted once"
    await world.put("c.md", "# New\n\nThe gangway is painted green.\n")
    assert (await world.run_lane()).documents == 1
    assert "gangway" in await world.found("gangway")


async def test_a_second_loss_is_a_further_generation(world: World) -> None:
    first, _ = await located(world)
    for number in (1, 2):
        epoch, _ = await located(world)
        await world.ledger.advance(SPEC.index_id, OffsetRange(CHANGED, epoch, 3, 0, 99))
        assert (await located(world))[0] == f"{first}#{number}"


def test_purged_events_are_counted() -> None:
    before = REGISTRY.get_sample_value("tidemark_events_lost_total") or 0.0
    report_lost(TopicState("t", "e", {0: (5, 9), 1: (0, 4), 2: (7, 7)}), {0: 2, 1: 4})
    assert REGISTRY.get_sample_value("tidemark_events_lost_total") == before + 3
