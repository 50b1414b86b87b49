"""The evaluation of questions on an index in memory. Every step is real, and the models are small."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from evals import offline
from evals.metrics import estimate
from evals.offline import CorpusObject, Offline
from evals.quality import QuestionResult, evaluate, judge, run_question
from evals.questions import Question, QuestionSet, gold_uri
from governance.access import filter_for
from rag.adapters.memory.models import HashEmbedder, WordBm25
from rag.answer.generation import abstention, cite
from rag.answer.passages import Passage, passages
from rag.errors import Rejected
from rag.ingest.parsing import parse
from rag.models import AccessFilter, Answer, Hit, ParsedDocument

PUMP = b"# Pump\n\nThe pump of station nine is cleaned every Tuesday by the night shift.\n"
SENSOR = b"# Sensor\n\nA drifting sensor is sent to the workshop in Brno with form twelve.\n"
ACCESS = filter_for(tenant=offline.TENANT, subject="evals", groups=("staff",))
QUESTIONS = (
    Question("1", "When is the pump of station nine cleaned?", ("pump.md",), "lookup"),
    Question("2", "Where is a drifting sensor sent?", ("sensor.md",), "lookup"),
    Question("3", "Who won the football match?", ()),
)


class FirstSentence:
    """A generator that cites the first sentence of the best hit and abstains from questions about football."""

    name = "first"

    async def generate(self, question: str, hits: Sequence[Hit]) -> Answer:
        if "football" in question:
            return abstention(self.name)
        passage: Passage = passages(hits[0].chunk)[0]
        return Answer(f"{passage.display} [1]", (cite(1, hits[0], passage),), self.name)


class InProcess:
    """A parser without a sandbox, because the texts are the test's own."""

    async def parse(
        self, content: bytes, *, name: str, media_type: str | None = None, compartment: str = ""
    ) -> ParsedDocument:
        return parse(content, name=name, media_type=media_type)


@pytest.fixture
async def backend() -> Offline:
    embedder = HashEmbedder()
    index = offline.empty_index(embedder, embedder, WordBm25(), FirstSentence(), parser=InProcess())
    assert await offline.index([CorpusObject("pump.md", PUMP), CorpusObject("sensor.md", SENSOR)], index) == 2
    return index


def _set(*questions: Question) -> QuestionSet:
    return QuestionSet("own", Path(), questions)


def _uri(name: str) -> str:
    return gold_uri(name, offline.BASE, "s3://none/rows")


def _corpus(backend: Offline) -> dict[str, str]:
    ids = backend.pipeline.ids
    return {uri: ids.document_id(offline.TENANT, offline.SOURCE, uri) for uri in (_uri("pump.md"), _uri("sensor.md"))}


async def test_a_set_is_evaluated_from_retrieval_to_citations(backend: Offline) -> None:
    measured = await evaluate(_set(*QUESTIONS), _uri, ACCESS, backend, corpus=_corpus(backend))
    assert (measured.answerable, measured.unanswerable, measured.unindexed) == (2, 1, ())
    assert measured.retrieval.recall[1].mean == measured.retrieval.mrr.mean == 1
    assert measured.refused == estimate([1.0])
    assert measured.lost == estimate([0.0, 0.0])
    assert measured.citations
    assert (measured.citations.n, measured.citations.aligned, measured.citations.at_span) == (2, 1, 1)
    assert set(measured.by_kind) == {"lookup"}


async def test_a_caller_without_access_finds_nothing(backend: Offline) -> None:
    stranger: AccessFilter = filter_for(tenant=offline.TENANT, subject="eve", groups=("others",))
    measured = await evaluate(_set(*QUESTIONS), _uri, stranger, backend, corpus=_corpus(backend))
    assert measured.retrieval.recall[10].mean == 0
    assert measured.lost == estimate([1.0, 1.0])
    assert measured.citations is None


async def test_gold_that_is_not_indexed_is_reported_and_counts_as_a_miss(backend: Offline) -> None:
    question_set = _set(QUESTIONS[0], Question("4", "What does the valve do?", ("valve.md",)))
    measured = await evaluate(question_set, _uri, ACCESS, backend, corpus=_corpus(backend))
    assert measured.unindexed == (_uri("valve.md"),)
    assert measured.retrieval.recall[10].mean == 0.5


async def test_a_quote_that_is_not_in_the_source_is_not_aligned(backend: Offline) -> None:
    """The parsed source is the reference, because retrieval and generation might agree on a wrong text."""
    result = await run_question(QUESTIONS[0], [_uri("pump.md")], ACCESS, backend, answers=True)
    assert result.answer
    (citation,) = result.answer.citations
    forged = replace(citation, quote=citation.quote.replace("Tuesday", "Sundays"))
    moved = replace(citation, start=citation.start + 1, end=citation.end + 1)
    results: list[QuestionResult] = [
        replace(result, answer=replace(result.answer, citations=(wrong,))) for wrong in (forged, moved)
    ]
    measured = await judge("own", results, backend, _corpus(backend))
    assert measured.citations
    assert (measured.citations.aligned, measured.citations.at_span) == (0.5, 0)


async def test_retrieval_alone_is_judged_without_answers(backend: Offline) -> None:
    measured = await evaluate(_set(*QUESTIONS), _uri, ACCESS, backend, corpus=_corpus(backend), answers=False)
    assert (measured.refused, measured.lost, measured.citations) == (None, None, None)


async def test_bm25_answers_the_same_questions_from_the_same_texts(backend: Offline) -> None:
    """The gain is 0 on questions that both answer. BM25 misses a question whose words are not in the gold document."""
    measured = await evaluate(_set(*QUESTIONS), _uri, ACCESS, backend, corpus=_corpus(backend))
    assert measured.bm25.mrr == estimate([1.0, 1.0])
    assert measured.gain.mrr == estimate([0.0, 0.0])
    missed = _set(Question("5", "Workshop?", ("pump.md",)))
    assert (await evaluate(missed, _uri, ACCESS, backend, corpus=_corpus(backend))).bm25.mrr.mean == 0


async def test_gold_quotes_are_searched_in_the_chunks_that_the_generator_reads(backend: Offline) -> None:
    quotes = ("cleaned every Tuesday by the night shift", "cleaned every Friday")
    measured = await evaluate(
        _set(replace(QUESTIONS[0], quotes=quotes)), _uri, ACCESS, backend, corpus=_corpus(backend)
    )
    assert measured.evidence == estimate([0.5])


async def test_a_set_without_answerable_questions_is_refused(backend: Offline) -> None:
    with pytest.raises(Rejected, match="nothing to retrieve"):
        await evaluate(_set(QUESTIONS[2]), _uri, ACCESS, backend, corpus=_corpus(backend))
