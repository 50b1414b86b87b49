from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import structlog

from consumers import reconcile as module
from consumers.listing import MASS
from consumers.reconcile import Announced, reconcile
from rag.errors import Unavailable
from schemas.topics import CHANGED
from tests.fakes.world import IDS, SOURCE, SPEC, World


@pytest.fixture
def world() -> World:
    return World()


def services(world: World) -> Any:
    return SimpleNamespace(spec=SPEC, ids=IDS, objects=world.objects, ledger=world.ledger, events=world.log)


async def changes(world: World) -> list[tuple[str, str]]:
    """(key, kind) of all published changes, sorted."""
    return sorted((each.uri.removeprefix("s3://docs/"), each.kind.value) for each in await world.published(CHANGED))


async def test_a_listing_finds_what_no_notification_announced(world: World) -> None:
    await world.objects.put("s3://docs/new.md", b"# New")
    await world.objects.put("s3://docs/.hidden", b"x")
    assert await reconcile(SOURCE, services(world)) == 1
    assert await changes(world) == [("new.md", "CHANGED")]
    await world.run_lane()
    assert (await world.row("new.md")).status.value == "live"


async def test_an_index_that_follows_its_source_has_nothing_to_announce(world: World) -> None:
    await world.put("a.md")
    await world.put("broken.pdf", b"%PDF-1.7 truncated")
    await world.run_lane()
    before = len(await changes(world))
    assert await reconcile(SOURCE, services(world)) == 0
    assert len(await changes(world)) == before


async def test_a_missed_edit_and_a_missed_deletion_are_found(world: World) -> None:
    await world.put("edited.md")
    await world.put("deleted.md")
    await world.run_lane()
    await world.objects.put("s3://docs/edited.md", b"# Edited\n\nNine ropes.")
    await world.objects.delete(["s3://docs/deleted.md"])
    assert await reconcile(SOURCE, services(world)) == 2
    await world.run_lane()
    assert "Nine ropes" in await world.found("ropes")
    assert (await world.row("deleted.md")).status.value == "deleted"


async def test_a_change_that_waits_in_the_log_is_not_announced_at_every_listing(world: World) -> None:
    announced: Announced = {}
    await world.objects.put("s3://docs/a.md", b"# A")
    assert await reconcile(SOURCE, services(world), announced=announced) == 1
    assert await reconcile(SOURCE, services(world), announced=announced) == 0
    await world.objects.put("s3://docs/a.md", b"# B")
    assert await reconcile(SOURCE, services(world), announced=announced) == 1
    assert len(await changes(world)) == 2


async def test_an_object_that_was_deleted_before_is_announced_when_it_is_deleted_again(world: World) -> None:
    """The entry of a settled object is dropped, or its next deletion would look announced."""
    announced: Announced = {}
    for _ in range(2):
        await world.put("a.md")  # a notification announces it
        await world.run_lane()
        assert await reconcile(SOURCE, services(world), announced=announced) == 0
        await world.objects.delete(["s3://docs/a.md"])
        assert await reconcile(SOURCE, services(world), announced=announced) == 1
        await world.run_lane()
        assert (await world.row("a.md")).status.value == "deleted"


async def test_a_mass_deletion_waits_for_a_confirmation_and_holds_back_nothing_else(world: World) -> None:
    keys = [f"{number}.md" for number in range(MASS + 2)]
    for key in keys:
        await world.put(key, f"# {key}\n\nText {key}.\n")
    await world.run_lane()
    before = len(await changes(world))
    await world.objects.delete([f"s3://docs/{key}" for key in keys])
    await world.objects.put("s3://docs/new.md", b"# New")
    with structlog.testing.capture_logs() as logs:
        assert await reconcile(SOURCE, services(world)) == 1
    (refused,) = [each for each in logs if each["event"] == "reconcile.refused"]
    assert "reconcile --confirm" in refused["why"]
    assert len(await changes(world)) == before + 1
    await world.run_lane()
    assert await reconcile(SOURCE, services(world), confirmed=True) == len(keys)


async def test_many_changes_are_published_slice_by_slice(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SLICE", 2)
    for number in range(5):
        await world.objects.put(f"s3://docs/{number}.md", b"x")
    sizes, publish = [], world.log.publish

    async def counted(topic: str, events: Any, **options: Any) -> None:
        sizes.append(len(events))
        await publish(topic, events, **options)

    monkeypatch.setattr(world.log, "publish", counted)
    assert await reconcile(SOURCE, services(world)) == 5
    assert sizes == [2, 2, 1]


async def test_an_event_that_was_not_acknowledged_is_announced_by_the_next_listing(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    announced: Announced = {}
    await world.objects.put("s3://docs/a.md", b"# A")

    async def down(topic: str, events: Any, **options: Any) -> None:
        raise Unavailable("the log does not answer")

    with monkeypatch.context() as patch:
        patch.setattr(world.log, "publish", down)
        with pytest.raises(Unavailable):
            await reconcile(SOURCE, services(world), announced=announced)
    assert await reconcile(SOURCE, services(world), announced=announced) == 1


async def test_a_source_that_cannot_be_listed_announces_no_deletion(world: World) -> None:
    await world.put("a.md")
    await world.run_lane()
    before = await changes(world)
    world.objects.denied.add("s3://docs")
    with pytest.raises(Unavailable):
        await reconcile(SOURCE, services(world))
    assert await changes(world) == before
