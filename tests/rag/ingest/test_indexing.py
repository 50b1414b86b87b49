from __future__ import annotations

import asyncio
import uuid
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from rag.adapters.memory.ledger import MemoryLedger
from rag.errors import Unavailable
from rag.ingest import indexing
from rag.ingest.indexing import Applied, Desired, apply, desired, payload, plan, sweep
from rag.models import (
    Access,
    Cause,
    Chunk,
    DocumentRecord,
    DocumentStatus,
    Embedding,
    IndexingTask,
    OffsetRange,
    ParsedDocument,
    Payload,
    Point,
    SparseVector,
)
from rag.ports import Delta, OutboxEvent, SwapResult

INDEX = "f" * 16


class RecordingIndex:
    """A vector index that keeps its points and can be told to fail, or to execute a request after its caller gave up."""

    def __init__(self) -> None:
        self.points: dict[str, Payload] = {}
        self.calls: list[str] = []
        self.fails = False
        self.late: list[Callable[[], None]] = []

    async def upsert(self, index_id: str, points: list[Point]) -> None:
        self.calls.append("upsert")
        self._execute(lambda: self.points.update({point.point_id: point.payload for point in points}))

    async def delete(self, index_id: str, point_ids: list[str]) -> None:
        self.calls.append("delete")
        self._execute(lambda: [self.points.pop(each, None) for each in point_ids])

    def _execute(self, request: Callable[[], Any]) -> None:
        if self.fails:
            self.late.append(request)
            raise Unavailable("the vector index does not answer")
        request()

    def execute_late_requests(self) -> None:
        self.fails = False
        for request in self.late:
            request()


CAUSE = Cause("documents.changed.v1", "e", 1, 7)


def task(document_id: str, revision: int = 0, **fields: Any) -> IndexingTask:
    uri = f"s3://b/{document_id}.md"
    return IndexingTask(
        document_id, "acme", "s3", uri, revision, **{"cause": CAUSE, "principals": ("group:staff",)} | fields
    )


def chunks(*ids: str) -> list[Chunk]:
    return [Chunk(each, n, f"text {each}", f"input {each}", 10 * n, 10 * n + 6, (), 3) for n, each in enumerate(ids)]


def wanted(document_id: str, *ids: str, title: str = "T", **fields: Any) -> Desired:
    made = task(document_id, **fields)
    return Desired(made, Access("acme", made.principals), chunks(*ids), title, "en", 1)


def embeddings(*ids: str) -> dict[str, Embedding]:
    sparse = SparseVector(np.array([1], np.uint32), np.array([1.0], np.float32))
    return {each: Embedding(np.array([1, 0], np.float32), sparse) for each in ids}


def recorded(delta: Delta, revision: int = 1) -> DocumentRecord:
    """The record after the delta was applied, its points named after their chunks."""
    placed = {
        chunk: replace(each, point_id=each.point_id or f"point {chunk}") for chunk, each in delta.record.chunks.items()
    }
    return replace(delta.record, revision=revision, chunks=placed)


@pytest.fixture
def ledger() -> MemoryLedger:
    return MemoryLedger()


@pytest.fixture
def index() -> RecordingIndex:
    return RecordingIndex()


async def run(ledger: MemoryLedger, index: RecordingIndex, document: str, *ids: str, **fields: Any) -> Applied:
    """Plan from the newest record and apply."""
    record = (await ledger.recorded(INDEX, [document]))[document]
    delta = plan(wanted(document, *ids, revision=record.revision, **fields), record)
    return await apply(INDEX, [delta], embeddings(*ids), ledger=ledger, vectors=index)


async def current(ledger: MemoryLedger, document: str) -> dict[str, str]:
    """chunk id → point id."""
    record = (await ledger.recorded(INDEX, [document]))[document]
    return {chunk: each.point_id for chunk, each in record.chunks.items()}


# -- plan ---------------------------------------------------------------------------------------------------------------


def test_a_new_document_is_all_writes() -> None:
    delta = plan(wanted("d", "a", "b"), DocumentRecord("d"))
    assert (set(delta.writes), delta.retired, delta.is_visible) == ({"a", "b"}, (), True)


def test_the_same_document_again_writes_nothing_and_no_reader_sees_a_difference() -> None:
    first = recorded(plan(wanted("d", "a", "b"), DocumentRecord("d")))
    again = plan(wanted("d", "a", "b"), first)
    assert (again.writes, again.retired, again.is_visible, again.record.chunks) == ({}, (), False, first.chunks)


def test_a_changed_title_is_a_ledger_row_and_no_point() -> None:
    first = recorded(plan(wanted("d", "a", "b"), DocumentRecord("d")))
    delta = plan(wanted("d", "a", "b", title="Other"), first)
    assert (delta.writes, delta.retired, delta.is_visible, delta.record.title) == ({}, (), True, "Other")


