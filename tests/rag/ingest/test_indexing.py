from __future__ import annotations

import uuid
from dataclasses import replace

import numpy as np
import pytest

from rag.adapters.memory.ledger import MemoryLedger
from rag.ingest.indexing import Desired, apply, desired, payload, plan, sweep
from rag.models import (
    Access,
    Cause,
    Chunk,
    DocumentRecord,
    DocumentStatus,
    Embedding,
    IndexingTask,
    ParsedDocument,
    Payload,
    Point,
    SparseVector,
)  # fmt: skip

INDEX = "f" * 16


class RecordingIndex:
    """Vector index that records its points and can be set to fail."""

    def __init__(self) -> None:
        self.points: dict[str, Payload] = {}
        self.calls: list[str] = []
        self.fails = False

    async def upsert(self, index_id: str, points: list[Point]) -> None:
        self.calls.append("upsert")
        if self.fails:
            raise ConnectionError("the vector index fell over")
        self.points |= {point.chunk_id: point.payload for point in points}

    async def set_payloads(self, index_id: str, payloads: dict[str, Payload]) -> None:
        self.calls.append("set_payloads")
        self.points |= payloads

    async def delete(self, index_id: str, chunk_ids: list[str]) -> None:
        self.calls.append("delete")
        for chunk_id in chunk_ids:
            self.points.pop(chunk_id, None)


def a_task(document_id: str, revision: int = 0, **fields: object) -> IndexingTask:
    cause = Cause("documents.changed.v1", "e", 1, 7)
    uri = f"s3://b/{document_id}.md"
    return IndexingTask(document_id, "acme", "s3", uri, revision, cause, principals=("group:staff",), **fields)  # type: ignore[arg-type]


def chunks(*ids: str) -> list[Chunk]:
    return [Chunk(each, n, f"text {n}", f"input {n}", 0, 6, (), 3) for n, each in enumerate(ids)]


def wanted(document_id: str, *ids: str, revision: int = 0, title: str = "T") -> Desired:
    return Desired(a_task(document_id, revision), Access("acme", ("group:staff",)), chunks(*ids), title, "en", 1)


def embeddings(*ids: str) -> dict[str, Embedding]:
    sparse = SparseVector(np.array([1], np.uint32), np.array([1.0], np.float32))
    return {each: Embedding(np.array([1, 0], np.float32), sparse) for each in ids}


def test_a_new_document_is_all_upserts() -> None:
    delta = plan(wanted("d", "a", "b"), DocumentRecord("d"))
    assert (set(delta.upserts), delta.payload_updates, delta.deletes) == ({"a", "b"}, {}, ())


def test_the_same_document_again_is_nothing_to_do() -> None:
    first = plan(wanted("d", "a", "b"), DocumentRecord("d"))
    assert plan(wanted("d", "a", "b"), first.record).is_empty


def test_a_changed_title_updates_payloads_and_embeds_nothing() -> None:
    first = plan(wanted("d", "a", "b"), DocumentRecord("d"))
    delta = plan(wanted("d", "a", "b", title="Other"), first.record)
    assert not delta.upserts
    assert set(delta.payload_updates) == {"a", "b"}


def test_one_changed_chunk_is_one_upsert_and_one_delete() -> None:
    first = plan(wanted("d", "a", "b", "c"), DocumentRecord("d"))
    delta = plan(wanted("d", "a", "x", "c"), first.record)
    assert (set(delta.upserts), delta.payload_updates, delta.deletes) == ({"x"}, {}, ("b",))


def test_deleting_is_desiring_nothing() -> None:
    first = plan(wanted("d", "a"), DocumentRecord("d"))
    gone = desired(a_task("d", 1, status=DocumentStatus.DELETED), 1)
    delta = plan(gone, first.record)
    assert (delta.upserts, delta.deletes, delta.record.status) == ({}, ("a",), DocumentStatus.DELETED)


