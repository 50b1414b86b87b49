from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest
from prometheus_client import REGISTRY

from governance.access import filter_for
from rag.adapters.memory.models import HashEmbedder, WordBm25
from rag.answer.retrieval import GROWTH, MAX_FETCH, OVERFETCH, Retrieved, hit, retrieve
from rag.ingest.indexing import desired, payload
from rag.models import (
    AccessFilter,
    Cause,
    Chunk,
    HybridQuery,
    IndexingTask,
    ParsedDocument,
    Provenance,
    RuledScopes,
    ScoredPoint,
)

ACCESS = filter_for(tenant="acme", subject="alice")
CAUSE = Cause("documents.changed.v1", "e1", 2, 17, "run-1")
CHUNK = Chunk("c1", 4, "High water at noon.", "Tides\nHigh water at noon.", 10, 29, ("Guide", "Tides"), 6, 3)
TASK = IndexingTask(
    "d1", "acme", "s3", "s3://b/a.md", 1, CAUSE, media_type="text/markdown", principals=("group:staff",)
)
PAYLOAD = payload(CHUNK, desired(TASK, 2, ParsedDocument("", (), "A title", "en", "text/markdown"), (CHUNK,)))
ORIGIN = Provenance("d1", 7, "s3://b/a.md", "A title", "v3", CAUSE, "c1", 4, 10, 29, 3, "s3", "en", "text/markdown")


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

    async def ruled_scopes(self, access: AccessFilter) -> RuledScopes:
        return RuledScopes()

    async def visible(self, index_id: str, point_ids: Sequence[str], access: AccessFilter) -> dict[str, Provenance]:
        self.calls += 1
        return {each: ORIGIN for each in point_ids if each in self.current}


def points(count: int) -> list[ScoredPoint]:
    return [ScoredPoint(f"c{n}", 1.0 / (n + 1), PAYLOAD) for n in range(count)]


async def point_ids(index: FakeIndex, ledger: FakeLedger, limit: int) -> list[str]:
    return [each.point_id for each in (await found(index, ledger, limit)).hits]


async def found(index: FakeIndex, ledger: FakeLedger, limit: int) -> Retrieved:
    return await retrieve(
        "noon?", ACCESS, limit=limit, embedder=HashEmbedder(), sparse=WordBm25(), vectors=index, ledger=ledger, index_id="i"
    )  # type: ignore[arg-type]  # fmt: skip


def dropped() -> float:
    return REGISTRY.get_sample_value("tidemark_hits_dropped_total") or 0.0


async def test_hits_are_in_order_and_at_most_the_limit() -> None:
    index, ledger = FakeIndex(points(30)), FakeLedger({f"c{n}" for n in range(30)})
    assert await point_ids(index, ledger, 5) == ["c0", "c1", "c2", "c3", "c4"]
    assert (index.limits, ledger.calls) == ([5 + OVERFETCH], 1)


async def test_hits_that_are_not_visible_in_the_ledger_are_dropped_and_counted() -> None:
    before = dropped()
    assert await point_ids(FakeIndex(points(3)), FakeLedger({"c0", "c2"}), 5) == ["c0", "c2"]
    assert dropped() - before == 1


async def test_invisible_points_never_starve_a_search() -> None:
    index = FakeIndex(points(1200))
    retrieved = await found(index, FakeLedger({"c1000", "c1001"}), 2)
    assert ([each.point_id for each in retrieved.hits], retrieved.is_complete) == (["c1000", "c1001"], True)
    first = 2 + OVERFETCH
    assert index.limits == [first, GROWTH * first, GROWTH**2 * first, GROWTH**3 * first, MAX_FETCH]


async def test_a_search_that_reaches_its_bound_is_marked_incomplete_and_counted() -> None:
    before = REGISTRY.get_sample_value("tidemark_retrieval_bound_total") or 0.0
    index = FakeIndex(points(MAX_FETCH + 1))
    retrieved = await found(index, FakeLedger({f"c{MAX_FETCH}"}), 2)
    assert (retrieved.hits, retrieved.is_complete, max(index.limits)) == ([], False, MAX_FETCH)
    assert REGISTRY.get_sample_value("tidemark_retrieval_bound_total") == before + 1


async def test_an_index_without_more_points_is_searched_once() -> None:
    index = FakeIndex(points(3))
    await point_ids(index, FakeLedger(set()), 5)
    assert len(index.limits) == 1


async def test_without_points_the_ledger_is_not_read() -> None:
    ledger = FakeLedger(set())
    assert await point_ids(FakeIndex([]), ledger, 5) == []
    assert ledger.calls == 0


def test_a_hit_is_the_inverse_of_a_payload() -> None:
    decoded = hit(ScoredPoint("c1", 0.5, PAYLOAD), ORIGIN)
    assert decoded is not None
    chunk = decoded.chunk
    assert (chunk.chunk_id, chunk.ordinal, chunk.text, chunk.start, chunk.end) == ("c1", 4, CHUNK.text, 10, 29)
    assert (chunk.section, chunk.page, decoded.score) == (CHUNK.section, 3, 0.5)
    assert decoded.provenance is ORIGIN


@pytest.mark.parametrize(
    "change",
    [{"text": None}, {"text": ""}, {"text": 5}, {"text": "Shorter."}, {"section": "Tides"}, {"document_id": "d2"}],
)
def test_a_malformed_point_is_not_a_hit(change: dict[str, Any]) -> None:
    assert hit(ScoredPoint("c1", 0.5, PAYLOAD | change), ORIGIN) is None


def test_an_empty_payload_is_not_a_hit() -> None:
    assert hit(ScoredPoint("c1", 0.5, {}), ORIGIN) is None


async def test_a_malformed_point_drops_only_itself() -> None:
    broken = [ScoredPoint("c0", 1.0, {}), *points(2)[1:]]
    assert await point_ids(FakeIndex(broken), FakeLedger({"c0", "c1"}), 5) == ["c1"]
