"""A question's way to an answer: find, generate, and look once more whether all it rests on may still be seen."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from gateway import remembering
from rag.errors import Conflict, Unavailable
from rag.models import AccessFilter, Answer, Hit
from rag.retrieval import retrieve
from rag.telemetry import ANSWERS, RERANK_FALLBACKS, logger, span

if TYPE_CHECKING:
    from rag.wiring import Services

CANDIDATES = 50  # what a reranker chooses from; fused order just keeps the first of them
ATTEMPTS = 3  # documents may change while a model writes


@dataclass(frozen=True, slots=True)
class Answered:
    answer: Answer
    cached: bool
    timings: dict[str, float]  # seconds by step


@dataclass(slots=True)
class Stopwatch:
    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def time(self, step: str) -> Iterator[None]:
        started = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[step] = round(self.seconds.get(step, 0.0) + time.perf_counter() - started, 6)


async def find(question: str, access: AccessFilter, top_k: int, services: Services, watch: Stopwatch) -> list[Hit]:
    """The best ``top_k`` hits. A reranker that does not answer costs order, not the answer."""
    with watch.time("retrieve"):
        hits = await retrieve(
            question,
            access,
            limit=max(top_k, CANDIDATES),
            embedder=services.embedder,
            sparse=services.sparse,
            vectors=services.vectors,
            ledger=services.ledger,
            index_id=services.spec.index_id,
        )
    with watch.time("rerank"), span("answers.rerank", hits=len(hits)):
        try:
            return await services.reranker.rerank(question, hits, limit=top_k)
        except Unavailable as error:
            RERANK_FALLBACKS.inc()
            logger(__name__).warning("rerank_skipped", why=str(error))
            return hits[:top_k]


async def answer(question: str, access: AccessFilter, top_k: int, services: Services) -> Answered:
    """From the cache when all that the answer was made from is still visible to this caller, else made afresh.

    Raises Conflict when documents keep changing while the answer is written.
    """
    watch = Stopwatch()
    with watch.time("total"), span("answers.answer", top_k=top_k):
        with watch.time("cache"):
            key = await remembering.key_of(question, access, top_k, services)
            remembered = await remembering.recall(key, access, services)
        if remembered:
            made = Answered(remembered, True, watch.seconds)
        else:
            fresh, chunk_ids = await _fresh(question, access, top_k, services, watch)
            with watch.time("cache"):
                await remembering.remember(key, fresh, chunk_ids, services)
            made = Answered(fresh, False, watch.seconds)
    outcome = "cached" if made.cached else "abstained" if made.answer.abstained else "fresh"
    ANSWERS.labels(made.answer.generator, outcome).inc()
    return made


async def _fresh(
    question: str, access: AccessFilter, top_k: int, services: Services, watch: Stopwatch
) -> tuple[Answer, Sequence[str]]:
    for _ in range(ATTEMPTS):
        hits = await find(question, access, top_k, services, watch)
        with watch.time("generate"), span("answers.generate", hits=len(hits)):
            made = await services.generator.generate(question, hits)
        chunk_ids = [hit.chunk.chunk_id for hit in hits]
        # a model may write for seconds: what was erased or withdrawn meanwhile must not be told
        if await remembering.all_visible(chunk_ids, access, services):
            return made, chunk_ids
    raise Conflict("the documents that the answer rests on changed while it was written: ask again")
