"""The quality of hits, answers and abstentions for a question set, from the object that answers the gateway's callers.

``run_question`` calls ``rag.answer.answering.Answering`` as the routes ``/v1/search`` and ``/v1/answers`` do.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

from evals.bm25 import Bm25
from evals.metrics import Estimate, distinct, estimate, ndcg_at, quote_alignment, recall_at, reciprocal_rank
from evals.questions import Question, QuestionSet
from rag.adapters.memory.cache import NoAnswerCache
from rag.answer.answering import MAX_TOP_K, TOP_K, Answering
from rag.errors import Rejected
from rag.ingest.pipeline import Pipeline
from rag.models import AccessFilter, Answer, Citation, ParsedDocument

CUTS = (1, 5, 10)


class Backend(Protocol):
    """The part of ``rag.wiring.Services`` that a question set needs, on a stack or in memory."""

    @property
    def answering(self) -> Answering: ...
    @property
    def pipeline(self) -> Pipeline: ...


@dataclass(frozen=True, slots=True)
class QuestionResult:
    """The hits and the answer for one question.

    ``gold`` and ``ranked`` contain URIs of documents. ``ranked`` has the documents of the ``MAX_TOP_K`` best chunks, each at the rank of
    its best chunk. ``contexts`` are the texts of the chunks that the generator reads.
    """

    question: Question
    gold: tuple[str, ...]
    ranked: tuple[str, ...]
    contexts: tuple[str, ...] = ()
    answer: Answer | None = None


@dataclass(frozen=True, slots=True)
class Ranking:
    """Metrics of a ranking over the answerable questions. ``recall`` maps each cut-off to its estimate."""

    recall: Mapping[int, Estimate]
    mrr: Estimate
    ndcg: Estimate  # at the last cut-off


@dataclass(frozen=True, slots=True)
class Citations:
    """Shares of the quotes of all answers that are verbatim in the source (ragas), and exactly at the cited span."""

    n: int
    aligned: float
    at_span: float


@dataclass(frozen=True, slots=True)
class Quality:
    """The quality measured on a question set.

    ``bm25`` has the metrics of plain BM25 over whole documents. ``gain`` estimates the differences per question: the two rankings
    differ if an interval excludes 0. ``evidence`` is the share of the gold quotes that are in the chunks that the generator reads.
    ``refused`` and ``lost`` are the shares of unanswerable and of answerable questions with an abstention as the answer.
    ``unindexed`` has the gold documents that are not in the index; questions about them count as misses.
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


async def run_question(
    question: Question, gold: Sequence[str], access: AccessFilter, backend: Backend, *, answers: bool
) -> QuestionResult:
    """Search and answer as for a caller, but without the answer cache, because the hits of an answer are evaluated too."""
    answering = replace(backend.answering, cache=NoAnswerCache())
    found = await answering.search(question.text, access, top_k=MAX_TOP_K)
    answered = await answering.answer(question.text, access) if answers else None
    context_hits = answered.hits if answered else found.hits[:TOP_K]
    ranked = tuple(distinct(hit.provenance.uri for hit in found.hits))
    contexts = tuple(hit.chunk.text for hit in context_hits)
    return QuestionResult(question, tuple(gold), ranked, contexts, answered.answer if answered else None)


async def evaluate(
    question_set: QuestionSet,
    locate: Callable[[str], str],
    access: AccessFilter,
    backend: Backend,
    *,
    corpus: Mapping[str, str],
    answers: bool = True,
    progress: Callable[[], None] = lambda: None,
) -> Quality:
    """Run and judge every question of the set.

    ``locate`` maps a gold name to its URI. ``corpus`` maps URI to document id for those documents of the set that are in the index;
    BM25 ranks the same documents.
    """
    results = []
    for question in question_set.questions:
        gold = [locate(name) for name in question.gold]
        results.append(await run_question(question, gold, access, backend, answers=answers))
        progress()
    return await judge(question_set.name, results, backend, corpus)


