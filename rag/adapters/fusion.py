"""Reciprocal rank fusion as Qdrant does it: every adapter of the vector index ranks by the same numbers.

Cormack, Clarke, Büttcher, "Reciprocal Rank Fusion outperforms Condorcet", SIGIR 2009: score = Σ 1 / (k + rank), ranks from 0.
"""

from __future__ import annotations

from collections.abc import Sequence

RRF_K = 60  # the paper's; Qdrant's default of 2 lets the first rank of either list outvote agreement further down
MIN_DEPTH = 50


def depth(limit: int) -> int:
    """How many candidates of each kind are ranked to get ``limit`` fused ones."""
    return max(MIN_DEPTH, 2 * limit)


def fuse(rankings: Sequence[Sequence[str]], limit: int) -> list[tuple[str, float]]:
    """The best ``limit`` ids with their scores, best first; equals in order of id."""
    scores: dict[str, float] = {}
    for ranking in rankings:
        for rank, one in enumerate(ranking):
            scores[one] = scores.get(one, 0.0) + 1 / (RRF_K + rank)
    return sorted(scores.items(), key=lambda scored: (-scored[1], scored[0]))[:limit]
