"""One behaviour for every ledger: in memory and on PostgreSQL."""

from __future__ import annotations

import asyncio
import random
import uuid
from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import numpy as np
import psycopg
import pytest
import sqlalchemy
from alembic import command
from alembic.config import Config
from psycopg.types.json import Jsonb
from pydantic import TypeAdapter

from rag.adapters.ledger import open_ledger, schema
from rag.adapters.ledger.documents import CHUNKS_OF, VISIBLE
from rag.adapters.memory.ledger import MemoryLedger
from rag.errors import Conflict, OutdatedSettings
from rag.ids import erasure_id, hold_id
from rag.ingest.deletions import MASS
from rag.models import (
    AccessFilter,
    AccessRule,
    Batch,
    Cause,
    DocumentRecord,
    DocumentStatus,
    Effect,
    Erased,
    ErasedPeople,
    Erasure,
    ErasureEvent,
    ErasureState,
    Hold,
    IndexingTask,
    IndexSpec,
    Inventoried,
    OffsetRange,
    Parking,
    Placement,
    RuledScopes,
)
from rag.ports import Delta, DocumentQuery, OutboxEvent, SwapResult
from schemas.events import DocumentChanged, DocumentDead
from schemas.topics import CHANGED, DEAD

CAUSE = Cause("documents.changed.v1", "epoch", 3, 41, "run", "00-" + "a" * 32 + "-" + "b" * 16 + "-01")
STAFF = AccessFilter("acme", ("group:staff",))


@pytest.fixture(params=["memory", pytest.param("postgres", marks=pytest.mark.heavy)])
async def ledger(request: pytest.FixtureRequest) -> AsyncIterator[Any]:
    if request.param == "memory":
        yield MemoryLedger()
        return
    async with open_ledger(request.getfixturevalue("database_url")) as opened:
        yield opened


@pytest.fixture
def index() -> str:
    """An index of its own for every test: they share a database."""
    return uuid.uuid4().hex[:16]


def an_id() -> str:
    return str(uuid.uuid4())


def placed(point: str, digest: str = "h", ordinal: int = 0) -> Placement:
    return Placement(point, digest, ordinal, 10 * ordinal, 10 * ordinal + 5, 1 + ordinal)


def delta(
    document_id: str, points: Mapping[str, str], *, revision: int = 0, retired: tuple[str, ...] = (), **fields: Any
) -> Delta:
    """``points``: chunk id → id of a new point."""
    record = DocumentRecord(
        document_id=document_id,
        revision=revision,
        status=fields.pop("status", DocumentStatus.LIVE),
        tenant=fields.pop("tenant", "acme"),
        source="s3",
        uri=fields.pop("uri", f"s3://bucket/{document_id}.md"),
        partition=3,
        principals=fields.pop("principals", ("group:staff",)),
        chunks={chunk: placed(point, ordinal=n) for n, (chunk, point) in enumerate(points.items())},
        cause=CAUSE,
        **fields,
    )
    return Delta(record, {chunk: {"payload_hash": "h"} for chunk in points}, retired)


async def applied(ledger: Any, index: str, *deltas: Delta, **options: Any) -> SwapResult:
    await ledger.record_intent(index, deltas)
    result: SwapResult = await ledger.swap(index, deltas, **options)
    return result


async def test_a_document_never_seen_has_revision_zero(ledger: Any, index: str) -> None:
    document = an_id()
    assert (await ledger.recorded(index, [document]))[document] == DocumentRecord(document)


async def test_an_applied_delta_is_recorded_with_the_next_revision(ledger: Any, index: str) -> None:
    document, chunk, point = an_id(), an_id(), an_id()
    result = await applied(ledger, index, delta(document, {chunk: point}, title="Handbook", subjects=("s1",)))
    assert len(result.accepted) == 1
    row = (await ledger.recorded(index, [document]))[document]
    assert (row.revision, row.status, row.title, row.subjects, dict(row.chunks)) == (
        1, DocumentStatus.LIVE, "Handbook", ("s1",), {chunk: placed(point)},
    )  # fmt: skip


async def test_a_chunk_that_keeps_its_point_may_move(ledger: Any, index: str) -> None:
    document, chunk, point = an_id(), an_id(), an_id()
    await applied(ledger, index, delta(document, {chunk: point}))
    moved = delta(document, {chunk: point}, revision=1)
    moved = replace(moved, record=replace(moved.record, chunks={chunk: placed(point, ordinal=7)}), writes={})
    assert (await applied(ledger, index, moved)).accepted
    assert (await ledger.visible(index, [point], STAFF))[point].start == 70
    assert (await ledger.recorded(index, [document]))[document].chunks == {chunk: placed(point, ordinal=7)}


async def test_a_plan_from_an_old_revision_loses_and_changes_nothing(ledger: Any, index: str) -> None:
    document, first = an_id(), an_id()
    await applied(ledger, index, delta(document, {first: an_id()}))
    result = await applied(ledger, index, delta(document, {an_id(): an_id()}, revision=0))
    assert (len(result.lost), len(result.accepted)) == (1, 0)
    assert set((await ledger.recorded(index, [document]))[document].chunks) == {first}


async def test_of_two_at_once_exactly_one_wins(ledger: Any, index: str) -> None:
    document = an_id()
    attempts = [applied(ledger, index, delta(document, {an_id(): an_id()})) for _ in range(6)]
    results = await asyncio.gather(*attempts)
    assert sum(len(result.accepted) for result in results) == 1
    assert (await ledger.recorded(index, [document]))[document].revision == 1


async def test_batches_over_the_same_documents_in_any_order_never_deadlock(ledger: Any, index: str) -> None:
    documents, vector = [an_id() for _ in range(30)], np.array([0.6, 0.8], np.float32)

    async def work(seed: int) -> None:
        order = random.Random(seed)
        for _ in range(6):
            some = order.sample(documents, 20)
            records = await ledger.recorded(index, some)
            deltas = [delta(each, {an_id(): an_id()}, revision=records[each].revision) for each in some]
            keys = order.sample([f"k{n}".encode() for n in range(20)], 20)
            fresh = {(index, "acme", key): (some[n], vector) for n, key in enumerate(keys)}
            await applied(ledger, index, *deltas, vectors=fresh)

    await asyncio.wait_for(asyncio.gather(*(work(seed) for seed in range(4))), 60)