def test_a_chunk_inserted_at_the_top_writes_one_point_and_moves_the_others_in_the_ledger() -> None:
    first = recorded(plan(wanted("d", "a", "b"), DocumentRecord("d")))
    delta = plan(wanted("d", "new", "a", "b"), first)
    assert (set(delta.writes), delta.retired) == ({"new"}, ())
    moved = delta.record.chunks["a"]
    assert (moved.point_id, moved.ordinal, moved.start, moved.end) == ("point a", 1, 10, 16)


def test_a_changed_access_writes_every_point_again_and_retires_the_old_ones() -> None:
    first = recorded(plan(wanted("d", "a", "b"), DocumentRecord("d")))
    delta = plan(wanted("d", "a", "b", principals=("group:hr",)), first)
    assert (set(delta.writes), delta.retired) == ({"a", "b"}, ("point a", "point b"))


def test_one_changed_chunk_is_one_write_and_one_retired_point() -> None:
    first = recorded(plan(wanted("d", "a", "b", "c"), DocumentRecord("d")))
    delta = plan(wanted("d", "a", "x", "c"), first)
    assert (set(delta.writes), delta.retired) == ({"x"}, ("point b",))


def test_deleting_is_desiring_nothing() -> None:
    first = recorded(plan(wanted("d", "a"), DocumentRecord("d")))
    delta = plan(desired(task("d", 1, status=DocumentStatus.DELETED), 1), first)
    assert (delta.writes, delta.retired, delta.record.status) == ({}, ("point a",), DocumentStatus.DELETED)


def test_a_backfill_writes_every_point_again() -> None:
    first = recorded(plan(wanted("d", "a", "b"), DocumentRecord("d")))
    delta = plan(wanted("d", "a", "b", cause=Cause("", "", 1, -1)), first)
    assert (set(delta.writes), delta.retired) == ({"a", "b"}, ("point a", "point b"))


def test_a_title_from_a_label_takes_precedence_over_the_parsed_one() -> None:
    parsed = ParsedDocument("text", (), "Parsed", "en", "text/plain")
    assert desired(task("d"), 0, parsed).title == "Parsed"
    assert desired(task("d", title="Label"), 0, parsed).title == "Label"


def test_a_payload_holds_neither_position_nor_provenance() -> None:
    fields = payload(chunks("a")[0], wanted("d", "a"))
    assert set(fields) == {
        "document_id", "tenant", "principals", "scopes", "source", "partition", "text", "section", "language", "media_type",
        "payload_hash",
    }  # fmt: skip


# -- apply --------------------------------------------------------------------------------------------------------------


async def test_old_points_go_only_after_the_ledger_has_swapped(ledger: MemoryLedger, index: RecordingIndex) -> None:
    document = str(uuid.uuid4())
    await run(ledger, index, document, "a")
    await run(ledger, index, document, "b")
    assert index.calls == ["upsert", "upsert", "delete"]
    assert set(index.points) == set((await current(ledger, document)).values())


async def test_no_point_id_is_ever_used_for_a_second_write(ledger: MemoryLedger, index: RecordingIndex) -> None:
    document = str(uuid.uuid4())
    used: list[str] = []
    for principals in (("group:staff",), ("group:hr",), ("group:staff",)):
        await run(ledger, index, document, "a", principals=principals)
        used += (await current(ledger, document)).values()
    assert len(set(used)) == 3


async def test_a_crash_before_the_swap_leaves_garbage_that_a_sweep_removes(
    ledger: MemoryLedger, index: RecordingIndex
) -> None:
    document = str(uuid.uuid4())
    index.fails = True
    with pytest.raises(Unavailable):
        await run(ledger, index, document, "a")
    index.execute_late_requests()  # the write arrived, its answer did not
    assert len(index.points) == 1
    assert (await ledger.recorded(INDEX, [document]))[document].revision == 0
    assert await sweep(INDEX, ledger=ledger, vectors=index, older_than=0) == 1
    assert index.points == {}


async def test_a_write_that_is_executed_late_never_touches_a_current_point(
    ledger: MemoryLedger, index: RecordingIndex
) -> None:
    document = str(uuid.uuid4())
    await run(ledger, index, document, "a")
    index.fails = True
    with pytest.raises(Unavailable):
        await run(ledger, index, document, "a", principals=("group:hr",))
    index.fails = False
    await run(ledger, index, document, "a", title="Other")
    kept = (await current(ledger, document))["a"]
    before = dict(index.points[kept])
    index.execute_late_requests()
    assert index.points[kept] == before
    assert await ledger.unknown_points(INDEX, list(index.points)) == set()  # the intent still records the late point


