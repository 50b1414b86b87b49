"""Hybrid search in memory with the numbers of the vector index: dense and BM25 candidates, fused by reciprocal rank."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from rag.adapters.fusion import MIN_DEPTH, RRF_K
from rag.models import Vector
from rag.ports import SparseEncoder


class HybridIndex:
    """Texts by row. ``dense`` has one unit vector per text: (rows, dimensions)."""

    def __init__(self, texts: Sequence[str], dense: Vector, sparse: SparseEncoder) -> None:
        self._dense, self._sparse = dense, sparse
        self._postings: dict[int, list[tuple[int, float]]] = defaultdict(list)  # term → (row, weight)
        for row, vector in enumerate(sparse.encode(texts)):
            for term, weight in zip(vector.indices.tolist(), vector.values.tolist(), strict=True):
                self._postings[term].append((row, weight))

    def search(self, question: str, vector: Vector) -> list[tuple[int, float]]:
        """Return (row, score) of all candidates for a question and its dense vector, best first."""
        scores: dict[int, float] = defaultdict(float)
        for ranking in (np.argsort(-(self._dense @ vector))[:MIN_DEPTH].tolist(), self._rank_by_terms(question)):
            for rank, row in enumerate(ranking):
                scores[row] += 1 / (RRF_K + rank)
        return sorted(scores.items(), key=lambda scored: -scored[1])

    def _rank_by_terms(self, question: str) -> list[int]:
        scores: npt.NDArray[np.float64] = np.zeros(len(self._dense))
        query = self._sparse.encode_query(question)
        for term, weight in zip(query.indices.tolist(), query.values.tolist(), strict=True):
            postings = self._postings.get(term, [])
            idf = np.log(1 + (len(self._dense) - len(postings) + 0.5) / (len(postings) + 0.5))
            for row, value in postings:
                scores[row] += idf * value * weight
        return [row for row in np.argsort(-scores)[:MIN_DEPTH].tolist() if scores[row] > 0]