async def test_settings_other_than_the_declared_ones_change_nothing(ledger: Any, index: str) -> None:
    source, other = an_id(), an_id()
    change = delta(an_id(), {an_id(): an_id()})
    assert (await applied(ledger, index, change, settings={source: "old"})).accepted  # nothing is declared yet
    await ledger.declare_settings({source: "new", other: "any"})
    later = delta(an_id(), {an_id(): an_id()})
    done = OffsetRange(CHANGED, "epoch", 3, 0, 9)
    with pytest.raises(OutdatedSettings, match=f"different settings of source '{source}': restart the one"):
        await applied(ledger, index, later, settings={source: "old"}, done=done)
    assert (await ledger.recorded(index, [later.record.document_id]))[later.record.document_id].revision == 0
    assert await ledger.positions(index, CHANGED, "epoch") == {}
    assert (await ledger.swap(index, [later], settings={source: "new"}, done=done)).accepted
    assert await ledger.positions(index, CHANGED, "epoch") == {3: 9}


async def test_a_source_that_is_declared_no_more_is_not_configured(ledger: Any, index: str) -> None:
    source, other = an_id(), an_id()
    await ledger.declare_settings({source: "a", other: "b"})
    await ledger.declare_settings({other: "b"})
    with pytest.raises(OutdatedSettings):
        await applied(ledger, index, delta(an_id(), {}), settings={source: "a"})
    assert (await applied(ledger, index, delta(an_id(), {}), settings={source: "", other: "b"})).accepted
    await ledger.declare_settings({source: "a", other: "b"})
    assert (await applied(ledger, index, delta(an_id(), {}), settings={source: "a"})).accepted


async def test_no_swap_with_older_settings_is_accepted_after_their_declaration(ledger: Any, index: str) -> None:
    source, is_declared = an_id(), asyncio.Event()
    late: list[Delta] = []
    await ledger.declare_settings({source: "old"})

    async def work() -> None:
        while True:
            await asyncio.sleep(0)  # the ledger in memory never waits
            began_late = is_declared.is_set()
            change = delta(an_id(), {an_id(): an_id()})
            try:
                await applied(ledger, index, change, settings={source: "old"})
            except OutdatedSettings:
                return
            late.extend([change] if began_late else [])

    async def declare() -> None:
        await ledger.declare_settings({source: "new"})
        is_declared.set()

    await asyncio.wait_for(asyncio.gather(*(work() for _ in range(4)), declare()), 60)
    assert late == []


async def test_an_intent_is_garbage_until_its_point_is_current(ledger: Any, index: str) -> None:
    document, point = an_id(), an_id()
    planned = delta(document, {an_id(): point})
    await ledger.record_intent(index, [planned])
    assert await ledger.unknown_points(index, [point]) == set()
    await ledger.swap(index, [planned])
    assert await ledger.condemn(index) == []


async def test_a_condemned_intent_makes_its_writer_lose(ledger: Any, index: str) -> None:
    planned = delta(an_id(), {an_id(): (point := an_id())})
    await ledger.record_intent(index, [planned])
    assert await ledger.condemn(index) == [point]
    assert len((await ledger.swap(index, [planned])).lost) == 1


async def test_retired_points_are_garbage_until_they_are_forgotten(ledger: Any, index: str) -> None:
    document, chunk, old, new = an_id(), an_id(), an_id(), an_id()
    await applied(ledger, index, delta(document, {chunk: old}))
    await applied(ledger, index, delta(document, {chunk: new}, revision=1, retired=(old,)))
    assert await ledger.condemn(index, point_ids=[old, new]) == [old]
    assert await ledger.condemn(index) == [old]  # a sweep that failed finds it again
    assert await ledger.unknown_points(index, [old, new, (orphan := an_id())]) == {orphan}
    await ledger.forget_points(index, [old])
    assert await ledger.condemn(index) == []
    assert await ledger.unknown_points(index, [old]) == {old}


async def test_young_garbage_is_left_to_its_writer(ledger: Any, index: str) -> None:
    await ledger.record_intent(index, [delta(an_id(), {an_id(): an_id()})])
    assert await ledger.condemn(index, older_than=3600) == []


async def test_events_are_published_in_order_once_and_again_after_a_failure(ledger: Any, index: str) -> None:
    async with ledger.unpublished():
        pass  # of other tests
    documents = [an_id(), an_id()]

    def events(result: SwapResult) -> list[OutboxEvent]:
        ids = [each.record.document_id for each in result.accepted]
        return [OutboxEvent(DEAD, each, dead_event(each)) for each in ids]

    for document in documents:
        await applied(ledger, index, delta(document, {an_id(): an_id()}), events=events)
    with pytest.raises(RuntimeError):
        async with ledger.unpublished():
            raise RuntimeError("the log does not answer")
    async with ledger.unpublished() as found:
        assert [(event.topic, event.key, event.value) for event in found] == [
            (DEAD, each, dead_event(each)) for each in documents
        ]
    async with ledger.unpublished() as found:
        assert not found


async def test_a_lost_delta_has_no_event(ledger: Any, index: str) -> None:
    async with ledger.unpublished():
        pass
    document = an_id()
    await applied(ledger, index, delta(document, {an_id(): an_id()}))
    seen: list[int] = []

    def events(result: SwapResult) -> list[OutboxEvent]:
        seen.append(len(result.accepted))
        return []

    await applied(ledger, index, delta(document, {}), events=events)
    assert seen == [0]


async def test_the_position_moves_in_the_transaction_of_the_last_delta(ledger: Any, index: str) -> None:
    document, done = an_id(), OffsetRange("t", "e", 3, 0, 9)
    await applied(ledger, index, delta(document, {an_id(): an_id()}))
    assert (await applied(ledger, index, delta(document, {}), done=done)).lost
    assert await ledger.positions(index, "t", "e") == {}
    assert (await applied(ledger, index, delta(document, {}, revision=1), done=done)).accepted
    assert await ledger.positions(index, "t", "e") == {3: 9}
    await ledger.swap(index, [], done=replace(done, end=12))
    assert await ledger.positions(index, "t", "e") == {3: 12}


def dead_event(document_id: str) -> DocumentDead:
    moment = datetime(2026, 11, 26, tzinfo=UTC)
    return DocumentDead(
        document_id=document_id, tenant="acme", index_id="i", topic="t", partition=3, offset=4, reason="empty", failed_at=moment
    )  # fmt: skip


async def test_only_current_live_chunks_of_the_callers_are_visible(ledger: Any, index: str) -> None:
    document, chunk, old, new = an_id(), an_id(), an_id(), an_id()
    await applied(ledger, index, delta(document, {chunk: old}, version="v1"))
    await applied(ledger, index, delta(document, {chunk: new}, revision=1, retired=(old,), version="v2"))
    seen = await ledger.visible(index, [old, new, an_id()], STAFF)
    assert set(seen) == {new}
    assert (seen[new].source_version, seen[new].cause, seen[new].revision, seen[new].chunk_id) == (
        "v2",
        CAUSE,
        2,
        chunk,
    )
    assert not await ledger.visible(index, [new], AccessFilter("acme", ("group:contractors", "user:bob")))
    assert not await ledger.visible(index, [new], AccessFilter("globex", ("group:staff",)))
    assert not await ledger.visible("0" * 16, [new], STAFF)