async def test_a_delete_that_is_executed_late_hits_only_retired_points(
    ledger: MemoryLedger, index: RecordingIndex
) -> None:
    document = str(uuid.uuid4())
    await run(ledger, index, document, "a")
    delete = index.delete

    async def late(index_id: str, point_ids: list[str]) -> None:
        index.fails = True
        await delete(index_id, point_ids)

    index.delete = late  # type: ignore[method-assign]
    await run(ledger, index, document, "b")  # the outage does not fail the batch: the ledger records the garbage
    index.fails = False
    index.delete = delete  # type: ignore[method-assign]
    await run(ledger, index, document, "a")
    index.execute_late_requests()
    assert set((await current(ledger, document)).values()) <= index.points.keys()


async def test_a_late_worker_changes_neither_ledger_nor_index(ledger: MemoryLedger, index: RecordingIndex) -> None:
    document = str(uuid.uuid4())
    late = plan(wanted(document, "old"), DocumentRecord(document))
    await run(ledger, index, document, "new")
    outcome = await apply(INDEX, [late], embeddings("old"), ledger=ledger, vectors=index)
    assert [delta.record.document_id for delta in outcome.lost] == [document]
    assert set(index.points) == set((await current(ledger, document)).values())


async def test_an_intent_that_was_swept_makes_its_writer_lose(
    ledger: MemoryLedger, index: RecordingIndex, monkeypatch: pytest.MonkeyPatch
) -> None:
    document = str(uuid.uuid4())
    upsert = index.upsert

    async def slow(index_id: str, points: list[Point]) -> None:
        await upsert(index_id, points)
        await sweep(INDEX, ledger=ledger, vectors=index, older_than=0)

    monkeypatch.setattr(index, "upsert", slow)
    outcome = await run(ledger, index, document, "a")
    assert (len(outcome.applied), len(outcome.lost), index.points) == (0, 1, {})


async def test_a_document_suppressed_during_the_derivation_is_not_made_current(
    ledger: MemoryLedger, index: RecordingIndex
) -> None:
    document = str(uuid.uuid4())
    await ledger.suppress("acme", [document], reason="erasure")
    outcome = await run(ledger, index, document, "a")
    assert (len(outcome.lost), await current(ledger, document), index.points) == (1, {}, {})


async def test_the_position_moves_with_the_last_delta_and_not_when_one_is_lost(
    ledger: MemoryLedger, index: RecordingIndex
) -> None:
    document, done = str(uuid.uuid4()), OffsetRange("t", "e", 0, 0, 5)
    stale = plan(wanted(document, "old"), DocumentRecord(document))
    await run(ledger, index, document, "new")
    await apply(INDEX, [stale], embeddings("old"), ledger=ledger, vectors=index, done=done)
    assert await ledger.positions(INDEX, "t", "e") == {}
    await apply(INDEX, [], {}, ledger=ledger, vectors=index, done=done)
    assert await ledger.positions(INDEX, "t", "e") == {0: 5}


async def test_events_are_recorded_with_the_accepted_deltas_only(ledger: MemoryLedger, index: RecordingIndex) -> None:
    good, stale = str(uuid.uuid4()), str(uuid.uuid4())
    await run(ledger, index, stale, "a")
    deltas = [plan(wanted(each, "b"), DocumentRecord(each)) for each in (good, stale)]

    def events(result: SwapResult) -> list[OutboxEvent]:
        return [OutboxEvent("t", delta.record.document_id, None) for delta in result.accepted]

    await apply(INDEX, deltas, embeddings("b"), ledger=ledger, vectors=index, events=events)
    async with ledger.unpublished() as recorded_events:
        assert [event.key for event in recorded_events] == [good]
    async with ledger.unpublished() as recorded_events:
        assert not recorded_events


async def test_an_apply_over_its_deadline_is_an_outage(
    ledger: MemoryLedger, index: RecordingIndex, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def hangs(index_id: str, points: list[Point]) -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr(indexing, "APPLY_SECONDS", 0.01)
    monkeypatch.setattr(index, "upsert", hangs)
    with pytest.raises(Unavailable, match="not applied within"):
        await run(ledger, index, str(uuid.uuid4()), "a")


async def test_a_chunk_without_a_vector_stops_the_batch_before_anything_is_written(
    ledger: MemoryLedger, index: RecordingIndex
) -> None:
    with pytest.raises(KeyError):
        await apply(INDEX, [plan(wanted("d", "a"), DocumentRecord("d"))], {}, ledger=ledger, vectors=index)
    assert not index.calls