def test_a_backfill_writes_every_point_again() -> None:
    first = plan(wanted("d", "a", "b"), DocumentRecord("d"))
    same = wanted("d", "a", "b")
    again = replace(same, task=replace(same.task, cause=Cause("", "", 1, -1)))
    assert set(plan(again, first.record).upserts) == {"a", "b"}


def test_a_title_label_takes_precedence_over_the_parsed_title() -> None:
    parsed = ParsedDocument("text", (), "Parsed", "en", "text/plain")
    assert desired(a_task("d"), 0, parsed).title == "Parsed"
    assert desired(a_task("d", title="Label"), 0, parsed).title == "Label"


def test_a_payload_holds_no_provenance() -> None:
    fields = payload(chunks("a")[0], wanted("d", "a"))
    assert not {"offset", "run_id", "version", "revision"} & fields.keys()


async def test_old_points_are_deleted_only_after_the_ledger_has_swapped() -> None:
    ledger, index, document = MemoryLedger(), RecordingIndex(), str(uuid.uuid4())
    await apply(
        INDEX, [plan(wanted(document, "a"), DocumentRecord(document))], embeddings("a"), ledger=ledger, vectors=index
    )
    recorded = (await ledger.recorded(INDEX, [document]))[document]
    await apply(
        INDEX, [plan(wanted(document, "b", revision=1), recorded)], embeddings("b"), ledger=ledger, vectors=index
    )
    assert index.calls == ["upsert", "upsert", "delete"]
    assert set(index.points) == {"b"}


async def test_a_crash_between_index_and_ledger_leaves_garbage_that_a_sweep_removes() -> None:
    ledger, index, document = MemoryLedger(), RecordingIndex(), str(uuid.uuid4())
    delta = plan(wanted(document, "a"), DocumentRecord(document))
    index.fails = True
    with pytest.raises(ConnectionError):
        await apply(INDEX, [delta], embeddings("a"), ledger=ledger, vectors=index)
    index.points["a"] = {}  # the write arrived, its answer did not
    assert (await ledger.recorded(INDEX, [document]))[document].revision == 0
    assert await sweep(INDEX, ledger=ledger, vectors=index) == 1
    assert index.points == {}


async def test_a_late_worker_changes_neither_ledger_nor_index() -> None:
    ledger, index, document = MemoryLedger(), RecordingIndex(), str(uuid.uuid4())
    late = plan(wanted(document, "old"), DocumentRecord(document))
    await apply(
        INDEX,
        [plan(wanted(document, "new"), DocumentRecord(document))],
        embeddings("new"),
        ledger=ledger,
        vectors=index,
    )
    done = await apply(INDEX, [late], embeddings("old"), ledger=ledger, vectors=index)
    assert done.lost == (late,)
    assert set(index.points) == {"new"}


async def test_a_document_suppressed_during_the_derivation_is_withdrawn() -> None:
    ledger, index, document = MemoryLedger(), RecordingIndex(), str(uuid.uuid4())
    await apply(
        INDEX, [plan(wanted(document, "a"), DocumentRecord(document))], embeddings("a"), ledger=ledger, vectors=index
    )
    recorded = (await ledger.recorded(INDEX, [document]))[document]
    await ledger.suppress("acme", [document], reason="erasure")
    await apply(
        INDEX, [plan(wanted(document, "b", revision=1), recorded)], embeddings("b"), ledger=ledger, vectors=index
    )
    assert index.points.keys() <= {"a"}
    assert (await ledger.recorded(INDEX, [document]))[document].status is DocumentStatus.SUPPRESSED
    await sweep(INDEX, ledger=ledger, vectors=index)
    assert index.points == {}


async def test_a_chunk_without_a_vector_stops_the_batch_before_anything_is_written() -> None:
    ledger, index = MemoryLedger(), RecordingIndex()
    with pytest.raises(KeyError):
        await apply(INDEX, [plan(wanted("d", "a"), DocumentRecord("d"))], {}, ledger=ledger, vectors=index)
    assert not index.calls