@pytest.mark.parametrize("status", [DocumentStatus.DELETED, DocumentStatus.DEAD, DocumentStatus.SUPPRESSED])
async def test_what_is_not_live_is_not_visible(ledger: Any, index: str, status: DocumentStatus) -> None:
    document, chunk, point = an_id(), an_id(), an_id()
    await applied(ledger, index, delta(document, {chunk: point}))
    hidden = delta(document, {chunk: point}, revision=1, status=status)
    await applied(ledger, index, replace(hidden, writes={}))
    assert not await ledger.visible(index, [point], STAFF)


async def test_a_suppression_hides_at_once_and_refuses_later_changes(ledger: Any, index: str) -> None:
    tenant = uuid.uuid4().hex
    document, chunk, point, subject = an_id(), an_id(), an_id(), uuid.uuid4().hex
    staff = AccessFilter(tenant, ("group:staff",))
    await applied(ledger, index, delta(document, {chunk: point}, tenant=tenant, subjects=(subject,)))
    await ledger.suppress(tenant, [subject], reason="erasure")
    assert not await ledger.visible(index, [point], staff)
    assert await ledger.document(index, document, staff) is None
    again = delta(document, {chunk: an_id()}, revision=1, retired=(point,), tenant=tenant, subjects=(subject,))
    assert len((await applied(ledger, index, again)).lost) == 1
    gone = delta(document, {}, revision=1, retired=(point,), tenant=tenant, status=DocumentStatus.SUPPRESSED)
    assert len((await applied(ledger, index, gone)).accepted) == 1
    assert await ledger.document(index, document, staff) is None
    assert await ledger.documents(index, staff, DocumentQuery()) == []
    assert await ledger.suppressed(tenant, [subject, "other"]) == {subject}


async def test_a_suppression_and_the_event_that_announces_it_are_one(ledger: Any, index: str) -> None:
    now = datetime.now(UTC)
    document, tenant = an_id(), uuid.uuid4().hex
    event = DocumentChanged(document_id=document, tenant=tenant, source="s3", uri="s3://b/k", origin="erasure",
                            occurred_at=now, announced_at=now)  # fmt: skip
    await ledger.suppress(tenant, [document], reason="erasure", events=[OutboxEvent(CHANGED, document, event)])
    assert await ledger.suppressed(tenant, [document]) == {document}
    async with ledger.unpublished() as events:
        assert [(each.topic, each.key, each.value) for each in events] == [(CHANGED, document, event)]


async def test_the_index_revision_of_a_tenant_moves_with_its_changes_only(ledger: Any, index: str) -> None:
    document = an_id()
    assert await ledger.index_revision(index, "acme") == 0
    await applied(ledger, index, delta(document, {an_id(): an_id()}))
    assert await ledger.index_revision(index, "acme") == 1
    assert await ledger.index_revision(index, "globex") == 0


async def test_positions_only_move_forward(ledger: Any, index: str) -> None:
    for end in (10, 30, 20):
        await ledger.advance(index, OffsetRange("t", "e1", 2, 0, end))
    await ledger.advance(index, OffsetRange("t", "e2", 2, 0, 5))
    assert await ledger.positions(index, "t", "e1") == {2: 30}
    assert await ledger.positions(index, "t", "e2") == {2: 5}
    assert await ledger.epochs(index, "t") == ["e1", "e2"]


async def test_vectors_are_cached_for_accepted_documents_only(ledger: Any, index: str) -> None:
    document, stranger, tenant = an_id(), an_id(), uuid.uuid4().hex
    vector = np.array([0.6, 0.8], np.float32)
    fresh = {(index, tenant, b"k1"): (document, vector), (index, tenant, b"k2"): (stranger, vector)}
    planned = delta(document, {an_id(): an_id()}, tenant=tenant)
    await applied(ledger, index, planned, vectors=fresh)
    found = await ledger.lookup(index, tenant, [b"k1", b"k2"])
    assert set(found) == {b"k1"}
    assert np.array_equal(found[b"k1"], vector)
    assert not await ledger.lookup(index, "another tenant", [b"k1"])
    assert not await ledger.lookup("another model", tenant, [b"k1"])


async def test_a_partition_lists_live_and_dead_documents(ledger: Any, index: str) -> None:
    live, dead, gone, point = an_id(), an_id(), an_id(), an_id()
    await applied(ledger, index, delta(live, {an_id(): point}))
    await applied(ledger, index, delta(dead, {}, status=DocumentStatus.DEAD, reason="encrypted"))
    await applied(ledger, index, delta(gone, {}, status=DocumentStatus.DELETED))
    assert {row.document_id for row in await ledger.live(index, 3)} == {live, dead}
    assert not await ledger.live(index, 4)
    first, second = sorted((live, dead))
    assert [row.document_id for row in await ledger.live(index, 3, limit=1)] == [first]
    assert [row.document_id for row in await ledger.live(index, 3, after=first)] == [second]
    assert await ledger.points(index, 3) == await ledger.points(index, 3, documents=[live, dead]) == {point: "h"}
    assert await ledger.points(index, 3, documents=[dead]) == await ledger.points(index, 3, documents=[]) == {}


async def test_the_catalog_shows_documents_by_page_and_status_to_callers_who_may_see_them(
    ledger: Any, index: str
) -> None:
    ids = sorted(an_id() for _ in range(3))
    for each in ids[:2]:
        await applied(ledger, index, delta(each, {an_id(): an_id()}))
    await applied(ledger, index, delta(ids[2], {}, status=DocumentStatus.DEAD, reason="encrypted"))
    every = DocumentQuery()
    first = await ledger.documents(index, STAFF, every, limit=2)
    assert [row["document_id"] for row in first] == ids[:2]
    assert [row["chunks"] for row in first] == [1, 1]
    rest = await ledger.documents(index, STAFF, every, after=ids[1])
    assert [(row["document_id"], row["reason"]) for row in rest] == [(ids[2], "encrypted")]
    assert not await ledger.documents(index, AccessFilter("globex", ("group:staff",)), every)


