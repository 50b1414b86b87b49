"""The first walk in memory: an object changes, and the index follows, whatever goes wrong on the way."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from rag.adapters.memory.events import MemoryEventLog
from rag.errors import Conflict, Rejected, Unavailable
from rag.ingest.artifacts import CONTAINER
from rag.ingest.change_events import ObjectChange, publish_changes
from rag.ingest.indexing import sweep
from rag.ingest.lane import Lane
from rag.ingest.pipeline import TooManyFailures
from rag.ingest.tasks import Report
from rag.labels import join_label
from rag.models import OffsetRange
from schemas.topics import CHANGED, DEAD, INDEXED, TOPICS
from tests.fakes.gateway import gateway
from tests.fakes.world import IDS, SOURCE, SPEC, TEXT, World


@pytest.fixture
def world() -> World:
    return World()


async def test_a_new_object_is_found_and_reported_in_an_event(world: World) -> None:
    await world.put("a.md")
    report = await world.run_lane()
    assert (report.documents, report.chunks, report.embedded, report.dead) == (1, 2, 2, 0)
    assert "Three ropes" in await world.found("ropes zeppelin")
    (event,) = await world.published(INDEXED)
    assert (event.state.value, event.chunks, event.embedded, event.revision) == ("live", 2, 2, 1)


async def test_the_same_event_again_does_nothing(world: World) -> None:
    await world.put("a.md")
    await world.run_lane()
    await world.announce("a.md")
    assert await world.run_lane() == Report()
    assert world.parsing.parsed == 1


async def test_one_changed_sentence_costs_one_embedding(world: World) -> None:
    await world.put("a.md")
    await world.run_lane()
    await world.put("a.md", TEXT.replace("Two cables", "Four cables"))
    report = await world.run_lane()
    assert (report.chunks, report.written, report.embedded) == (2, 1, 1)
    assert "Four cables" in await world.found("cables storm")
    assert "Two cables" not in await world.found("two cables storm")
    assert await world.vectors.count(SPEC.index_id) == 2


async def test_a_changed_title_costs_none(world: World) -> None:
    await world.put("a.md", title="First")
    await world.run_lane()
    await world.put("a.md", title="Second")
    report = await world.run_lane()
    assert (report.embedded, report.written) == (0, 0)
    assert (await world.row("a.md")).title == "Second"


async def test_a_confirmed_absence_deletes_and_a_rumour_does_not(world: World) -> None:
    await world.put("a.md")
    await world.run_lane()
    await world.announce("a.md", deleted=True)
    await world.run_lane()
    assert "Three ropes" in await world.found("ropes")
    await world.objects.delete(["s3://docs/a.md"])
    await world.announce("a.md")
    await world.run_lane()
    assert await world.found("ropes") == ""
    assert await world.vectors.count(SPEC.index_id) == 0
    assert [state async for state in world.artifacts.list(CONTAINER)] == []


async def test_a_source_that_refuses_is_an_outage_and_deletes_nothing(world: World) -> None:
    await world.put("a.md")
    await world.run_lane()
    world.objects.denied.add("s3://docs")
    await world.announce("a.md", deleted=True)
    with pytest.raises(Unavailable):
        await world.run_lane()
    world.objects.denied.clear()
    assert "Three ropes" in await world.found("ropes")


@pytest.mark.parametrize(
    ("key", "content", "labels", "reason"),
    [
        ("a.pdf", b"%PDF-1.7 truncated", {}, "corrupt"),
        ("a.md", b"", {}, "empty"),
        ("a.md", b"x" * 10_001, {}, "too_large"),
        ("a.md", b"# Fine", {"title": "nul %00"}, "bad_label"),
        ("a.md", b"# Fine", {"principals": "group:staff%0A"}, "bad_label"),
    ],
)
async def test_poison_dies_alone_with_its_reason_and_is_not_tried_again(
    world: World, key: str, content: bytes, labels: dict[str, str], reason: str
) -> None:
    await world.put(key, content, **labels)
    await world.put("good.md")
    report = await world.run_lane()
    assert (report.documents, report.dead) == (2, 1)
    assert (await world.row(key)).reason == reason
    assert [event.reason for event in await world.published(DEAD)] == [reason]
    assert "Three ropes" in await world.found("ropes")
    await world.announce(key)
    assert await world.run_lane() == Report()


async def test_what_turns_to_poison_is_withdrawn(world: World) -> None:
    await world.put("a.md")
    await world.run_lane()
    await world.put("a.md", b"\x00\x01\x02" * 100)
    await world.run_lane()
    assert await world.found("ropes") == ""


async def test_a_bug_kills_one_document_and_many_stop_the_lane(world: World) -> None:
    world.parsing.breaks = {f"{number}.md" for number in range(100)}
    await world.put("0.md")
    await world.put("good.md")
    assert (await world.run_lane()).dead == 1
    assert (await world.row("0.md")).reason == "bug"
    for number in range(1, 100):  # more than ten in some partition, however they fall
        await world.put(f"{number}.md")
    with pytest.raises(TooManyFailures):
        await world.run_lane()


async def put_broken(world: World, number: int) -> OffsetRange:
    """Put unreadable documents into one partition, and return their range."""
    await world.pipeline.prepare()
    world.log = MemoryEventLog({**TOPICS, CHANGED: replace(TOPICS[CHANGED], partitions=1)})
    for each in range(number):
        await world.put(f"{each}.pdf", b"%PDF-1.7 truncated")
    (due,) = await world.due()
    return due


def with_dead_limit(world: World, limit: int) -> Lane:
    return replace(world.lane, pipeline=replace(world.pipeline, dead_limit=limit))


async def test_a_batch_that_would_mostly_become_dead_stops_the_lane(world: World) -> None:
    due = await put_broken(world, 5)
    with pytest.raises(TooManyFailures, match="corrupt 5"):
        await with_dead_limit(world, 4).run(due)
    assert (await world.due(), await world.published(DEAD)) == ([due], [])
    assert {(await world.row(f"{each}.pdf")).revision for each in range(5)} == {0}
    assert (await with_dead_limit(world, 5).run(due)).dead == 5


async def test_dead_documents_beside_as_many_good_ones_do_not_stop_the_lane(world: World) -> None:
    await put_broken(world, 5)
    for number in range(5):
        await world.put(f"{number}.md")
    (due,) = await world.due()
    assert (await with_dead_limit(world, 1).run(due)).dead == 5


async def test_a_backfill_of_documents_that_are_dead_already_does_not_stop(world: World) -> None:
    due = await put_broken(world, 5)
    await world.lane.run(due)
    lane = with_dead_limit(world, 0)
    assert (await lane.derive(await lane.pipeline.live_batch(0))).dead == 5


async def test_undecodable_records_count_towards_the_limit(world: World) -> None:
    await put_broken(world, 1)
    for _ in range(4):
        world.log.append(CHANGED, b"k", b"\x00garbage")
    (due,) = await world.due()
    with pytest.raises(TooManyFailures, match="undecodable 4"):
        await with_dead_limit(world, 4).run(due)


async def test_a_redriven_document_is_read_again_although_it_did_not_change(world: World) -> None:
    world.parsing.breaks.add("a.md")
    await world.put("a.md")
    assert (await world.run_lane()).dead == 1
    world.parsing.breaks.clear()
    await world.announce("a.md")
    assert await world.run_lane() == Report()  # a plain event finds the version that is known to be dead
    async with gateway(world) as door:
        assert await door.redrive("alice", (await world.row("a.md")).document_id) == 202
    await world.announce("a.md")  # a later plain event in the same range does not undo the request
    await world.run_lane()
    assert (await world.row("a.md")).status == "live"
    assert "Three ropes" in await world.found("ropes")


async def test_access_follows_labels_and_rules(world: World) -> None:
    await world.put("finance/budget.md")
    await world.put("own.md", "# Own\n\nOnly Alice reads of the helium.\n", principals="user:alice")
    await world.run_lane()
    assert "ropes" not in await world.found("ropes", "staff")
    assert "ropes" in await world.found("ropes", "finance")
    assert "helium" in await world.found("helium")


async def test_a_tightened_rule_reaches_documents_that_did_not_change(world: World) -> None:
    await world.put("hr/plan.md")
    await world.run_lane()
    world.source = replace(SOURCE, rules={"hr/": ("group:people",)})
    await world.announce("hr/plan.md")
    report = await world.run_lane()
    assert report.embedded == 0
    assert "ropes" not in await world.found("ropes", "staff")
    assert "ropes" in await world.found("ropes", "people")


async def test_new_labels_on_the_same_bytes_reach_the_ledger_without_an_embedding(world: World) -> None:
    await world.put("a.md")
    await world.run_lane()
    await world.put("a.md", subjects="pat@example.com", title="About%20Pat")
    assert (await world.run_lane()).embedded == 0
    row = await world.row("a.md")
    assert (row.title, row.subjects) == ("About Pat", (IDS.subject_id("acme", "pat@example.com"),))
    await world.ledger.suppress("acme", [IDS.subject_id("acme", "pat@example.com")], reason="erasure")
    assert not await world.found("ropes")


async def test_suppressed_documents_and_subjects_never_get_in(world: World) -> None:
    document_id = IDS.document_id("acme", "s3", "s3://docs/a.md")
    await world.ledger.suppress("acme", [document_id, IDS.subject_id("acme", "Pat@Example.com ")], reason="erasure")
    await world.put("a.md")
    await world.put("b.md", subjects="kim@example.com,pat@example.com")
    await world.put("c.md", "# C\n\nNobody is named here.\n")
    await world.run_lane()
    assert await world.found("ropes") == "C\n\nNobody is named here."
    kept = [state.uri async for state in world.artifacts.list(CONTAINER)]
    assert {uri.split("/")[5] for uri in kept} == {IDS.document_id("acme", "s3", "s3://docs/c.md")}


async def test_a_backfill_writes_every_point_again_and_embeds_nothing(world: World) -> None:
    await world.put("a.md")
    await world.put("b.md", "# B\n\nAnother text.\n")
    first = await world.run_lane()
    await world.vectors.delete(
        SPEC.index_id, [c for c, _ in [pair async for pair in world.vectors.scroll(SPEC.index_id)]]
    )
    report = await world.backfill()
    assert (report.written, report.embedded) == (first.chunks, 0)
    assert await world.vectors.count(SPEC.index_id) == first.chunks


@pytest.mark.parametrize("is_deleted", [True, False])
async def test_a_backfill_keeps_nothing_of_a_document_that_is_gone_or_unusable(world: World, is_deleted: bool) -> None:
    await world.put("a.md", title="Alpha", subjects="ann")
    await world.run_lane()
    if is_deleted:
        await world.objects.delete(["s3://docs/a.md"])
    else:
        await world.objects.put("s3://docs/a.md", b"# Fine", labels={"title": "%FF"})
    await world.backfill()
    row = await world.row("a.md")
    assert (row.title, row.subjects, row.artifacts, row.chunks) == ("", (), (), {})
    assert [each async for each in world.artifacts.list(CONTAINER)] == []


async def test_a_document_that_changes_before_the_swap_is_derived_again_and_published_once(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A newer version is applied after the plan was made. The plan loses, and the document is derived from its source again."""
    await world.put("a.md")
    await world.run_lane()
    stale = await world.pipeline.live_batch((await world.row("a.md")).partition)
    await world.objects.put("s3://docs/a.md", TEXT.replace("Three", "Eleven").encode())  # no event of its own yet
    record_intent = world.ledger.record_intent

    async def overtaken(index_id: str, deltas: Any) -> None:
        monkeypatch.setattr(world.ledger, "record_intent", record_intent)
        await record_intent(index_id, deltas)
        await world.announce("a.md")
        await world.run_lane()
        await world.objects.put("s3://docs/a.md", TEXT.replace("Three", "Nine").encode())

    before = len(await world.published(INDEXED))
    monkeypatch.setattr(world.ledger, "record_intent", overtaken)
    report = await world.lane.derive(stale)
    assert report.documents == 1
    await _assert_only_nine_ropes_are_found(world)
    (other, mine) = (await world.published(INDEXED))[before:]
    assert (other.revision, mine.revision) == (2, 3)
    assert (mine.state.value, mine.offset) == ("live", -1)


