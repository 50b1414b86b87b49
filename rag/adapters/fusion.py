"""Reciprocal rank fusion as in Qdrant, so that every adapter of the vector index ranks by the same numbers.

Cormack, Clarke, Büttcher, "Reciprocal Rank Fusion outperforms Condorcet", SIGIR 2009: score = Σ 1 / (k + rank), ranks from 0.
"""

from __future__ import annotations

from collections.abc import Sequence

RRF_K = 60  # from the paper; with Qdrant's default of 2, the first rank of one list outweighs agreement of both lists further down
MIN_DEPTH = 50


def depth(limit: int) -> int:
    """Return the number of candidates of each kind to rank for ``limit`` fused ones."""
    return max(MIN_DEPTH, 2 * limit)


def fuse(rankings: Sequence[Sequence[str]], limit: int) -> list[tuple[str, float]]:
    """Return the best ``limit`` ids with their scores, best first. Equal scores are in order of id."""
    scores: dict[str, float] = {}
    for ranking in rankings:
        for rank, chunk_id in enumerate(ranking):
            scores[chunk_id] = scores.get(chunk_id, 0.0) + 1 / (RRF_K + rank)
    return sorted(scores.items(), key=lambda scored: (-scored[1], scored[0]))[:limit]