@pytest.mark.parametrize(
    ("wanted", "found"),
    [(DocumentQuery(status="dead"), [1]), (DocumentQuery(reason="encrypted"), [1]), (DocumentQuery(source="s3"), [0, 1]),
     (DocumentQuery(source="s"), []), (DocumentQuery(title="HAND"), [0]), (DocumentQuery(title="100%"), [1]),
     (DocumentQuery(title="100_"), []), (DocumentQuery(status="live", title="book"), [0]),
     (DocumentQuery(status="live", reason="encrypted"), [])],
)  # fmt: skip
async def test_the_catalog_narrows_by_source_status_reason_and_a_part_of_the_title(
    ledger: Any, index: str, wanted: DocumentQuery, found: list[int]
) -> None:
    ids = sorted(an_id() for _ in range(2))
    await applied(ledger, index, delta(ids[0], {}, title="Handbook"))
    await applied(ledger, index, delta(ids[1], {}, title="100% wool", status=DocumentStatus.DEAD, reason="encrypted"))
    assert [row["document_id"] for row in await ledger.documents(index, STAFF, wanted)] == [ids[n] for n in found]


async def test_a_lineage_names_event_run_points_and_versions_of_the_index(ledger: Any, index: str) -> None:
    document, chunks, points = an_id(), [an_id(), an_id()], [an_id(), an_id()]
    older = uuid.uuid4().hex[:16]
    await applied(ledger, older, delta(document, {an_id(): an_id()}, version="v0"))
    await applied(ledger, index, delta(document, dict(zip(chunks, points, strict=True)), version="v1"))
    found = await ledger.lineage(index, document, STAFF)
    assert (found["cause"]["offset"], found["cause"]["run_id"]) == (41, "run")
    assert found["points"] == [
        {"point_id": points[n], "chunk_id": chunks[n], "start": 10 * n, "end": 10 * n + 5, "page": 1 + n}
        for n in (0, 1)
    ]
    assert [(each["index_id"], each["source_version"], each["chunks"], each["status"]) for each in found["indexes"]] == [
        (index, "v1", 2, "live"), (older, "v0", 1, "live"),
    ]  # fmt: skip
    assert await ledger.lineage(index, document, AccessFilter("globex", ("group:staff",))) is None
    assert await ledger.lineage(index, an_id(), STAFF) is None


async def test_the_inventory_holds_the_state_of_all_but_deleted_documents_of_one_tenant(
    ledger: Any, index: str
) -> None:
    live, gone, foreign = an_id(), an_id(), an_id()
    await applied(ledger, index, delta(live, {}, change_token="etag@1", config_hash="c"))
    await applied(ledger, index, delta(gone, {}, status=DocumentStatus.DELETED))
    await applied(ledger, index, delta(foreign, {}, tenant="globex"))
    inventory = await ledger.inventory(index, "acme", "s3")
    assert inventory == {f"s3://bucket/{live}.md": Inventoried(live, "etag@1", "c", DocumentStatus.LIVE)}
    assert (await ledger.recorded(index, [live]))[live].config_hash == "c"
    assert await ledger.counts(index, "acme", "s3") == {"live": 1, "deleted": 1}
    assert await ledger.recorded_sources(index) == {("acme", "s3"), ("globex", "s3")}


# -- deletions


async def live_documents(ledger: Any, index: str, number: int) -> list[str]:
    ids = sorted(an_id() for _ in range(number))
    await applied(ledger, index, *(delta(each, {}) for each in ids))
    return ids


def gone(document_id: str, **fields: Any) -> Delta:
    return delta(document_id, {}, revision=1, status=DocumentStatus.DELETED, **fields)


async def test_deletions_of_most_of_a_source_are_held_over_all_batches(ledger: Any, index: str) -> None:
    ids = await live_documents(ledger, index, 60)
    results = [await applied(ledger, index, *map(gone, ids[n : n + 5])) for n in range(0, 60, 5)]
    assert [len(result.accepted) for result in results] == [5] * 6 + [0] * 6
    assert sum(len(result.held) for result in results) == 30
    assert await ledger.held_deletions(index, "acme", "s3") == dict.fromkeys(ids[30:], False)
    assert await ledger.counts(index, "acme", "s3") == {"live": 30, "deleted": 30}


async def test_at_most_twenty_deletions_are_always_believed(ledger: Any, index: str) -> None:
    ids = await live_documents(ledger, index, MASS)
    assert len((await applied(ledger, index, *map(gone, ids))).accepted) == MASS


async def test_batches_at_once_delete_no_more_than_batches_in_turn(ledger: Any, index: str) -> None:
    ids = await live_documents(ledger, index, 80)
    waves = [applied(ledger, index, *map(gone, ids[n : n + 10])) for n in range(0, 80, 10)]
    results = await asyncio.gather(*waves)
    assert sum(len(result.accepted) for result in results) == 40


async def test_a_confirmed_deletion_is_believed_once_and_the_later_ones_are_counted_anew(
    ledger: Any, index: str
) -> None:
    ids = await live_documents(ledger, index, 100)
    assert len((await applied(ledger, index, *map(gone, ids[:60]))).held) == 60
    await ledger.confirm_deletions(index, "acme", "s3", ids[:60])  # documents only
    assert set((await ledger.held_deletions(index, "acme", "s3")).values()) == {True}
    assert len((await applied(ledger, index, *map(gone, ids[:30]))).accepted) == 30
    assert await ledger.held_deletions(index, "acme", "s3") == dict.fromkeys(ids[30:60], True)
    assert len((await applied(ledger, index, gone(ids[99]))).accepted) == 1
    assert len((await applied(ledger, index, *map(gone, ids[30:60]))).accepted) == 30
    assert await ledger.held_deletions(index, "acme", "s3") == {}
    await applied(ledger, index, *(delta(each, {}, revision=2) for each in ids[:60]))
    back = [replace(each, record=replace(each.record, revision=3)) for each in map(gone, ids[:60])]
    assert len((await applied(ledger, index, *back)).held) == 60


async def test_a_person_who_confirms_the_rest_of_a_wave_restarts_the_count(ledger: Any, index: str) -> None:
    ids = await live_documents(ledger, index, 60)
    assert len((await applied(ledger, index, *map(gone, ids[:30]))).accepted) == 30
    await ledger.confirm_deletions(index, "acme", "s3", ids[30:32])
    assert len((await applied(ledger, index, gone(ids[40]))).held) == 1
    await ledger.confirm_deletions(index, "acme", "s3", [], restart_count=True)
    assert len((await applied(ledger, index, gone(ids[41]))).accepted) == 1


async def test_held_deletions_end_with_a_release_or_another_change(ledger: Any, index: str) -> None:
    ids = await live_documents(ledger, index, 40)
    await applied(ledger, index, *map(gone, ids))
    await ledger.release_deletions(index, ids[:1])
    await applied(ledger, index, delta(ids[1], {}, revision=1))
    assert set(await ledger.held_deletions(index, "acme", "s3")) == set(ids[2:])


