"""A question set through the functions of the gateway: what is found, what is answered, what is rightly not answered.

Only ``rag`` and ``governance`` functions are called between question and answer, the ones that the gateway calls, with the same
numbers of candidates and hits.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from evals.bm25 import Bm25
from evals.metrics import Estimate, distinct, estimate, ndcg_at, quote_alignment, recall_at, reciprocal_rank
from evals.questions import Question, QuestionSet
from rag import generation
from rag.models import AccessFilter, Answer, Citation, IndexSpec, ParsedDocument
from rag.pipeline import Pipeline
from rag.ports import Embedder, Generator, Ledger, Reranker, SparseEncoder, VectorIndex
from rag.reranking import rerank
from rag.retrieval import retrieve

CANDIDATES, TOP_K = 50, 8  # as the gateway's: chunks that are reranked, chunks that an answer is made from
CUTS = (1, 5, 10)


class Backend(Protocol):
    """What is asked: ``rag.wiring.Services``, or the same in memory."""

    @property
    def spec(self) -> IndexSpec: ...
    @property
    def embedder(self) -> Embedder: ...
    @property
    def sparse(self) -> SparseEncoder: ...
    @property
    def vectors(self) -> VectorIndex: ...
    @property
    def ledger(self) -> Ledger: ...
    @property
    def reranker(self) -> Reranker: ...
    @property
    def generator(self) -> Generator: ...
    @property
    def pipeline(self) -> Pipeline: ...


@dataclass(frozen=True, slots=True)
class Asked:
    """``ranked``: URIs of the documents of the ``CANDIDATES`` best chunks, each at its best chunk's place."""

    question: Question
    gold: tuple[str, ...]
    ranked: tuple[str, ...]
    answer: Answer | None = None


@dataclass(frozen=True, slots=True)
class Ranking:
    """Over answerable questions. ``recall``: cut-off → estimate."""

    recall: Mapping[int, Estimate]
    mrr: Estimate
    ndcg: Estimate  # at the last cut-off


@dataclass(frozen=True, slots=True)
class Citations:
    """Of all answers: how many quotes stand word for word in the source (ragas), and exactly at the span that is cited."""

    n: int
    aligned: float
    at_span: float


@dataclass(frozen=True, slots=True)
class Quality:
    """``refused`` and ``lost``: shares of unanswerable and of answerable questions that were answered by an abstention.

    ``unindexed``: gold documents that the index does not have; questions about them count, as misses.
    """

    dataset: str
    answerable: int
    unanswerable: int
    unindexed: tuple[str, ...]
    retrieval: Ranking
    refused: Estimate | None = None
    lost: Estimate | None = None
    citations: Citations | None = None
    by_kind: Mapping[str, Estimate] = field(default_factory=dict)  # kind of question → recall at the last cut-off


async def ask(
    question: Question, gold: Sequence[str], access: AccessFilter, backend: Backend, *, answers: bool
) -> Asked:
    """One question, as ``gateway.answering`` does it."""
    found = await retrieve(
        question.text,
        access,
        limit=CANDIDATES,
        embedder=backend.embedder,
        sparse=backend.sparse,
        vectors=backend.vectors,
        ledger=backend.ledger,
        index_id=backend.spec.index_id,
    )
    hits = (await rerank(question.text, found, backend.reranker, limit=CANDIDATES)).hits
    answer = await generation.answer(question.text, hits[:TOP_K], backend.generator) if answers else None
    return Asked(question, tuple(gold), tuple(distinct(hit.provenance.uri for hit in hits)), answer)


async def evaluate(
    asked_for: QuestionSet,
    locate: Callable[[str], str],
    access: AccessFilter,
    backend: Backend,
    *,
    indexed: Sequence[str],
    answers: bool = True,
    progress: Callable[[], None] = lambda: None,
) -> Quality:
    """Ask every question of the set. ``locate``: gold name → URI; ``indexed``: URIs that the index has."""
    asked = []
    for question in asked_for.questions:
        gold = [locate(name) for name in question.gold]
        asked.append(await ask(question, gold, access, backend, answers=answers))
        progress()
    wanted = {uri for each in asked for uri in each.gold}
    return await judge(asked_for.name, asked, backend, unindexed=sorted(wanted - set(indexed)))


async def judge(dataset: str, asked: Sequence[Asked], backend: Backend, *, unindexed: Sequence[str] = ()) -> Quality:
    good, bad = ([each for each in asked if bool(each.gold) is answerable] for answerable in (True, False))
    kinds = sorted({each.question.kind for each in good})
    return Quality(
        dataset,
        len(good),
        len(bad),
        tuple(unindexed),
        ranking([(each.ranked, each.gold) for each in good]),
        refused=_abstained(bad),
        lost=_abstained(good),
        citations=await _citations(asked, backend),
        by_kind={
            kind: estimate([recall_at(each.ranked, each.gold, CUTS[-1]) for each in good if each.question.kind == kind])
            for kind in kinds
        },
    )


def ranking(results: Sequence[tuple[Sequence[str], Sequence[str]]]) -> Ranking:
    """Of (ranked documents, gold documents) pairs, one for each answerable question."""
    return Ranking(
        {cut: estimate([recall_at(ranked, gold, cut) for ranked, gold in results]) for cut in CUTS},
        estimate([reciprocal_rank(ranked, gold) for ranked, gold in results]),
        estimate([ndcg_at(ranked, gold, CUTS[-1]) for ranked, gold in results]),
    )


def baseline(asked_for: QuestionSet, locate: Callable[[str], str], texts: Mapping[str, str]) -> Ranking:
    """Plain BM25 over whole documents (URI → text) on the same answerable questions."""
    bm25 = Bm25(texts)
    return ranking([
        (bm25.rank(each.text), [locate(name) for name in each.gold]) for each in asked_for.questions if each.gold
    ])  # fmt: skip


async def parsed_documents(document_ids: Sequence[str], backend: Backend) -> dict[str, ParsedDocument]:
    """document id → its text as it was parsed for the index; documents that are not live are missing."""
    recorded = await backend.ledger.recorded(backend.spec.index_id, document_ids)
    keys = {
        document_id: key
        for document_id, record in recorded.items()
        for key in record.artifacts
        if key.endswith("/parsed.json")
    }
    return {document_id: await backend.pipeline.artifacts.parsed(key) for document_id, key in keys.items()}


def _abstained(asked: Sequence[Asked]) -> Estimate | None:
    answers = [each.answer for each in asked if each.answer]
    return estimate([float(answer.abstained) for answer in answers]) if answers else None


async def _citations(asked: Sequence[Asked], backend: Backend) -> Citations | None:
    """Against the parsed source, which retrieval and generation did not look at."""
    citations: list[Citation] = [citation for each in asked if each.answer for citation in each.answer.citations]
    if not citations:
        return None
    parsed = await parsed_documents(sorted({each.document_id for each in citations}), backend)
    texts = {document_id: document.text for document_id, document in parsed.items()}
    aligned = [await quote_alignment([each.quote], texts.get(each.document_id, "")) for each in citations]
    at_span = [texts.get(each.document_id, "")[each.start : each.end] == each.quote != "" for each in citations]
    return Citations(len(citations), sum(aligned) / len(citations), sum(at_span) / len(citations))
