"""Vector index in memory. A search compares all points."""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection, Sequence
from copy import deepcopy

import numpy as np

from rag.adapters.fusion import depth, fuse
from rag.errors import Conflict, Unavailable
from rag.models import AccessFilter, HybridQuery, IndexSpec, Payload, Point, ScoredPoint, SparseVector


class MemoryVectors:
    """VectorIndex of ``rag.ports``. ``aliases`` shows which index is live."""

    def __init__(self) -> None:
        self._specs: dict[str, IndexSpec] = {}
        self._points: dict[str, dict[str, Point]] = {}
        self.aliases: dict[str, str] = {}

    async def create(self, spec: IndexSpec) -> None:
        existing = self._specs.setdefault(spec.index_id, spec)
        if existing.dimensions != spec.dimensions:
            raise Conflict(f"index {spec.index_id} has {existing.dimensions} dimensions, not {spec.dimensions}")
        self._points.setdefault(spec.index_id, {})
        self.aliases.setdefault("documents", spec.collection)

    async def exists(self, index_id: str) -> bool:
        return index_id in self._points

    async def upsert(self, index_id: str, points: Sequence[Point]) -> None:
        stored = self._of(index_id)
        shape = (self._specs[index_id].dimensions,)
        for point in points:
            if point.embedding.dense.shape != shape:
                raise ValueError(f"vector of shape {point.embedding.dense.shape} in an index of {shape}")
        stored.update((point.point_id, deepcopy(point)) for point in points)

    async def delete(self, index_id: str, point_ids: Sequence[str]) -> None:
        stored = self._of(index_id)
        for point_id in point_ids:
            stored.pop(point_id, None)

    async def search(self, index_id: str, query: HybridQuery, access: AccessFilter, *, limit: int) -> list[ScoredPoint]:
        stored = self._of(index_id)
        weights = _idf(query.sparse, stored.values())
        allowed = [point for point in stored.values() if _is_allowed(point.payload, access)]
        dense = {point.point_id: _cosine(query, point) for point in allowed}
        sparse = {point.point_id: score for point in allowed if (score := _bm25(weights, point)) is not None}
        rankings = [_best(scores, depth(limit)) for scores in (dense, sparse)]
        return [
            ScoredPoint(point_id, score, deepcopy(stored[point_id].payload))
            for point_id, score in fuse(rankings, limit)
        ]

    async def purge(self, index_id: str) -> None:
        self._of(index_id)

    async def scroll(
        self, index_id: str, *, partition: int | None = None, documents: Sequence[str] | None = None, start: str = ""
    ) -> AsyncIterator[tuple[str, str]]:
        for point_id, point in sorted(self._of(index_id).items()):
            in_partition = partition is None or point.payload.get("partition") == partition
            if (
                point_id >= start
                and in_partition
                and (documents is None or point.payload.get("document_id") in documents)
            ):
                yield point_id, point.payload.get("payload_hash", "")

    async def retrieve(self, index_id: str, point_ids: Sequence[str]) -> list[Point]:
        stored = self._of(index_id)
        return [deepcopy(stored[point_id]) for point_id in dict.fromkeys(point_ids) if point_id in stored]

    async def count(self, index_id: str, *, partition: int | None = None) -> int:
        return sum([1 async for _ in self.scroll(index_id, partition=partition)])

    def _of(self, index_id: str) -> dict[str, Point]:
        if index_id not in self._points:
            raise Unavailable(f"index {index_id} is not built: run create() first")
        return self._points[index_id]


def _is_allowed(payload: Payload, access: AccessFilter) -> bool:
    principals, scopes = set(payload.get("principals", ())), set(payload.get("scopes", ()))
    return (
        payload.get("tenant") == access.tenant
        and not (principals.isdisjoint(access.principals) and scopes.isdisjoint(access.ruled.granted))
        and scopes.isdisjoint(access.ruled.revoked)
        and all(payload.get(name) in values for name, values in access.narrow.items())
    )


def _cosine(query: HybridQuery, point: Point) -> float:
    dense = point.embedding.dense
    length = float(np.linalg.norm(query.dense) * np.linalg.norm(dense))
    return float(query.dense @ dense) / length if length else 0.0


def _idf(query: SparseVector, points: Collection[Point]) -> dict[int, float]:
    """Return query weights times inverse document frequency over the whole index: ln(1 + (n - df + ½) / (df + ½)), as in Qdrant."""
    terms = [set(point.embedding.sparse.indices.tolist()) for point in points]
    weights = dict(zip(query.indices.tolist(), query.values.tolist(), strict=True))
    frequencies = {term: sum(term in each for each in terms) for term in weights}
    return {
        term: weight * float(np.log(1 + (len(points) - frequencies[term] + 0.5) / (frequencies[term] + 0.5)))
        for term, weight in weights.items()
    }


def _bm25(weights: dict[int, float], point: Point) -> float | None:
    """Return the score, or None when the point has no term of the query: then it is not a candidate."""
    pairs = zip(point.embedding.sparse.indices.tolist(), point.embedding.sparse.values.tolist(), strict=True)
    shared = [weights[term] * value for term, value in pairs if term in weights]
    return sum(shared) if shared else None


def _best(scores: dict[str, float], count: int) -> list[str]:
    return sorted(scores, key=lambda point_id: (-scores[point_id], point_id))[:count]
