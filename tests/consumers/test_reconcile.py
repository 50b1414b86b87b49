"""Reconcile compares with the ledger: nothing that differs is forgotten, and nothing that waits is repeated."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from types import SimpleNamespace

import pytest

from consumers.announcements import Announcements
from consumers.folder import FolderStream
from consumers.reconcile import reconcile, record_confirmation
from consumers.retired import withdraw_retired
from consumers.runner import step
from consumers.snowflake import SnowflakeStream
from rag.adapters.memory.objects import MemoryObjects
from rag.models import DocumentStatus
from rag.ports import Row
from rag.sources import Source
from rag.tables import Table
from schemas.topics import CHANGED, DEAD
from tests.consumers.test_snowflake import MemoryWarehouse
from tests.fakes.gateway import SETTINGS
from tests.fakes.world import IDS, SOURCE, SPEC, TEXT, World


@dataclass
class Clock:
    now: float = 0.0

    def __call__(self) -> float:
        return self.now


@dataclass
class Reconciler:
    """A resident process over a world."""

    world: World = field(default_factory=World)
    clock: Clock = field(default_factory=Clock)

    def __post_init__(self) -> None:
        self.announcements = Announcements(900, self.clock)

    async def turn(self) -> int:
        self.clock.now += 300
        return await reconcile(self.world.source, self.world.services, announcements=self.announcements)

    async def withdraw(self, *, confirmed: bool = False) -> int:
        return await withdraw_retired(self.world.services, confirmed=confirmed)


@pytest.fixture
def resident() -> Reconciler:
    return Reconciler()


async def put(world: World, key: str, content: str = TEXT) -> None:
    """Put an object without a notification."""
    await world.objects.put(f"s3://docs/{key}", content.encode())


async def indexed(world: World, number: int) -> None:
    for n in range(number):
        await world.put(f"{n}.md", f"# D{n}\n\nDocument number{n} here.\n")
    await world.run_lane()


async def statuses(world: World, source: Source = SOURCE) -> dict[str, int]:
    return await world.ledger.counts(SPEC.index_id, source.tenant, source.name)


# -- announcements


async def test_a_lost_announcement_is_repeated(resident: Reconciler) -> None:
    await put(resident.world, "a.md")
    assert await resident.turn() == 1
    resident.world.log.recreate(CHANGED)
    assert await resident.turn() == 1
    await resident.world.run_lane()
    assert "ropes" in await resident.world.found("ropes")
    assert await resident.turn() == 0


async def test_a_lost_announcement_of_a_deletion_is_repeated(resident: Reconciler) -> None:
    await indexed(resident.world, 1)
    await resident.world.objects.delete(["s3://docs/0.md"])
    assert await resident.turn() == 1
    resident.world.log.recreate(CHANGED)
    assert await resident.turn() == 1
    await resident.world.run_lane()
    assert await statuses(resident.world) == {"deleted": 1}


async def test_documents_that_wait_in_the_log_are_announced_once(resident: Reconciler) -> None:
    for n in range(50):
        await put(resident.world, f"{n}.md")
    assert [await resident.turn() for _ in range(5)] == [50, 0, 0, 0, 0]
    await put(resident.world, "late.md")
    assert await resident.turn() == 1
    await resident.world.run_lane()
    assert await resident.turn() == 0


async def test_an_event_that_a_worker_with_older_settings_refused_is_announced_after_the_time_limit(
    resident: Reconciler,
) -> None:
    world = resident.world
    await put(world, "a.md")
    await resident.turn()
    world.source = replace(SOURCE, tenant="older")
    await world.run_lane()
    assert [event.reason for event in await world.published(DEAD)] == ["foreign_uri"]
    world.source = SOURCE
    assert [await resident.turn() for _ in range(4)] == [0, 0, 1, 0]
    await world.run_lane()
    assert "ropes" in await world.found("ropes")


# -- folders


async def test_a_folder_finds_again_a_change_that_the_log_lost(resident: Reconciler) -> None:
    world = resident.world
    stream = FolderStream(SOURCE, world.objects, world.ledger, SPEC.index_id, every=0)
    await put(world, "a.md")
    assert await step(stream, IDS, world.log, resident.announcements) == 1
    assert await resident.turn() == 0  # it waits
    world.log.recreate(CHANGED)
    assert await step(stream, IDS, world.log, resident.announcements) == 0
    assert await resident.turn() == 1
    await world.run_lane()
    assert "ropes" in await world.found("ropes")


async def test_a_folder_goes_on_deleting_after_a_confirmed_mass_deletion(resident: Reconciler) -> None:
    world = resident.world
    stream = FolderStream(SOURCE, world.objects, world.ledger, SPEC.index_id, every=0)
    for n in range(100):
        await put(world, f"{n}.md", f"# D{n}\n\nDocument number{n} here.\n")
    assert await step(stream, IDS, world.log) == 100
    await world.run_lane()
    await world.objects.delete([f"s3://docs/{n}.md" for n in range(60)])
    assert await step(stream, IDS, world.log) == 0
    assert await resident.turn() == 0
    await reconcile(SOURCE, world.services, confirmed=True)
    assert (await world.run_lane()).held == 0
    assert await statuses(world) == {"live": 40, "deleted": 60}
    await world.objects.delete(["s3://docs/77.md"])
    assert await step(stream, IDS, world.log) == 1
    await world.run_lane()
    assert "number77 " not in await world.found("number77")


# -- the guard where deletions are applied


async def test_notifications_cannot_delete_most_of_a_source_without_a_confirmation(resident: Reconciler) -> None:
    world = resident.world
    await indexed(world, 100)
    await world.objects.delete([f"s3://docs/{n}.md" for n in range(80)])
    held = 0
    for n in range(80):  # one by one, over a while
        await world.announce(f"{n}.md", deleted=True)
        held += (await world.run_lane()).held
    await put(world, "new.md")
    await world.announce("new.md")
    assert (await world.run_lane()).documents == 1
    counted = await statuses(world)
    assert counted == {"live": 51, "deleted": 50}
    assert held == 30
    assert [await resident.turn() for _ in range(3)] == [0, 0, 0]
    await reconcile(SOURCE, world.services, confirmed=True)
    await world.run_lane()
    assert await statuses(world) == {"live": 21, "deleted": 80}
    assert await world.ledger.held_deletions(SPEC.index_id, "acme", "s3") == {}


async def test_held_deletions_move_the_position_and_lose_no_dead_letter(resident: Reconciler) -> None:
    world = resident.world
    await indexed(world, 60)
    await world.objects.delete([f"s3://docs/{n}.md" for n in range(60)])
    for n in range(60):
        await world.announce(f"{n}.md", deleted=True)
    world.log.append(CHANGED, b"garbage", b"\x00")
    report = await world.run_lane()
    assert report.held > 0
    assert await world.due() == []
    assert [event.reason for event in await world.published(DEAD)] == ["undecodable"]


async def test_the_deletion_of_a_document_that_is_there_again_is_no_longer_held(resident: Reconciler) -> None:
    world = resident.world
    await indexed(world, 40)
    await world.objects.delete([f"s3://docs/{n}.md" for n in range(40)])
    for n in range(40):
        await world.announce(f"{n}.md", deleted=True)
    await world.run_lane()
    for n in range(40):
        await put(world, f"{n}.md", f"# D{n}\n\nDocument number{n} here.\n")
    await resident.turn()
    await world.run_lane()
    assert (await statuses(world))["live"] == 40
    assert await world.ledger.held_deletions(SPEC.index_id, "acme", "s3") == {}


# -- settings


async def test_a_tightened_rule_reaches_every_recorded_document_without_an_embedding(resident: Reconciler) -> None:
    world = resident.world
    await world.put("hr/plan.md")
    await world.put("other.md", "# Other\n\nUnrelated text.\n")
    await world.run_lane()
    world.source = replace(SOURCE, rules={"hr/": ("group:people",)})
    assert await resident.turn() == 1
    assert (await world.run_lane()).embedded == 0
    assert "ropes" not in await world.found("ropes", "staff")
    assert "ropes" in await world.found("ropes", "people")
    assert await resident.turn() == 0


async def test_a_rule_that_a_label_overrides_is_recorded_and_announced_once(resident: Reconciler) -> None:
    world = resident.world
    await world.put("hr/own.md", principals="group:staff")
    await world.run_lane()
    world.source = replace(SOURCE, rules={"hr/": ("group:people",)})
    assert await resident.turn() == 1
    await world.run_lane()
    resident.clock.now += 10_000
    assert await resident.turn() == 0
    assert "ropes" in await world.found("ropes", "staff")


@pytest.mark.parametrize("change", [{"name": "renamed"}, {"tenant": "globex"}])
async def test_a_renamed_or_moved_source_withdraws_the_old_documents_once_the_new_ones_are_indexed(
    resident: Reconciler, change: dict[str, str]
) -> None:
    world = resident.world
    await indexed(world, 60)
    world.source = replace(SOURCE, **change)  # type: ignore[arg-type]
    assert await resident.withdraw() == 60
    assert await world.run_lane() == type(await world.run_lane())()
    assert await statuses(world) == {"live": 60}
    assert await resident.turn() == 60
    await world.run_lane()
    assert await resident.withdraw() == 0
    report = await world.run_lane()
    assert (report.documents, report.held) == (60, 0)
    assert await statuses(world) == {"deleted": 60}
    assert await statuses(world, world.source) == {"live": 60}
    assert await world.vectors.count(SPEC.index_id) == 60
    await world.objects.delete(["s3://docs/7.md"])
    await resident.turn()
    await world.run_lane()
    assert "number7 " not in await world.found("number7")


async def test_a_document_whose_object_went_while_its_source_was_renamed_is_withdrawn(resident: Reconciler) -> None:
    world = resident.world
    await indexed(world, 60)
    world.source = replace(SOURCE, name="renamed")
    await world.objects.delete(["s3://docs/7.md"])
    await resident.turn()
    await world.run_lane()
    assert await resident.withdraw() == 0
    await world.run_lane()
    assert await statuses(world) == {"deleted": 60}


async def test_a_renamed_source_whose_objects_are_gone_waits_for_a_confirmation(resident: Reconciler) -> None:
    world = resident.world
    await indexed(world, 60)
    world.source = replace(SOURCE, name="renamed")
    await world.objects.delete([f"s3://docs/{n}.md" for n in range(60)])
    assert await resident.withdraw() == 0
    await world.run_lane()
    assert await statuses(world) == {"live": 60}
    await resident.withdraw(confirmed=True)
    await world.run_lane()
    assert await statuses(world) == {"deleted": 60}


async def test_a_removed_source_stays_until_a_person_confirms(resident: Reconciler) -> None:
    world = resident.world
    await indexed(world, 3)
    world.source = Source("other", "acme", "s3://elsewhere", ("group:staff",))
    await resident.withdraw()
    await world.run_lane()
    await world.backfill()
    assert await statuses(world) == {"live": 3}
    await resident.withdraw(confirmed=True)
    await world.run_lane()
    assert await statuses(world) == {"deleted": 3}


async def test_a_narrowed_source_withdraws_the_documents_outside_after_a_confirmation(resident: Reconciler) -> None:
    world = resident.world
    await world.put("kept/a.md")
    await world.put("outside.md")
    await world.run_lane()
    world.source = replace(SOURCE, base_uri="s3://docs/kept")
    await resident.turn()
    await resident.withdraw()
    await world.run_lane()
    assert (await world.row("outside.md")).status is DocumentStatus.LIVE
    await resident.withdraw(confirmed=True)
    await world.run_lane()
    assert (await world.row("outside.md")).status is DocumentStatus.DELETED
    assert (await world.row("kept/a.md")).status is DocumentStatus.LIVE


async def test_a_column_that_becomes_a_subject_reaches_rows_that_did_not_change() -> None:
    rows = Source("s3", "acme", "s3://docs/rows", ("group:staff",))
    world = World(source=rows, objects=MemoryObjects("s3://docs"))
    warehouse = MemoryWarehouse()
    warehouse.table["1"] = Row(
        "1", datetime(2026, 1, 1, tzinfo=UTC), '{"ID":"1","PERSON":"pat@example.com","NOTE":"ropes hold"}'
    )

    async def turn(table: Table) -> int:
        stream = SnowflakeStream(rows, table, warehouse, world.objects, world.ledger, every=0, diff_every=0, overlap=0)
        announced = await step(stream, IDS, world.log)
        await world.run_lane()
        return announced

    assert await turn(Table("CASES", "ID", "UPDATED_AT")) == 1
    mapped = Table("CASES", "ID", "UPDATED_AT", None, ("PERSON",))
    assert [await turn(mapped) for _ in range(2)] == [1, 0]
    assert "ropes" in await world.found("ropes")
    await world.ledger.suppress("acme", [IDS.subject_id("acme", "pat@example.com")], reason="erasure")
    assert await world.found("ropes") == ""


async def test_a_confirmation_is_in_the_audit_log_before_anything_is_deleted() -> None:
    world = World()
    opened = SimpleNamespace(ids=IDS, ledger=world.ledger, settings=SETTINGS)
    await record_confirmation(opened)  # type: ignore[arg-type]
    events = [entry.event for entry in world.ledger.chains["acme"]]
    assert [(e.action, e.actor, e.outcome, e.objects) for e in events] == [
        ("deletions.confirm", "operator", "started", ("source:s3",))
    ]
