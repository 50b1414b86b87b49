"""One behaviour for every ledger: in memory and on PostgreSQL."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sqlalchemy
from alembic import command
from alembic.config import Config

from rag.adapters.ledger import open_ledger, schema
from rag.adapters.memory.ledger import MemoryLedger
from rag.models import AccessFilter, Batch, Cause, DocumentRecord, DocumentStatus, IndexingTask, OffsetRange
from rag.ports import Delta

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
    """Return a separate index for every test, because the tests share a database."""
    return uuid.uuid4().hex[:16]


def an_id() -> str:
    return str(uuid.uuid4())


def delta(
    document_id: str, chunks: dict[str, str], *, revision: int = 0, deletes: tuple[str, ...] = (), **fields: Any
) -> Delta:
    record = DocumentRecord(
        document_id=document_id,
        revision=revision,
        status=fields.pop("status", DocumentStatus.LIVE),
        tenant=fields.pop("tenant", "acme"),
        source="s3",
        uri=f"s3://bucket/{document_id}.md",
        partition=3,
        principals=fields.pop("principals", ("group:staff",)),
        chunks=chunks,
        cause=CAUSE,
        **fields,
    )
    return Delta(record, {chunk: {"payload_hash": digest} for chunk, digest in chunks.items()}, {}, deletes)


async def applied(ledger: Any, index: str, *deltas: Delta) -> Any:
    await ledger.record_intent(index, deltas)
    async with ledger.swap(index, deltas) as result:
        pass
    return result


async def test_a_document_never_seen_has_revision_zero(ledger: Any, index: str) -> None:
    document = an_id()
    assert (await ledger.recorded(index, [document]))[document] == DocumentRecord(document)


async def test_an_applied_delta_is_recorded_with_the_next_revision(ledger: Any, index: str) -> None:
    document, chunk = an_id(), an_id()
    result = await applied(ledger, index, delta(document, {chunk: "h"}, title="Handbook", subjects=("s1",)))
    assert len(result.accepted) == 1
    row = (await ledger.recorded(index, [document]))[document]
    assert (row.revision, row.status, row.title, row.subjects, dict(row.chunks)) == (
        1, DocumentStatus.LIVE, "Handbook", ("s1",), {chunk: "h"},
    )  # fmt: skip


async def test_a_delta_planned_from_an_old_revision_loses_and_changes_nothing(ledger: Any, index: str) -> None:
    document, first, second = an_id(), an_id(), an_id()
    await applied(ledger, index, delta(document, {first: "h"}))
    result = await applied(ledger, index, delta(document, {second: "h"}, revision=0))
    assert len(result.lost) == 1
    assert not result.accepted
    assert set((await ledger.recorded(index, [document]))[document].chunks) == {first}


async def test_of_two_at_once_exactly_one_wins(ledger: Any, index: str) -> None:
    document = an_id()
    attempts = [applied(ledger, index, delta(document, {an_id(): "h"})) for _ in range(6)]
    results = await asyncio.gather(*attempts)
    assert sum(len(result.accepted) for result in results) == 1
    assert (await ledger.recorded(index, [document]))[document].revision == 1


async def test_an_exception_inside_the_lock_records_nothing_and_keeps_the_intent(ledger: Any, index: str) -> None:
    document, chunk = an_id(), an_id()
    planned = delta(document, {chunk: "h"})
    await ledger.record_intent(index, [planned])
    with pytest.raises(RuntimeError):
        async with ledger.swap(index, [planned]):
            raise RuntimeError("the vector index fell over")
    assert (await ledger.recorded(index, [document]))[document].revision == 0
    async with ledger.garbage(index) as found:
        assert list(found) == [chunk]


async def test_an_intent_that_was_swept_makes_its_writer_plan_again(ledger: Any, index: str) -> None:
    planned = delta(an_id(), {an_id(): "h"})
    await ledger.record_intent(index, [planned])
    async with ledger.garbage(index):
        pass
    async with ledger.swap(index, [planned]) as result:
        assert len(result.lost) == 1


async def test_removed_chunks_become_garbage_and_are_forgotten_when_swept(ledger: Any, index: str) -> None:
    document, old, new = an_id(), an_id(), an_id()
    await applied(ledger, index, delta(document, {old: "h"}))
    await applied(ledger, index, delta(document, {new: "h"}, revision=1, deletes=(old,)))
    async with ledger.garbage(index, document_ids=[document]) as found:
        assert list(found) == [old]
    async with ledger.garbage(index) as found:
        assert not found


async def test_a_sweep_that_fails_keeps_its_notes(ledger: Any, index: str) -> None:
    document, old = an_id(), an_id()
    await applied(ledger, index, delta(document, {old: "h"}))
    await applied(ledger, index, delta(document, {}, revision=1, deletes=(old,), status=DocumentStatus.DELETED))
    with pytest.raises(RuntimeError):
        async with ledger.garbage(index):
            raise RuntimeError("the vector index fell over")
    async with ledger.garbage(index) as found:
        assert list(found) == [old]


async def test_young_garbage_is_left_to_its_writer(ledger: Any, index: str) -> None:
    await ledger.record_intent(index, [delta(an_id(), {an_id(): "h"})])
    async with ledger.garbage(index, older_than=3600) as found:
        assert not found


async def test_only_current_live_chunks_of_the_callers_are_visible(ledger: Any, index: str) -> None:
    document, old, new = an_id(), an_id(), an_id()
    await applied(ledger, index, delta(document, {old: "h"}, version="v1"))
    await applied(ledger, index, delta(document, {new: "h"}, revision=1, deletes=(old,), version="v2"))
    seen = await ledger.visible(index, [old, new, an_id()], STAFF)
    assert set(seen) == {new}
    assert (seen[new].source_version, seen[new].cause, seen[new].revision) == ("v2", CAUSE, 2)
    assert not await ledger.visible(index, [new], AccessFilter("acme", ("group:contractors", "user:bob")))
    assert not await ledger.visible(index, [new], AccessFilter("globex", ("group:staff",)))
    assert not await ledger.visible("0" * 16, [new], STAFF)


@pytest.mark.parametrize("status", [DocumentStatus.DELETED, DocumentStatus.DEAD, DocumentStatus.SUPPRESSED])
async def test_a_document_that_is_not_live_is_not_visible(ledger: Any, index: str, status: DocumentStatus) -> None:
    document, chunk = an_id(), an_id()
    await applied(ledger, index, delta(document, {chunk: "h"}))
    await applied(ledger, index, delta(document, {chunk: "h"}, revision=1, status=status))
    assert not await ledger.visible(index, [chunk], STAFF)


async def test_a_suppression_hides_at_once_and_refuses_later_deltas(ledger: Any, index: str) -> None:
    tenant = uuid.uuid4().hex
    document, chunk, subject = an_id(), an_id(), uuid.uuid4().hex
    staff = AccessFilter(tenant, ("group:staff",))
    await applied(ledger, index, delta(document, {chunk: "h"}, tenant=tenant, subjects=(subject,)))
    await ledger.suppress(tenant, [subject], reason="erasure")
    assert not await ledger.visible(index, [chunk], staff)
    assert await ledger.document(index, document, staff) is None
    again = await applied(ledger, index, delta(document, {chunk: "h"}, revision=1, tenant=tenant, subjects=(subject,)))
    assert len(again.suppressed) == 1
    gone = delta(document, {}, revision=1, deletes=(chunk,), tenant=tenant, status=DocumentStatus.SUPPRESSED)
    assert len((await applied(ledger, index, gone)).accepted) == 1
    assert await ledger.suppressed(tenant, [subject, "other"]) == {subject}


async def test_the_index_revision_of_a_tenant_moves_with_its_changes_only(ledger: Any, index: str) -> None:
    document = an_id()
    assert await ledger.index_revision(index, "acme") == 0
    await applied(ledger, index, delta(document, {an_id(): "h"}))
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
    planned = delta(document, {an_id(): "h"}, tenant=tenant)
    await ledger.record_intent(index, [planned])
    async with ledger.swap(index, [planned], vectors=fresh):
        pass
    found = await ledger.lookup(index, tenant, [b"k1", b"k2"])
    assert set(found) == {b"k1"}
    assert np.array_equal(found[b"k1"], vector)
    assert not await ledger.lookup(index, "another tenant", [b"k1"])
    assert not await ledger.lookup("another model", tenant, [b"k1"])


async def test_a_partition_lists_live_and_dead_documents(ledger: Any, index: str) -> None:
    live, dead, gone, chunk = an_id(), an_id(), an_id(), an_id()
    await applied(ledger, index, delta(live, {chunk: "h"}))
    await applied(ledger, index, delta(dead, {}, status=DocumentStatus.DEAD, reason="encrypted"))
    await applied(ledger, index, delta(gone, {}, status=DocumentStatus.DELETED))
    assert {row.document_id for row in await ledger.live(index, 3)} == {live, dead}
    assert not await ledger.live(index, 4)
    assert await ledger.chunks(index, 3) == await ledger.chunks(index, 3, documents=[live, dead]) == {chunk: "h"}
    assert await ledger.chunks(index, 3, documents=[dead]) == await ledger.chunks(index, 3, documents=[]) == {}


async def test_the_catalog_lists_allowed_documents_by_page_and_status(ledger: Any, index: str) -> None:
    ids = sorted(an_id() for _ in range(3))
    for each in ids[:2]:
        await applied(ledger, index, delta(each, {an_id(): "h"}))
    await applied(ledger, index, delta(ids[2], {}, status=DocumentStatus.DEAD, reason="encrypted"))
    first = await ledger.documents(index, STAFF, limit=2)
    assert [row["document_id"] for row in first] == ids[:2]
    assert [row["chunks"] for row in first] == [1, 1]
    rest = await ledger.documents(index, STAFF, after=ids[1])
    assert [(row["document_id"], row["reason"]) for row in rest] == [(ids[2], "encrypted")]
    assert [row["document_id"] for row in await ledger.documents(index, STAFF, status="dead")] == [ids[2]]
    assert not await ledger.documents(index, AccessFilter("globex", ("group:staff",)))


async def test_a_documents_lineage_names_its_event_and_run(ledger: Any, index: str) -> None:
    document, chunk = an_id(), an_id()
    await applied(ledger, index, delta(document, {chunk: "h"}))
    found = await ledger.document(index, document, STAFF)
    assert found["chunk_ids"] == [chunk]
    assert (found["cause"]["offset"], found["cause"]["run_id"]) == (41, "run")


async def test_the_inventory_holds_change_tokens_of_all_but_deleted_documents(ledger: Any, index: str) -> None:
    live, gone = an_id(), an_id()
    await applied(ledger, index, delta(live, {}, change_token="etag@1"))
    await applied(ledger, index, delta(gone, {}, status=DocumentStatus.DELETED))
    assert await ledger.inventory(index, "s3") == {f"s3://bucket/{live}.md": (live, "etag@1")}
    assert await ledger.counts(index, "s3") == {"live": 1, "deleted": 1}


async def test_a_batch_is_stored_for_its_run(ledger: Any, index: str) -> None:
    task = IndexingTask(an_id(), "acme", "s3", "s3://b/k", 4, CAUSE, parsed="key", principals=("group:staff",))
    batch = Batch(index, 3, (task,), OffsetRange("t", "e", 3, 10, 20))
    await ledger.save(index, "chunks", batch)
    assert await ledger.load(index, "chunks", 3) == batch
    assert await ledger.load(index, "chunks", 4) is None
    await ledger.save(index, "chunks", replace(batch, tasks=()))
    assert (await ledger.load(index, "chunks", 3)).tasks == ()


async def test_measurements_add_up(ledger: Any, index: str) -> None:
    key = ("documents_total", (("index", index), ("status", "live")))
    await ledger.add({key: 2})
    await ledger.add({key: 3})
    assert (await ledger.totals())[key] == 5


async def test_cursors_and_row_hashes_record_the_progress_of_a_source(ledger: Any, index: str) -> None:
    assert await ledger.cursor(index) == {}
    await ledger.set_cursor(index, {"read": "2026-01-01"})
    assert await ledger.cursor(index) == {"read": "2026-01-01"}
    await ledger.set_row_hashes(index, "T", {"1": "a", "2": "b"})
    await ledger.set_row_hashes(index, "T", {"2": "c"}, gone=["1"])
    assert await ledger.row_hashes(index, "T") == {"2": "c"}
    assert await ledger.row_hashes(index, "T", ["1"]) == {}


async def test_a_batch_that_was_saved_before_an_upgrade_is_read_after_it(database_url: str) -> None:
    """Migration 0002 renames fields of stored batches: a run that goes on after an upgrade must find its tasks."""
    task = IndexingTask("d", "acme", "s3", "s3://docs/a.md", 0, CAUSE, change_token="t1")
    batch = Batch("i", 3, (task, replace(task, document_id="e")), OffsetRange("t", "e", 3, 0, 5))
    async with open_ledger(database_url) as ledger:
        await ledger.save("run", "chunks", batch)
        await ledger.save("run", "embeddings", replace(batch, tasks=()))
        _migrate(database_url, "0001")
        async with ledger.connection() as db:
            rows = await db.execute("select body from batches where run_id = 'run' and step = 'chunks'")
            (old,) = await rows.fetchone() or ()
        assert [each["stamp"] for each in old["works"]] == ["t1", "t1"]
        assert "tasks" not in old
        _migrate(database_url, "0002")
        assert await ledger.load("run", "chunks", 3) == batch
        assert await ledger.load("run", "embeddings", 3) == replace(batch, tasks=())


def _migrate(database_url: str, revision: str) -> None:
    engine = sqlalchemy.create_engine(database_url.replace("postgresql://", "postgresql+psycopg://", 1))
    config = Config()
    config.set_main_option("script_location", str(Path(schema.__file__).parent / "migrations"))
    with engine.connect() as connection:
        config.attributes["connection"] = connection
        (command.downgrade if revision == "0001" else command.upgrade)(config, revision)
        connection.commit()
    engine.dispose()