async def test_a_deletion_that_needs_a_confirmation_is_held_even_alone(ledger: Any, index: str) -> None:
    (document,) = await live_documents(ledger, index, 1)
    wanted = replace(gone(document), needs_confirmation=True)
    assert len((await applied(ledger, index, wanted)).held) == 1
    await ledger.confirm_deletions(index, "acme", "s3", [document])
    assert len((await applied(ledger, index, wanted)).accepted) == 1


async def test_held_deletions_let_the_other_deltas_and_the_position_pass(ledger: Any, index: str) -> None:
    ids, new = await live_documents(ledger, index, 40), an_id()
    done = OffsetRange("t", "e", 3, 0, 7)
    result = await applied(ledger, index, *map(gone, ids), delta(new, {}), done=done)
    assert ([each.record.document_id for each in result.accepted], len(result.held)) == ([new], 40)
    assert await ledger.positions(index, "t", "e") == {3: 7}


async def test_other_sources_and_documents_that_are_not_live_do_not_count(ledger: Any, index: str) -> None:
    ids = await live_documents(ledger, index, 30)
    dead = sorted(an_id() for _ in range(30))
    await applied(ledger, index, *(delta(each, {}, status=DocumentStatus.DEAD) for each in dead))
    assert len((await applied(ledger, index, *map(gone, dead))).accepted) == 30
    foreign = sorted(an_id() for _ in range(15))
    await applied(ledger, index, *(delta(each, {}, tenant="globex") for each in foreign))
    assert len((await applied(ledger, index, *map(gone, ids[:15]))).accepted) == 15
    assert len((await applied(ledger, index, *(gone(each, tenant="globex") for each in foreign))).accepted) == 15


async def test_a_batch_is_handed_on_within_its_run(ledger: Any, index: str) -> None:
    work = IndexingTask(an_id(), "acme", "s3", "s3://b/k", 4, CAUSE, parsed="key", principals=("group:staff",))
    batch = Batch(index, 3, (work,), OffsetRange("t", "e", 3, 10, 20))
    await ledger.save(index, "chunks", batch)
    assert await ledger.load(index, "chunks", 3) == batch
    assert await ledger.load(index, "chunks", 4) is None
    many = replace(batch, tasks=tuple(replace(batch.tasks[0], version=str(number)) for number in range(2_500)))
    await ledger.save(index, "chunks", many)
    assert await ledger.load(index, "chunks", 3) == many
    await ledger.save(index, "chunks", replace(batch, tasks=()))
    assert (await ledger.load(index, "chunks", 3)).tasks == ()


async def test_a_shard_holds_every_document_of_its_first_digits(ledger: Any, index: str) -> None:
    live, deleted, other = (f"{start}{an_id()[2:]}" for start in ("0f", "0f", "10"))
    await applied(ledger, index, delta(live, {an_id(): an_id()}), delta(other, {an_id(): an_id()}))
    await applied(ledger, index, delta(deleted, {}, status=DocumentStatus.DELETED))
    assert {record.document_id for record in await ledger.shard(index, "0f")} == {live, deleted}
    assert await ledger.shard(index, "0e") == []


async def test_an_index_has_points_while_a_document_has_chunks(ledger: Any, index: str) -> None:
    document, point = an_id(), an_id()
    await applied(ledger, index, delta(document, {}))
    assert not await ledger.has_points(index)
    await applied(ledger, index, delta(document, {an_id(): point}, revision=1))
    assert await ledger.has_points(index)
    await applied(ledger, index, delta(document, {}, revision=2, retired=(point,)))
    assert not await ledger.has_points(index)


async def test_a_parked_document_is_found_when_its_next_try_is_due(ledger: Any, index: str) -> None:
    now = datetime(2026, 11, 26, tzinfo=UTC)
    first, second = (Parking(2, now, now + timedelta(minutes=minutes)) for minutes in (1, 2))
    documents = [an_id(), an_id()]
    for document, parking in zip(documents, (second, first), strict=True):
        parked = delta(document, {}, status=DocumentStatus.PARKED, reason="archived", parking=parking)
        await applied(ledger, index, parked)
    assert await ledger.parked(index, due=now) == []
    assert [each.document_id for each in await ledger.parked(index, due=first.next_try)] == [documents[1]]
    found = await ledger.parked(index, due=second.next_try)
    assert [(each.document_id, each.parking) for each in found] == [(documents[1], first), (documents[0], second)]
    assert len(await ledger.parked(index, due=second.next_try, limit=1)) == 1
    assert await ledger.parked_reasons(index) == {"archived": 2}
    listed = await ledger.documents(index, STAFF, DocumentQuery(status="parked"))
    assert {(each["reason"], each["next_try"]) for each in listed} == {
        ("archived", each.next_try) for each in (first, second)
    }
    assert len(await ledger.live(index, 3)) == 2
    await applied(ledger, index, delta(documents[1], {}, revision=1))
    assert [each.document_id for each in await ledger.parked(index, due=second.next_try)] == [documents[0]]
    assert (await ledger.recorded(index, [documents[1]]))[documents[1]].parking is None


async def test_the_chunks_of_a_parked_document_are_visible_as_stale_unless_suppressed(ledger: Any, index: str) -> None:
    document, chunk, point, now = an_id(), an_id(), an_id(), datetime(2026, 11, 26, tzinfo=UTC)
    await applied(ledger, index, delta(document, {chunk: point}))
    assert not (await ledger.visible(index, [point], STAFF))[point].is_stale
    parked = delta(document, {chunk: point}, revision=1, status=DocumentStatus.PARKED, parking=Parking(1, now, now))
    parked = replace(parked, writes={})
    await applied(ledger, index, parked)
    assert (await ledger.visible(index, [point], STAFF))[point].is_stale
    await ledger.suppress("acme", [document], reason="erasure")
    assert await ledger.visible(index, [point], STAFF) == {}
    again = replace(parked, record=replace(parked.record, revision=2))
    assert (await applied(ledger, index, again)).lost


async def test_measurements_add_up(ledger: Any, index: str) -> None:
    key = ("documents_total", (("index", index), ("status", "live")))
    await ledger.add({key: 2})
    await ledger.add({key: 3})
    assert (await ledger.totals())[key] == 5


async def test_cursors_and_row_hashes_are_read_back_as_written(ledger: Any, index: str) -> None:
    assert await ledger.cursor(index) == {}
    await ledger.set_cursor(index, {"read": "2026-01-01"})
    assert await ledger.cursor(index) == {"read": "2026-01-01"}
    await ledger.set_row_hashes(index, "T", {"1": "a", "2": "b"})
    await ledger.set_row_hashes(index, "T", {"2": "c"}, gone=["1"])
    assert await ledger.row_hashes(index, "T") == {"2": "c"}
    assert await ledger.row_hashes(index, "T", ["1"]) == {}