async def test_a_document_that_changes_between_embed_and_index_is_derived_again_and_published_once(
    world: World,
) -> None:
    await world.put("a.md")
    await world.run_lane()
    await world.put("a.md", TEXT.replace("Three", "Eleven"))
    (due,) = await world.due()
    batch = await world.lane.collect(await world.lane.read(due), due)
    embedded = await world.lane.embed(await world.lane.chunk(await world.lane.parse(batch)))
    await world.run_lane()  # another worker over the same range
    await world.objects.put("s3://docs/a.md", TEXT.replace("Three", "Nine").encode())
    before = len(await world.published(INDEXED))
    report = await world.lane.index(embedded)
    await world.lane.publish()
    assert (report.documents, report.embedded) == (1, 1)
    await _assert_only_nine_ropes_are_found(world)
    (event,) = (await world.published(INDEXED))[before:]
    assert (event.revision, event.state.value, event.offset) == (3, "live", due.start)


async def test_a_document_that_never_stops_changing_fails_the_batch(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    await world.put("a.md")
    await world.run_lane()
    stale = await world.pipeline.live_batch((await world.row("a.md")).partition)
    record_intent, changes = world.ledger.record_intent, 0

    async def overtaken(index_id: str, deltas: Any) -> None:
        nonlocal changes
        changes += 1
        monkeypatch.setattr(world.ledger, "record_intent", record_intent)
        await world.put("a.md", TEXT.replace("Three", f"{changes} long"))
        await world.run_lane()
        monkeypatch.setattr(world.ledger, "record_intent", overtaken)
        await record_intent(index_id, deltas)

    monkeypatch.setattr(world.ledger, "record_intent", overtaken)
    with pytest.raises(Conflict, match="changed 5 times"):
        await world.lane.derive(stale)
    assert changes == 5
    assert "5 long ropes" in await world.found("ropes")


async def test_a_crash_before_the_commit_repairs_itself(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    await world.put("a.md")
    upsert = world.vectors.upsert

    async def torn(index_id: str, points: Any) -> None:
        await upsert(index_id, points)
        raise Unavailable("the line is cut after the points arrived")

    monkeypatch.setattr(world.vectors, "upsert", torn)
    with pytest.raises(Unavailable):
        await world.run_lane()
    assert await world.found("ropes") == ""
    monkeypatch.setattr(world.vectors, "upsert", upsert)
    report = await world.run_lane()
    assert (report.documents, report.embedded) == (1, 0)
    await sweep(SPEC.index_id, ledger=world.ledger, vectors=world.vectors, older_than=0)
    assert await world.vectors.count(SPEC.index_id) == report.chunks


async def test_a_crash_between_the_commit_and_its_news_loses_none(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    one_partition = {CHANGED: replace(TOPICS[CHANGED], partitions=1)}
    world.log = MemoryEventLog({**TOPICS, **one_partition})
    await world.put("a.md")
    await world.put("b.pdf", b"%PDF-1.4 broken")
    publish = world.log.publish

    async def cut(topic: str, events: Any, **options: Any) -> None:
        raise Unavailable(f"{topic} cannot be reached")

    monkeypatch.setattr(world.log, "publish", cut)
    with pytest.raises(Unavailable):
        await world.run_lane()
    assert "Three ropes" in await world.found("ropes")
    assert (await world.row("b.pdf")).reason == "corrupt"
    monkeypatch.setattr(world.log, "publish", publish)
    assert await world.run_lane() == Report()
    assert sorted(event.state.value for event in await world.published(INDEXED)) == ["dead", "live"]
    assert [event.reason for event in await world.published(DEAD)] == ["corrupt"]


async def test_what_shrinks_while_it_is_refused_is_read_with_its_own_event(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    await world.put("a.md", b"x" * 10_001)
    get = world.objects.get

    async def overtaken(uri: str, *, limit: int | None = None) -> Any:
        try:
            return await get(uri, limit=limit)
        except Rejected:
            await world.put("a.md")
            raise

    monkeypatch.setattr(world.objects, "get", overtaken)
    assert (await world.run_lane()).dead == 1
    monkeypatch.setattr(world.objects, "get", get)
    await world.run_lane()
    assert "Three ropes" in await world.found("ropes")


@pytest.mark.parametrize(
    ("labels", "seen_by"),
    [({"title": "nul %00"}, ("group:finance",)), ({"title": "x%0A", "principals": "user:carol"}, ("user:carol",)),
     ({"principals": "user:carol%0A"}, ()), ({"principals": "group:finance,%ff"}, ())],
)  # fmt: skip
async def test_a_document_with_a_bad_label_is_shown_only_to_callers_who_may_see_it(
    world: World, labels: dict[str, str], seen_by: tuple[str, ...]
) -> None:
    await world.put("finance/secret.md", **labels)
    await world.run_lane()
    row = await world.row("finance/secret.md")
    assert (row.reason, row.principals) == ("bad_label", seen_by)
    await world.announce("finance/secret.md")
    assert (await world.run_lane()).documents == 0


@pytest.mark.parametrize("label", ["", " ", ",", " , "])
async def test_a_label_without_principals_grants_access_to_no_one(world: World, label: str) -> None:
    await world.put("a.md", principals=label)
    await world.run_lane()
    row = await world.row("a.md")
    assert (row.status, row.principals) == ("live", ())
    assert not await world.found("ropes")


@pytest.mark.parametrize(
    "name", ["user:al%69ce", "user:x%2Cuser:alice", "user:x,user:alice", "user:alice%20", "user:Alice"]
)
async def test_no_name_in_a_label_becomes_another_persons(world: World, name: str) -> None:
    await world.put("a.md", principals=join_label([name]))
    await world.run_lane()
    assert (await world.row("a.md")).principals == (name,)
    assert not await world.found("ropes")  # alice asks


async def test_forged_and_undecodable_events_touch_no_document(world: World) -> None:
    await world.put("a.md")
    await world.run_lane()
    document_id = IDS.document_id("acme", "s3", "s3://docs/a.md")
    forged = ObjectChange("s3://docs/other.md", datetime.now(UTC), "notification", is_deletion=True)
    (event,) = await publish_changes([forged], SOURCE, IDS, MemoryEventLog())
    await world.log.publish(CHANGED, [(document_id, replace(event, document_id=document_id))])
    world.log.append(CHANGED, document_id.encode(), b"\x00garbage")
    world.log.append(CHANGED, b"-" * 36, None)
    world.log.append(CHANGED, document_id.encode(), None)
    await world.run_lane()
    assert "Three ropes" in await world.found("ropes")
    assert sorted(event.reason for event in await world.published(DEAD)) == ["foreign_id", "undecodable"]


async def test_an_artifact_store_that_fails_kills_no_document(world: World) -> None:
    await world.put("a.md")
    await world.run_lane()
    batch = await world.pipeline.live_batch((await world.row("a.md")).partition)
    world.artifacts.denied.add(CONTAINER)
    with pytest.raises(Unavailable):
        await world.pipeline.chunk(batch)
    with pytest.raises(Unavailable):
        await world.pipeline.embed(batch)
    world.artifacts.denied.clear()
    assert "Three ropes" in await world.found("ropes")


async def _assert_only_nine_ropes_are_found(world: World) -> None:
    found = await world.found("ropes zeppelin")
    assert "Nine ropes" in found
    assert "Three ropes" not in found
    assert "Eleven ropes" not in found
    await sweep(SPEC.index_id, ledger=world.ledger, vectors=world.vectors)
    assert await world.vectors.count(SPEC.index_id) == len((await world.row("a.md")).chunks)
