"""Reranking: sort hits by how well they answer the question."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rag.errors import Unavailable
from rag.models import Hit
from rag.ports import Reranker
from rag.telemetry import RERANK_FALLBACKS, logger


@dataclass(frozen=True, slots=True)
class Reranked:
    """The best hits. ``fell_back`` means that the reranker did not answer, so the hits are in the order of retrieval."""

    hits: list[Hit]
    fell_back: bool = False


async def rerank(question: str, hits: Sequence[Hit], reranker: Reranker, *, limit: int) -> Reranked:
    """Return the best ``limit`` hits. If the reranker is unavailable, keep the order of retrieval instead of failing."""
    if not hits:
        return Reranked([])
    try:
        return Reranked(await reranker.rerank(question, hits, limit=limit))
    except Unavailable as error:
        RERANK_FALLBACKS.inc()
        logger(__name__).warning("rerank_skipped", reranker=reranker.name, why=str(error))
        return Reranked(list(hits[:limit]), fell_back=True)
