"""A question set through the object that answers the gateway's callers: hits, answers and abstentions, judged.

``ask`` calls ``rag.answer.answering.Answering`` as the routes ``/v1/search`` and ``/v1/answers`` do.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

from evals.bm25 import Bm25
from evals.metrics import Estimate, distinct, estimate, ndcg_at, quote_alignment, recall_at, reciprocal_rank
from evals.questions import Question, QuestionSet
from rag.adapters.memory.cache import NoAnswerCache
from rag.answer.answering import TOP_K, Answering
from rag.errors import Rejected
from rag.ingest.pipeline import Pipeline
from rag.models import AccessFilter, Answer, Citation, ParsedDocument

DEPTH = 50  # hits that are ranked: the most that a caller of /v1/search may ask for
CUTS = (1, 5, 10)


class Backend(Protocol):
    """The part of ``rag.wiring.Services`` that a question set needs, on a stack or in memory."""

    @property
    def answering(self) -> Answering: ...
    @property
    def pipeline(self) -> Pipeline: ...


@dataclass(frozen=True, slots=True)
class Asked:
    """``ranked``: URIs of the documents of the ``DEPTH`` best chunks, each at its best chunk's place; ``read``: the texts of the chunks
    that an answer is made from."""

    question: Question
    gold: tuple[str, ...]
    ranked: tuple[str, ...]
    read: tuple[str, ...] = ()
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
    """``bm25``: the same for plain BM25 over whole documents; ``gain``: how much better retrieval is, question by question, so that an
    interval without 0 tells the two apart.

    ``evidence``: share of the gold quotes that stand in the chunks that an answer is made from. ``refused`` and ``lost``: shares of
    unanswerable and of answerable questions that were answered by an abstention.
    ``unindexed``: gold documents that the index does not have; questions about them count, as misses.
    """

    dataset: str
    answerable: int
    unanswerable: int
    unindexed: tuple[str, ...]
    retrieval: Ranking
    bm25: Ranking
    gain: Ranking
    evidence: Estimate | None = None
    refused: Estimate | None = None
    lost: Estimate | None = None
    citations: Citations | None = None
    by_kind: Mapping[str, Estimate] = field(default_factory=dict)  # kind of question → recall at the last cut-off


async def ask(
    question: Question, gold: Sequence[str], access: AccessFilter, backend: Backend, *, answers: bool
) -> Asked:
    """Ask one question as a caller would, without the answer cache: the hits behind an answer are judged as well."""
    answering = replace(backend.answering, cache=NoAnswerCache())
    found = await answering.search(question.text, access, top_k=DEPTH)
    answered = await answering.answer(question.text, access) if answers else None
    read = answered.hits if answered else found.hits[:TOP_K]
    ranked = tuple(distinct(hit.provenance.uri for hit in found.hits))
    texts = tuple(hit.chunk.text for hit in read)
    return Asked(question, tuple(gold), ranked, texts, answered.answer if answered else None)


async def evaluate(
    asked_for: QuestionSet,
    locate: Callable[[str], str],
    access: AccessFilter,
    backend: Backend,
    *,
    corpus: Mapping[str, str],
    answers: bool = True,
    progress: Callable[[], None] = lambda: None,
) -> Quality:
    """Ask every question of the set. ``locate``: gold name → URI; ``corpus``: URI → document id of what the index has of the set's
    documents, which is also what BM25 ranks."""
    asked = []
    for question in asked_for.questions:
        gold = [locate(name) for name in question.gold]
        asked.append(await ask(question, gold, access, backend, answers=answers))
        progress()
    return await judge(asked_for.name, asked, backend, corpus)


async def judge(dataset: str, asked: Sequence[Asked], backend: Backend, corpus: Mapping[str, str]) -> Quality:
    good, bad = ([each for each in asked if bool(each.gold) is answerable] for answerable in (True, False))
    kinds = sorted({each.question.kind for each in good})
    names = {document_id: uri for uri, document_id in corpus.items()}
    parsed = await parsed_documents(sorted(names), backend)
    bm25 = Bm25({names[document_id]: f"{each.title}\n{each.text}" for document_id, each in parsed.items()})
    hybrid = [scores(each.ranked, each.gold) for each in good]
    plain = [scores(bm25.rank(each.question.text), each.gold) for each in good]
    return Quality(
        dataset,
        len(good),
        len(bad),
        tuple(sorted({uri for each in good for uri in each.gold} - corpus.keys())),
        ranking(hybrid),
        ranking(plain),
        ranking([{name: mine[name] - its[name] for name in mine} for mine, its in zip(hybrid, plain, strict=True)]),
        evidence=await _evidence(good),
        refused=_abstained(bad),
        lost=_abstained(good),
        citations=await _citations(asked, parsed, backend),
        by_kind={
            kind: estimate([recall_at(each.ranked, each.gold, CUTS[-1]) for each in good if each.question.kind == kind])
            for kind in kinds
        },
    )


def scores(ranked: Sequence[str], gold: Sequence[str]) -> dict[str, float]:
    """Of one question."""
    recalls = {f"recall@{cut}": recall_at(ranked, gold, cut) for cut in CUTS}
    return {**recalls, "mrr": reciprocal_rank(ranked, gold), "ndcg": ndcg_at(ranked, gold, CUTS[-1])}


def ranking(questions: Sequence[Mapping[str, float]]) -> Ranking:
    """Of the scores of answerable questions."""
    found = {name: estimate([each[name] for each in questions]) for name in questions[0]} if questions else {}
    if not found:
        raise Rejected("no question of the set has a gold document: nothing to retrieve", reason="bad_dataset")
    return Ranking({cut: found[f"recall@{cut}"] for cut in CUTS}, found["mrr"], found["ndcg"])


async def parsed_documents(document_ids: Sequence[str], backend: Backend) -> dict[str, ParsedDocument]:
    """document id → its text as it was parsed for the index; documents that are not live are missing."""
    recorded = await backend.pipeline.ledger.recorded(backend.pipeline.spec.index_id, document_ids)
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


async def _evidence(asked: Sequence[Asked]) -> Estimate | None:
    quoted = [each for each in asked if each.question.quotes]
    shares = [await quote_alignment(each.question.quotes, "\n".join(each.read)) for each in quoted]
    return estimate(shares) if shares else None


async def _citations(
    asked: Sequence[Asked], parsed: Mapping[str, ParsedDocument], backend: Backend
) -> Citations | None:
    """Against the parsed source, which retrieval and generation did not look at."""
    citations: list[Citation] = [citation for each in asked if each.answer for citation in each.answer.citations]
    if not citations:
        return None
    others = sorted({each.document_id for each in citations} - parsed.keys())
    sources = {**parsed, **await parsed_documents(others, backend)}
    texts = {document_id: document.text for document_id, document in sources.items()}
    aligned = [await quote_alignment([each.quote], texts.get(each.document_id, "")) for each in citations]
    at_span = [texts.get(each.document_id, "")[each.start : each.end] == each.quote != "" for each in citations]
    return Citations(len(citations), sum(aligned) / len(citations), sum(at_span) / len(citations))
