"""A question's way to an answer: find, generate, and look once more whether all it rests on may still be seen."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from rag.answer import answer_cache as remembering
from rag.answer import generation
from rag.answer.reranking import rerank
from rag.answer.retrieval import retrieve
from rag.errors import Conflict
from rag.models import AccessFilter, Answer, Hit
from rag.telemetry import ANSWERS, span

if TYPE_CHECKING:
    from rag.wiring import Services

CANDIDATES = 50  # what a reranker chooses from
ATTEMPTS = 3  # documents may change while a model writes
CHANGED = "the documents that the answer rests on changed while it was written: ask again"


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
    """The best ``top_k`` hits, reranked."""
    with watch.time("retrieve"):
        hits = await retrieve(
            question,
            access,
            limit=top_k if services.reranker.name == "none" else max(top_k, CANDIDATES),
            embedder=services.embedder,
            sparse=services.sparse,
            vectors=services.vectors,
            ledger=services.ledger,
            index_id=services.spec.index_id,
        )
    with watch.time("rerank"), span("answers.rerank", hits=len(hits)):
        return (await rerank(question, hits, services.reranker, limit=top_k)).hits


async def answer(question: str, access: AccessFilter, top_k: int, services: Services) -> Answered:
    """From the cache when all that the answer was made from is still visible to this caller, else made afresh.

    Raises Conflict when documents keep changing while the answer is written.
    """
    watch = Stopwatch()
    with watch.time("total"), span("answers.answer", top_k=top_k):
        key, remembered = await _recall(question, access, top_k, services, watch)
        if remembered:
            return _counted(Answered(remembered, True, watch.seconds))
        for _ in range(ATTEMPTS):
            hits = await find(question, access, top_k, services, watch)
            with watch.time("generate"), span("answers.generate", hits=len(hits)):
                made = await generation.answer(question, hits, services.generator)
            if await _kept(key, made, hits, access, services, watch):
                return _counted(Answered(made, False, watch.seconds))
    raise Conflict(CHANGED)


async def stream(question: str, access: AccessFilter, top_k: int, services: Services) -> AsyncIterator[str | Answered]:
    """Pieces of text as they are written, then, last, the answer, which is what counts.

    Raises Conflict when documents changed meanwhile: what was said cannot be taken back, so there is no second try.
    """
    watch = Stopwatch()
    with watch.time("total"), span("answers.answer", top_k=top_k):
        key, remembered = await _recall(question, access, top_k, services, watch)
        if remembered:
            yield remembered.text
            yield _counted(Answered(remembered, True, watch.seconds))
            return
        hits = await find(question, access, top_k, services, watch)
        with watch.time("generate"), span("answers.generate", hits=len(hits)):
            async for piece in generation.stream(question, hits, services.generator):
                if isinstance(piece, str):
                    yield piece
                else:
                    made = piece
        if not await _kept(key, made, hits, access, services, watch):
            raise Conflict(CHANGED)
    yield _counted(Answered(made, False, watch.seconds))


async def _recall(
    question: str, access: AccessFilter, top_k: int, services: Services, watch: Stopwatch
) -> tuple[str, Answer | None]:
    with watch.time("cache"):
        key = await remembering.key_of(question, access, top_k, services)
        return key, await remembering.recall(key, access, services)


async def _kept(
    key: str, made: Answer, hits: Sequence[Hit], access: AccessFilter, services: Services, watch: Stopwatch
) -> bool:
    """Whether the answer still stands; then it is remembered. A model may write for seconds: what was erased or withdrawn
    meanwhile must not be told."""
    chunk_ids = [hit.chunk.chunk_id for hit in hits]
    with watch.time("cache"):
        if not await remembering.all_visible(chunk_ids, access, services):
            return False
        await remembering.remember(key, made, chunk_ids, services)
    return True


def _counted(made: Answered) -> Answered:
    outcome = "cached" if made.cached else "abstained" if made.answer.abstained else "fresh"
    ANSWERS.labels(made.answer.generator, outcome).inc()
    return made