async def judge(
    dataset: str, results: Sequence[QuestionResult], backend: Backend, corpus: Mapping[str, str]
) -> Quality:
    """Compute the quality from the results. ``corpus`` is as in ``evaluate``."""
    answerable, unanswerable = ([each for each in results if bool(each.gold) is has_gold] for has_gold in (True, False))
    kinds = sorted({each.question.kind for each in answerable})
    names = {document_id: uri for uri, document_id in corpus.items()}
    parsed = await parsed_documents(sorted(names), backend)
    bm25 = Bm25({names[document_id]: f"{each.title}\n{each.text}" for document_id, each in parsed.items()})
    hybrid = [scores(each.ranked, each.gold) for each in answerable]
    baseline = [scores(bm25.rank(each.question.text), each.gold) for each in answerable]
    gains = [{name: own[name] - base[name] for name in own} for own, base in zip(hybrid, baseline, strict=True)]
    return Quality(
        dataset,
        len(answerable),
        len(unanswerable),
        tuple(sorted({uri for each in answerable for uri in each.gold} - corpus.keys())),
        ranking(hybrid),
        ranking(baseline),
        ranking(gains),
        evidence=await _evidence(answerable),
        refused=_abstention_share(unanswerable),
        lost=_abstention_share(answerable),
        citations=await _citations(results, parsed, backend),
        by_kind={
            kind: estimate(
                [recall_at(each.ranked, each.gold, CUTS[-1]) for each in answerable if each.question.kind == kind]
            )
            for kind in kinds
        },
    )


def scores(ranked: Sequence[str], gold: Sequence[str]) -> dict[str, float]:
    """Return the scores of one question by metric."""
    recalls = {f"recall@{cut}": recall_at(ranked, gold, cut) for cut in CUTS}
    return {**recalls, "mrr": reciprocal_rank(ranked, gold), "ndcg": ndcg_at(ranked, gold, CUTS[-1])}


def ranking(questions: Sequence[Mapping[str, float]]) -> Ranking:
    """Estimate each metric from the scores of the answerable questions."""
    estimates = {name: estimate([each[name] for each in questions]) for name in questions[0]} if questions else {}
    if not estimates:
        raise Rejected("no question of the set has a gold document: nothing to retrieve", reason="bad_dataset")
    return Ranking({cut: estimates[f"recall@{cut}"] for cut in CUTS}, estimates["mrr"], estimates["ndcg"])


async def parsed_documents(document_ids: Sequence[str], backend: Backend) -> dict[str, ParsedDocument]:
    """Return document id → the document as it was parsed for the index. Documents that are not live are missing."""
    records = await backend.pipeline.ledger.recorded(backend.pipeline.spec.index_id, document_ids)
    keys = {
        document_id: key
        for document_id, record in records.items()
        for key in record.artifacts
        if key.endswith("/parsed.json")
    }
    return {document_id: await backend.pipeline.artifacts.parsed(key) for document_id, key in keys.items()}


def _abstention_share(results: Sequence[QuestionResult]) -> Estimate | None:
    answers = [each.answer for each in results if each.answer]
    return estimate([float(answer.abstained) for answer in answers]) if answers else None


async def _evidence(results: Sequence[QuestionResult]) -> Estimate | None:
    with_quotes = [each for each in results if each.question.quotes]
    shares = [await quote_alignment(each.question.quotes, "\n".join(each.contexts)) for each in with_quotes]
    return estimate(shares) if shares else None


async def _citations(
    results: Sequence[QuestionResult], parsed: Mapping[str, ParsedDocument], backend: Backend
) -> Citations | None:
    """Check citations against the parsed source, which retrieval and generation do not read."""
    citations: list[Citation] = [citation for each in results if each.answer for citation in each.answer.citations]
    if not citations:
        return None
    others = sorted({each.document_id for each in citations} - parsed.keys())
    sources = {**parsed, **await parsed_documents(others, backend)}
    texts = {document_id: document.text for document_id, document in sources.items()}
    aligned = [await quote_alignment([each.quote], texts.get(each.document_id, "")) for each in citations]
    at_span = [texts.get(each.document_id, "")[each.start : each.end] == each.quote != "" for each in citations]
    return Citations(len(citations), sum(aligned) / len(citations), sum(at_span) / len(citations))