async def test_a_ledger_of_an_older_version_is_migrated_with_its_content(database_url: str) -> None:
    """A run that goes on after an upgrade finds its tasks, and an index of the older image keeps its points."""
    task = IndexingTask("d", "acme", "s3", "s3://docs/a.md", 0, CAUSE, change_token="t1")
    batch = Batch("i", 3, (task, replace(task, document_id="e")), OffsetRange("t", "e", 3, 0, 5))
    name, document, chunk = f"older_{uuid.uuid4().hex}", an_id(), an_id()
    with psycopg.connect(database_url, autocommit=True) as server:
        server.execute(f"create database {name}")
    older = urlunsplit(urlsplit(database_url)._replace(path=f"/{name}"))
    _migrate(older, "0001")
    body = TypeAdapter(Batch).dump_python(batch, mode="json")
    body["works"] = [
        {**{k: v for k, v in each.items() if k != "change_token"}, "stamp": "t1"} for each in body.pop("tasks")
    ]
    del body["dead_letters"]
    with psycopg.connect(older, autocommit=True) as old:
        for step, saved in (("chunks", body), ("embeddings", body | {"works": []})):
            old.execute(
                "insert into batches (run_id, step, partition, body) values ('run', %s, 3, %s)", (step, Jsonb(saved))
            )
        old.execute("insert into documents (index_id, document_id, revision) values ('i', %s, 1)", (document,))
        old.execute("insert into chunks values ('i', %s, %s, 'h')", (chunk, document))
    schema.migrate(older)
    async with open_ledger(older) as ledger:
        assert await ledger.load("run", "chunks", 3) == batch
        assert await ledger.load("run", "embeddings", 3) == replace(batch, tasks=())
        record = (await ledger.recorded("i", [document]))[document]
        assert record.chunks == {chunk: Placement(chunk, "h", 0, 0, 0)}


def _migrate(database_url: str, revision: str) -> None:
    engine = sqlalchemy.create_engine(database_url.replace("postgresql://", "postgresql+psycopg://", 1))
    config = Config()
    config.set_main_option("script_location", str(Path(schema.__file__).parent / "migrations"))
    with engine.connect() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, revision)
        connection.commit()
    engine.dispose()


# -- access rules --------------------------------------------------------------------------------------------------------


def ruling(tenant: str, scope: str, principal: str, effect: Effect = Effect.GRANT, **fields: Any) -> AccessRule:
    rule_id = str(uuid.uuid5(uuid.NAMESPACE_OID, f"{tenant} {scope} {principal}"))
    return AccessRule(rule_id, tenant, scope, principal, effect, fields.pop("source", "s3"), **fields)


async def test_rules_decide_beside_the_principals_and_a_revoke_wins(ledger: Any, index: str) -> None:
    tenant, document, point = uuid.uuid4().hex, an_id(), an_id()
    await applied(ledger, index, delta(document, {an_id(): point}, tenant=tenant, scopes=("all", "hr", document)))
    staff, bob = (AccessFilter(tenant, principals) for principals in (("group:staff",), ("group:temps", "user:bob")))
    other = AccessFilter(uuid.uuid4().hex, ("group:temps", "user:bob"))

    async def sees(access: AccessFilter) -> bool:
        seen = set(await ledger.visible(index, [point], access)) == {point}
        listed = [each["document_id"] for each in await ledger.documents(index, access, DocumentQuery())]
        assert seen == (await ledger.document(index, document, access) is not None) == (listed == [document])
        return seen

    assert (await sees(staff), await sees(bob)) == (True, False)
    await ledger.decide(ruling(other.tenant, "all", "user:bob"))
    await ledger.decide(ruling(tenant, "finance", "user:bob"))
    assert not await sees(bob)
    for scope in ("all", "hr", document):
        grant = await ledger.decide(ruling(tenant, scope, "user:bob"))
        assert (await sees(bob), await sees(other)) == (True, False)
        await ledger.withdraw(tenant, grant.rule_id)
        assert not await sees(bob)
    await ledger.decide(ruling(tenant, document, "user:bob"))
    await ledger.decide(ruling(tenant, "all", "group:temps", Effect.REVOKE))
    await ledger.decide(ruling(tenant, "hr", "group:staff", Effect.REVOKE))
    assert (await sees(staff), await sees(bob)) == (False, False)
    await ledger.decide(ruling(tenant, "hr", "group:staff"))  # takes the place of the revoke
    assert await sees(staff)
    assert (await ledger.recorded(index, [document]))[document].scopes == ("all", "hr", document)


async def test_a_vector_search_gets_the_scopes_of_the_rules(ledger: Any) -> None:
    tenant = uuid.uuid4().hex
    for scope, principal, effect in (
        ("b", "user:bob", Effect.GRANT),
        ("a", "group:temps", Effect.GRANT),
        ("a", "user:bob", Effect.GRANT),
        ("c", "group:temps", Effect.REVOKE),
        ("d", "user:eve", Effect.GRANT),
    ):
        await ledger.decide(ruling(tenant, scope, principal, effect))
    bob = AccessFilter(tenant, ("group:temps", "user:bob"))
    assert await ledger.ruled_scopes(bob) == RuledScopes(("a", "b"), ("c",))
    assert await ledger.ruled_scopes(AccessFilter("other", bob.principals)) == RuledScopes()
    assert await ledger.ruled(tenant, ["a", "d", "e"]) == {"a", "d"}
    assert await ledger.ruled("other", ["a", "d", "e"]) == set()


async def test_rules_are_listed_page_by_page_and_each_change_begins_a_revision(ledger: Any, index: str) -> None:
    tenant, document = uuid.uuid4().hex, an_id()
    await applied(ledger, index, delta(document, {an_id(): an_id()}, tenant=tenant))
    revisions = [await ledger.index_revision(index, tenant)]
    decided = []
    for number in range(5):
        rule = ruling(
            tenant, f"scope{number}", f"user:u{number % 2}", actor="admin", reason="asked", uri_prefix="s3://docs/a/"
        )
        decided.append(await ledger.decide(replace(rule, source="s3" if number else "web", document_id=document)))
        revisions.append(await ledger.index_revision(index, tenant))
    assert all(rule.decided_at for rule in decided)
    ordered = sorted(decided, key=lambda rule: rule.rule_id)
    first = await ledger.access_rules(tenant, limit=3)
    assert first + await ledger.access_rules(tenant, after=first[-1].rule_id) == ordered
    assert await ledger.access_rules(tenant, source="web") == [decided[0]]
    assert {rule.scope for rule in await ledger.access_rules(tenant, principals=["user:u1"])} == {"scope1", "scope3"}
    assert await ledger.access_rules(tenant, scopes=["scope4", "none"]) == [decided[4]]
    assert await ledger.access_rules("other") == []
    assert await ledger.withdraw("other", decided[0].rule_id) is None
    assert await ledger.withdraw(tenant, decided[0].rule_id) == decided[0]
    assert await ledger.withdraw(tenant, decided[0].rule_id) is None
    revisions.append(await ledger.index_revision(index, tenant))
    assert revisions == sorted(set(revisions)), "each change of a rule begins a new revision of the index"


