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
WORK = IndexingTask(
    "d1", "acme", "s3", "s3://b/a.md", 1, CAUSE, media_type="text/markdown", principals=("group:staff",)
)
PAYLOAD = payload(CHUNK, desired(WORK, 2, ParsedDocument("", (), "A title", "en", "text/markdown"), (CHUNK,)))
ORIGIN = Provenance("d1", 7, "s3://b/a.md", "A title", "v3", CAUSE)


@dataclass
class Index:
    points: Sequence[ScoredPoint]
    asked: list[int] = field(default_factory=list)

    async def search(self, index_id: str, query: HybridQuery, access: AccessFilter, *, limit: int) -> list[ScoredPoint]:
        self.asked.append(limit)
        return list(self.points[:limit])


@dataclass
class Judge:
    current: set[str]
    asked: int = 0

    async def visible(self, index_id: str, chunk_ids: Sequence[str], access: AccessFilter) -> dict[str, Provenance]:
        self.asked += 1
        return {each: ORIGIN for each in chunk_ids if each in self.current}


def points(count: int) -> list[ScoredPoint]:
    return [ScoredPoint(f"c{n}", 1.0 / (n + 1), PAYLOAD) for n in range(count)]


async def find(index: Index, judge: Judge, limit: int) -> list[str]:
    found = await retrieve(
        "noon?", ACCESS, limit=limit, embedder=HashEmbedder(), sparse=WordBm25(), vectors=index, ledger=judge, index_id="i"
    )  # type: ignore[arg-type]  # fmt: skip
    return [each.chunk.chunk_id for each in found]


def dropped() -> float:
    return REGISTRY.get_sample_value("tidemark_hits_dropped_total") or 0.0


async def test_hits_come_in_order_and_no_more_than_asked_for() -> None:
    index, judge = Index(points(30)), Judge({f"c{n}" for n in range(30)})
    assert await find(index, judge, 5) == ["c0", "c1", "c2", "c3", "c4"]
    assert (index.asked, judge.asked) == ([5 + OVERFETCH], 1)


async def test_what_the_ledger_does_not_vouch_for_is_dropped_and_counted() -> None:
    before = dropped()
    assert await find(Index(points(3)), Judge({"c0", "c2"}), 5) == ["c0", "c2"]
    assert dropped() - before == 1


async def test_many_drops_cost_one_more_search_and_no_third() -> None:
    index, judge = Index(points(400)), Judge({"c30", "c31"})
    assert await find(index, judge, 2) == ["c30", "c31"]
    assert index.asked == [2 + OVERFETCH, 4 * (2 + OVERFETCH)]
    nothing = Index(points(1000))
    assert await find(nothing, Judge(set()), 50) == []
    assert len(nothing.asked) == 2
    assert max(nothing.asked) <= MAX_FETCH


async def test_an_index_that_has_no_more_is_not_asked_again() -> None:
    index = Index(points(3))
    await find(index, Judge(set()), 5)
    assert len(index.asked) == 1


async def test_nothing_found_asks_the_ledger_nothing() -> None:
    judge = Judge(set())
    assert await find(Index([]), judge, 5) == []
    assert judge.asked == 0


def test_a_hit_is_the_inverse_of_a_payload() -> None:
    found = hit(ScoredPoint("c1", 0.5, PAYLOAD), ORIGIN)
    assert found is not None
    chunk = found.chunk
    assert (chunk.chunk_id, chunk.ordinal, chunk.text, chunk.start, chunk.end) == ("c1", 4, CHUNK.text, 10, 29)
    assert (chunk.section, chunk.tokens, chunk.page) == (CHUNK.section, 6, 3)
    assert (found.score, found.source, found.language, found.media_type) == (0.5, "s3", "en", "text/markdown")
    assert found.provenance is ORIGIN


@pytest.mark.parametrize(
    "change",
    [{"text": None}, {"text": ""}, {"text": 5}, {"start": -1}, {"start": "10"}, {"end": 30}, {"section": "Tides"},
     {"page": "3"}, {"ordinal": None}, {"document_id": "d2"}, {"tokens": -1}],
)  # fmt: skip
def test_a_malformed_point_is_no_hit(change: dict[str, Any]) -> None:
    assert hit(ScoredPoint("c1", 0.5, PAYLOAD | change), ORIGIN) is None


def test_an_empty_payload_is_no_hit() -> None:
    assert hit(ScoredPoint("c1", 0.5, {}), ORIGIN) is None


async def test_a_malformed_point_costs_itself_only() -> None:
    broken = [ScoredPoint("c0", 1.0, {}), *points(2)[1:]]
    assert await find(Index(broken), Judge({"c0", "c1"}), 5) == ["c1"]
