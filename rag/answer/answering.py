"""From a question to an answer: retrieve, rerank, generate, then check once more that the caller may still see its sources."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

from rag.answer import answer_cache, generation
from rag.answer.answer_cache import Entry
from rag.answer.reranking import rerank
from rag.answer.retrieval import Retrieved, retrieve
from rag.errors import Conflict
from rag.ids import Ids
from rag.models import AccessFilter, Answer, Hit
from rag.ports import AnswerCache, Embedder, Generator, Ledger, Reranker, SparseEncoder, VectorIndex
from rag.telemetry import ANSWERS, span

TOP_K = 8  # hits that an answer is made from, unless the caller asks for another number
MAX_TOP_K = 50  # hits that a caller may ask for
CANDIDATES = 50  # hits that a reranker chooses from
ATTEMPTS = 3  # documents may change while a model writes
TTL = 3600.0  # seconds that an answer is cached
DOCUMENTS_CHANGED = "the documents that the answer rests on changed while it was written: ask again"


@dataclass(frozen=True, slots=True)
class Found:
    """Hits, best first, and the seconds that each step took."""

    hits: Sequence[Hit]
    timings: dict[str, float]


@dataclass(frozen=True, slots=True)
class Answered:
    """An answer and the hits that it was made from. A cached answer comes without its hits."""

    answer: Answer
    hits: Sequence[Hit]
    is_cached: bool
    timings: dict[str, float]  # seconds by step


@dataclass(frozen=True)
class Answering:
    """Every part between a question and its answer. The gateway's routes and the evaluations call this one object, so that an
    evaluation measures the answers that callers get."""

    index_id: str
    ids: Ids
    embedder: Embedder
    sparse: SparseEncoder
    vectors: VectorIndex
    ledger: Ledger
    reranker: Reranker
    generator: Generator
    cache: AnswerCache
    ttl: float = TTL

    async def search(self, question: str, access: AccessFilter, *, top_k: int = TOP_K) -> Found:
        """Find the best ``top_k`` chunks that the caller may see now."""
        watch = Stopwatch()
        with watch.time("total"), span("answers.search", top_k=top_k):
            found = await self._find(question, access, top_k, watch)
        return Found(found.hits, watch.seconds)

    async def answer(self, question: str, access: AccessFilter, *, top_k: int = TOP_K) -> Answered:
        """Answer from the cache when the caller may still see every chunk behind the cached answer, else from new hits.

        Raises Conflict when the documents keep changing while the answer is written.
        """
        watch = Stopwatch()
        with watch.time("total"), span("answers.answer", top_k=top_k):
            key, cached = await self._cached(question, access, top_k, watch)
            if cached:
                return _counted(Answered(cached, (), True, watch.seconds))
            for _ in range(ATTEMPTS):
                found = await self._find(question, access, top_k, watch)
                with watch.time("generate"), span("answers.generate", hits=len(found.hits)):
                    answer = await generation.answer(question, found.hits, self.generator)
                if await self._store_if_visible(key, answer, found, access, watch):
                    return _counted(Answered(answer, found.hits, False, watch.seconds))
        raise Conflict(DOCUMENTS_CHANGED)

    async def stream(self, question: str, access: AccessFilter, *, top_k: int = TOP_K) -> AsyncIterator[str | Answered]:
        """Yield pieces of text as they are written, then the answer. The answer is what counts.

        Raises Conflict when the documents changed meanwhile. There is no second attempt, because the pieces are already sent.
        """
        watch = Stopwatch()
        with watch.time("total"), span("answers.answer", top_k=top_k):
            key, cached = await self._cached(question, access, top_k, watch)
            if cached:
                yield cached.text
                yield _counted(Answered(cached, (), True, watch.seconds))
                return
            found = await self._find(question, access, top_k, watch)
            with watch.time("generate"), span("answers.generate", hits=len(found.hits)):
                async for piece in generation.stream(question, found.hits, self.generator):
                    if isinstance(piece, str):
                        yield piece
                    else:
                        answer = piece
            if not await self._store_if_visible(key, answer, found, access, watch):
                raise Conflict(DOCUMENTS_CHANGED)
        yield _counted(Answered(answer, found.hits, False, watch.seconds))

    async def _find(self, question: str, access: AccessFilter, top_k: int, watch: Stopwatch) -> Retrieved:
        """Retrieve and rerank the best ``top_k`` hits."""
        with watch.time("retrieve"):
            found = await retrieve(
                question,
                access,
                limit=top_k if self.reranker.name == "none" else max(top_k, CANDIDATES),
                embedder=self.embedder,
                sparse=self.sparse,
                vectors=self.vectors,
                ledger=self.ledger,
                index_id=self.index_id,
            )
        with watch.time("rerank"), span("answers.rerank", hits=len(found.hits)):
            return replace(found, hits=(await rerank(question, found.hits, self.reranker, limit=top_k)).hits)

    async def _cached(
        self, question: str, access: AccessFilter, top_k: int, watch: Stopwatch
    ) -> tuple[str, Answer | None]:
        """Return the key of the answer, and the cached answer if the caller may see every chunk that it was made from."""
        with watch.time("cache"):
            revision = await self.ledger.index_revision(self.index_id, access.tenant)
            makers = (self.index_id, str(revision), self.generator.name, self.reranker.name)
            key = answer_cache.key(question, access, top_k, ids=self.ids, makers=makers)
            entry = await answer_cache.get(key, self.cache)
            return key, entry.answer if entry and await self._is_visible(entry.point_ids, access) else None

    async def _store_if_visible(
        self, key: str, answer: Answer, found: Retrieved, access: AccessFilter, watch: Stopwatch
    ) -> bool:
        """Store the answer, unless a chunk was erased or withdrawn while a model wrote for seconds. Return whether it stands.

        An abstention is stored only if the search saw every candidate.
        """
        point_ids = tuple(hit.point_id for hit in found.hits)
        with watch.time("cache"):
            if not await self._is_visible(point_ids, access):
                return False
            if found.is_complete or not answer.abstained:
                documents = sorted({hit.provenance.document_id for hit in found.hits})
                await answer_cache.put(key, Entry(answer, point_ids), self.cache, ttl=self.ttl, documents=documents)
        return True

    async def _is_visible(self, point_ids: Sequence[str], access: AccessFilter) -> bool:
        if not point_ids:
            return True
        return set(point_ids) <= (await self.ledger.visible(self.index_id, point_ids, access)).keys()


@dataclass(slots=True)
class Stopwatch:
    """Seconds by step. A step that runs twice adds up."""

    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def time(self, step: str) -> Iterator[None]:
        started = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[step] = round(self.seconds.get(step, 0.0) + time.perf_counter() - started, 6)


def _counted(answered: Answered) -> Answered:
    outcome = "cached" if answered.is_cached else "abstained" if answered.answer.abstained else "fresh"
    ANSWERS.labels(answered.answer.generator, outcome).inc()
    return answered