# -- erasures ------------------------------------------------------------------------------------------------------------


def an_erasure(tenant: str, *documents: str, **fields: Any) -> Erasure:
    now = datetime.now(UTC)
    erased = tuple(Erased(each, "s3", f"s3://docs/{each}") for each in documents)
    deadline = now + timedelta(days=30)
    return Erasure(erasure_id(), tenant, "document", "asked", "officer", erased, now, deadline, now, **fields)


async def test_documents_are_located_by_id_prefix_and_person_in_every_index(ledger: Any, index: str) -> None:
    tenant, older = uuid.uuid4().hex, uuid.uuid4().hex[:16]
    one, two, three, four = sorted(an_id() for _ in range(4))
    for each in (older, index):
        await ledger.open_index(IndexSpec(each, 8))
    await applied(ledger, index, delta(one, {an_id(): an_id()}, tenant=tenant, uri="s3://docs/hr/1", subjects=("p1",)))
    await applied(ledger, index, delta(two, {}, tenant=tenant, uri="s3://docs/hr_2", status=DocumentStatus.DELETED))
    await applied(
        ledger, older, delta(three, {an_id(): an_id()}, tenant=tenant, uri="s3://docs/hr/3", subjects=("p1", "p2"))
    )
    await applied(ledger, index, delta(four, {}, tenant="another", uri="s3://docs/hr/4", subjects=("p1",)))

    async def ids(**condition: Any) -> list[str]:
        return [record.document_id for record in await ledger.located(tenant, **condition)]

    assert await ids(document_id=two) == [two]
    assert await ids(document_id=four) == []
    assert await ids(uri_prefix="s3://docs/hr/") == [one, three]
    assert await ids(uri_prefix="s3://docs/hr_") == [two]
    assert await ids(subject_ids=["p1"]) == [one, three]
    assert await ids(subject_ids=["p2", "p9"]) == [three]
    assert await ids() == await ids(subject_ids=[]) == []
    assert len((await ledger.located(tenant, document_id=three))[0].chunks) == 1
    assert [each for each in await ledger.index_ids() if each in {older, index}] == [older, index]
    await ledger.forget(tenant, [three])
    assert await ids(uri_prefix="s3://docs/hr/") == [one]


async def test_an_acceptance_hides_and_announces_in_one_transaction(ledger: Any, index: str) -> None:
    tenant, document, point = uuid.uuid4().hex, an_id(), an_id()
    await applied(ledger, index, delta(document, {an_id(): point}, tenant=tenant))
    erasure = an_erasure(tenant, document, subject_ids=("p1",), subject_lengths=(2,))
    await emptied(ledger)
    await ledger.accept(erasure, [OutboxEvent(CHANGED, document, None)])
    assert await ledger.visible(index, [point], AccessFilter(tenant, ("group:staff",))) == {}
    assert await ledger.suppressed(tenant, [document, "p1", "p2"]) == {document, "p1"}
    async with ledger.unpublished() as events:
        assert list(events) == [OutboxEvent(CHANGED, document, None)]
    assert await ledger.erasure(tenant, erasure.erasure_id) == erasure
    assert await ledger.erasure("another", erasure.erasure_id) is None
    assert erasure.deadline in await ledger.open_deadlines()


async def test_a_document_whose_text_was_not_searched_for_an_erased_person_is_lost(ledger: Any, index: str) -> None:
    tenant, left_out, other, person = uuid.uuid4().hex, an_id(), an_id(), uuid.uuid4().hex
    assert await ledger.erased_people(tenant, [left_out]) == ErasedPeople()
    for _ in range(2):  # the second request finds nothing new
        await ledger.accept(an_erasure(tenant, subject_ids=(person,), subject_lengths=(9,), spared=(left_out,)), [])
    assert await ledger.erased_people(tenant, [other]) == ErasedPeople({person: 9})
    people = await ledger.erased_people(tenant, [left_out, other])
    assert people == ErasedPeople({person: 9}, frozenset({(left_out, person)}))
    assert not people.refused(left_out, {person})
    assert people.refused(left_out, {person, "another"})
    assert people.refused(other, {person})
    assert not people.refused(other, set())
    late = delta(other, {an_id(): an_id()}, tenant=tenant)
    assert (await applied(ledger, index, late)).lost == (late,)
    assert (await ledger.swap(index, [replace(late, erased_people=1)])).accepted
    gone = delta(other, {}, revision=1, tenant=tenant, status=DocumentStatus.SUPPRESSED)
    assert (await applied(ledger, index, gone)).accepted
    assert (await applied(ledger, index, delta(an_id(), {an_id(): an_id()}, tenant=uuid.uuid4().hex))).accepted


async def test_nothing_under_a_legal_hold_is_erased(ledger: Any, index: str) -> None:
    tenant, document = uuid.uuid4().hex, an_id()
    older, newer = sorted(hold_id() for _ in range(2))
    first = Hold(older, tenant, "hr", "s3", "s3://docs/hr/", actor="admin", reason="case 7")
    second = replace(first, hold_id=newer, scope=document)
    other = Hold(hold_id(), uuid.uuid4().hex, "hr", "s3", document_id=an_id())
    placed = [await ledger.place(each) for each in (first, second, other)]
    assert [replace(each, placed_at=None) for each in placed] == [first, second, other]
    assert await ledger.place(first) == placed[0]
    assert await ledger.holds(tenant) == placed[:2]
    assert await ledger.holds(tenant, limit=1) == placed[:1]
    assert await ledger.holds(tenant, after=first.hold_id) == placed[1:2]
    assert await ledger.holds(tenant, scopes=["hr", "all"]) == placed[:1]
    assert await ledger.holds(tenant, scopes=[]) == []
    erasure = an_erasure(tenant, document)
    await emptied(ledger)
    for hold in (first, second):
        with pytest.raises(Conflict, match=f"legal hold {hold.hold_id} on s3://docs/hr/"):
            await ledger.accept(erasure, [OutboxEvent(CHANGED, document, None)], scopes=["all", hold.scope])
    assert await ledger.suppressed(tenant, [document]) == set()
    assert await ledger.erasure(tenant, erasure.erasure_id) is None
    async with ledger.unpublished() as events:
        assert not list(events)
    assert await ledger.lift(tenant, other.hold_id) is None
    assert await ledger.lift(tenant, first.hold_id) == placed[0]
    assert await ledger.lift(tenant, first.hold_id) is None
    await ledger.accept(erasure, [], scopes=["all", "hr"])
    assert await ledger.erasure(tenant, erasure.erasure_id) == erasure


