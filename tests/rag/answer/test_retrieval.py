from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest
from prometheus_client import REGISTRY

from governance.access import filter_for
from rag.adapters.memory.models import HashEmbedder, WordBm25
from rag.answer.retrieval import MAX_FETCH, OVERFETCH, hit, retrieve
from rag.ingest.indexing import desired, payload
from rag.models import AccessFilter, Cause, Chunk, HybridQuery, IndexingTask, ParsedDocument, Provenance, ScoredPoint

ACCESS = filter_for(tenant="acme", subject="alice")
CAUSE = Cause("documents.changed.v1", "e1", 2, 17, "run-1")
CHUNK = Chunk("c1", 4, "High water at noon.", "Tides\nHigh water at noon.", 10, 29, ("Guide", "Tides"), 6, 3)
TASK = IndexingTask(
    "d1", "acme", "s3", "s3://b/a.md", 1, CAUSE, media_type="text/markdown", principals=("group:staff",)
)
PAYLOAD = payload(CHUNK, desired(TASK, 2, ParsedDocument("", (), "A title", "en", "text/markdown"), (CHUNK,)))
ORIGIN = Provenance("d1", 7, "s3://b/a.md", "A title", "v3", CAUSE)


@dataclass
class FakeIndex:
    points: Sequence[ScoredPoint]
    limits: list[int] = field(default_factory=list)  # of each search

    async def search(self, index_id: str, query: HybridQuery, access: AccessFilter, *, limit: int) -> list[ScoredPoint]:
        self.limits.append(limit)
        return list(self.points[:limit])


@dataclass
class FakeLedger:
    current: set[str]
    calls: int = 0

    async def visible(self, index_id: str, chunk_ids: Sequence[str], access: AccessFilter) -> dict[str, Provenance]:
        self.calls += 1
        return {each: ORIGIN for each in chunk_ids if each in self.current}


def points(count: int) -> list[ScoredPoint]:
    return [ScoredPoint(f"c{n}", 1.0 / (n + 1), PAYLOAD) for n in range(count)]


async def chunk_ids(index: FakeIndex, ledger: FakeLedger, limit: int) -> list[str]:
    hits = await retrieve(
        "noon?", ACCESS, limit=limit, embedder=HashEmbedder(), sparse=WordBm25(), vectors=index, ledger=ledger, index_id="i"
    )  # type: ignore[arg-type]  # fmt: skip
    return [each.chunk.chunk_id for each in hits]


def dropped() -> float:
    return REGISTRY.get_sample_value("tidemark_hits_dropped_total") or 0.0


async def test_hits_are_in_order_and_at_most_the_limit() -> None:
    index, ledger = FakeIndex(points(30)), FakeLedger({f"c{n}" for n in range(30)})
    assert await chunk_ids(index, ledger, 5) == ["c0", "c1", "c2", "c3", "c4"]
    assert (index.limits, ledger.calls) == ([5 + OVERFETCH], 1)


async def test_hits_that_are_not_visible_in_the_ledger_are_dropped_and_counted() -> None:
    before = dropped()
    assert await chunk_ids(FakeIndex(points(3)), FakeLedger({"c0", "c2"}), 5) == ["c0", "c2"]
    assert dropped() - before == 1


async def test_many_drops_cause_one_more_search_and_not_a_third() -> None:
    index, ledger = FakeIndex(points(400)), FakeLedger({"c30", "c31"})
    assert await chunk_ids(index, ledger, 2) == ["c30", "c31"]
    assert index.limits == [2 + OVERFETCH, 4 * (2 + OVERFETCH)]
    garbage = FakeIndex(points(1000))
    assert await chunk_ids(garbage, FakeLedger(set()), 50) == []
    assert len(garbage.limits) == 2
    assert max(garbage.limits) <= MAX_FETCH


async def test_an_index_without_more_points_is_searched_once() -> None:
    index = FakeIndex(points(3))
    await chunk_ids(index, FakeLedger(set()), 5)
    assert len(index.limits) == 1


async def test_without_points_the_ledger_is_not_read() -> None:
    ledger = FakeLedger(set())
    assert await chunk_ids(FakeIndex([]), ledger, 5) == []
    assert ledger.calls == 0


def test_a_hit_is_the_inverse_of_a_payload() -> None:
    decoded = hit(ScoredPoint("c1", 0.5, PAYLOAD), ORIGIN)
    assert decoded is not None
    chunk = decoded.chunk
    assert (chunk.chunk_id, chunk.ordinal, chunk.text, chunk.start, chunk.end) == ("c1", 4, CHUNK.text, 10, 29)
    assert (chunk.section, chunk.tokens, chunk.page) == (CHUNK.section, 6, 3)
    assert (decoded.score, decoded.source, decoded.language, decoded.media_type) == (0.5, "s3", "en", "text/markdown")
    assert decoded.provenance is ORIGIN


@pytest.mark.parametrize(
    "change",
    [{"text": None}, {"text": ""}, {"text": 5}, {"start": -1}, {"start": "10"}, {"end": 30}, {"section": "Tides"},
     {"page": "3"}, {"ordinal": None}, {"document_id": "d2"}, {"tokens": -1}],
)  # fmt: skip
def test_a_malformed_point_is_not_a_hit(change: dict[str, Any]) -> None:
    assert hit(ScoredPoint("c1", 0.5, PAYLOAD | change), ORIGIN) is None


def test_an_empty_payload_is_not_a_hit() -> None:
    assert hit(ScoredPoint("c1", 0.5, {}), ORIGIN) is None


async def test_a_malformed_point_drops_only_itself() -> None:
    broken = [ScoredPoint("c0", 1.0, {}), *points(2)[1:]]
    assert await chunk_ids(FakeIndex(broken), FakeLedger({"c0", "c1"}), 5) == ["c1"]