async def emptied(ledger: Any) -> None:
    async with ledger.unpublished():
        pass


async def test_the_progress_of_an_erasure_is_compared_and_swapped(ledger: Any) -> None:
    tenant = uuid.uuid4().hex
    erasure = an_erasure(tenant, an_id())
    await ledger.accept(erasure, [])
    now = datetime.now(UTC)
    assert erasure in await ledger.due_erasures(now, limit=1000)
    history = (ErasureEvent(now, "erased"),)
    later = replace(
        erasure,
        state=ErasureState.VERIFYING,
        next_at=now + timedelta(hours=1),
        stores={"ledger": "erased"},
        history=history,
    )
    recorded = await ledger.progress(later)
    assert (recorded, await ledger.erasure(tenant, erasure.erasure_id)) == (replace(later, revision=1), recorded)
    with pytest.raises(Conflict, match="another worker"):
        await ledger.progress(later)
    assert erasure.erasure_id not in {each.erasure_id for each in await ledger.due_erasures(now, limit=1000)}
    certified = await ledger.progress(
        replace(recorded, state=ErasureState.CERTIFIED, next_at=None, certificate="a.b.c")
    )
    assert await ledger.erasures(tenant) == [certified]
    assert certified.deadline not in await ledger.open_deadlines()
    assert not {each.erasure_id for each in await ledger.due_erasures(now + timedelta(days=9), limit=1000)} & {
        erasure.erasure_id
    }


async def test_erasures_are_listed_in_the_order_of_their_acceptance(ledger: Any) -> None:
    tenant = uuid.uuid4().hex
    accepted = [an_erasure(tenant) for _ in range(3)]
    for each in accepted:
        await ledger.accept(each, [])
    first = await ledger.erasures(tenant, limit=2)
    assert first + await ledger.erasures(tenant, after=first[-1].erasure_id) == sorted(
        accepted, key=lambda each: each.erasure_id
    )


async def test_a_forgotten_document_leaves_its_id_and_its_points_become_garbage(ledger: Any, index: str) -> None:
    tenant, gone, kept = uuid.uuid4().hex, an_id(), an_id()
    point, other = an_id(), an_id()
    vectors = {("f", tenant, each.encode()): (each, np.ones(2, np.float32)) for each in (gone, kept)}
    both = [delta(gone, {an_id(): point}, tenant=tenant), delta(kept, {an_id(): other}, tenant=tenant)]
    await applied(ledger, index, *both, vectors=vectors)
    assert await ledger.remembered(tenant, [gone, kept, an_id()]) == {gone, kept}
    await ledger.forget("another", [gone])
    await ledger.forget(tenant, [gone])
    await ledger.forget(tenant, [gone])
    assert await ledger.remembered(tenant, [gone, kept]) == {kept}
    record = (await ledger.recorded(index, [gone]))[gone]
    assert (record.status, record.reason, record.revision) == (DocumentStatus.SUPPRESSED, "erased", 2)
    assert (record.uri, record.title, record.principals, record.artifacts, record.chunks) == ("", "", (), (), {})
    assert await ledger.condemn(index) == [point]
    assert await ledger.lookup("f", tenant, [gone.encode(), kept.encode()]) == {
        kept.encode(): pytest.approx(np.ones(2))
    }
    assert [record.document_id for record in await ledger.of_tenant(index, tenant)] == sorted([gone, kept])


@pytest.mark.heavy
def test_rows_are_read_by_key_however_many_there_are_also_before_they_are_analyzed(database_url: str) -> None:
    tenant = uuid.uuid4().hex
    with psycopg.connect(database_url, autocommit=True) as db:
        db.execute(
            "insert into suppressions select %s, md5(n::text), 'erasure' from generate_series(1, 20000) n", (tenant,)
        )
        db.execute(
            """
            insert into access_rules (rule_id, tenant, scope, principal, effect, source)
            select gen_random_uuid(), %s, 'scope' || n, 'user:u' || mod(n, 5000), 'grant', 's3' from generate_series(1, 20000) n
            """,
            (tenant,),
        )
        first, second = uuid.uuid4().hex[:16], uuid.uuid4().hex[:16]
        for index in (first, second):  # the statistics of the second index come from the first one alone
            _fill(db, index, tenant)
            _require_reads_by_key(db, index, tenant)
            if index == first:
                db.execute("analyze")
                _require_reads_by_key(db, index, tenant)


def _fill(db: psycopg.Connection[Any], index: str, tenant: str) -> None:
    db.execute(
        """
        insert into documents (index_id, document_id, status, tenant, principals, subjects)
        select %s, gen_random_uuid(), 'live', %s, '{group:staff}', '{a,b}' from generate_series(1, 20000)
        """,
        (index, tenant),
    )
    db.execute(
        """
        insert into chunks (index_id, point_id, chunk_id, document_id, payload_hash)
        select index_id, gen_random_uuid(), gen_random_uuid(), document_id, 'h' from documents, generate_series(1, 2)
        where index_id = %s
        """,
        (index,),
    )


def _require_reads_by_key(db: psycopg.Connection[Any], index: str, tenant: str) -> None:
    rows = db.execute("select point_id::text, document_id::text from chunks where index_id = %s limit 58", (index,))
    points, documents = zip(*rows.fetchall(), strict=True)
    visible = {"index": index, "points": list(points), "tenant": tenant, "principals": ["group:staff"]}
    for query, values in ((VISIBLE, visible), (CHUNKS_OF, (index, list(documents)))):
        ((plan,),) = db.execute(f"explain (analyze, format json) {query}", values).fetchall()
        nodes = list(plan_nodes(plan[0]["Plan"]))
        assert plan[0]["Plan"]["Actual Rows"] >= 58
        assert [node["Relation Name"] for node in nodes if node["Node Type"] == "Seq Scan"] == []
        read = max(node["Actual Rows"] + node.get("Rows Removed by Filter", 0) for node in nodes)
        assert read <= 2 * 58, f"{read} rows are read for {len(points)} points: {query}"


def plan_nodes(node: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield node
    for each in node.get("Plans", ()):
        yield from plan_nodes(each)
