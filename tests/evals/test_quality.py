"""Questions over an index in memory that the pipeline built: every step real, the models small."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from evals import offline
from evals.metrics import estimate
from evals.offline import CorpusObject, Offline
from evals.quality import Asked, ask, evaluate, judge
from evals.questions import Question, QuestionSet, located
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
    """Cites the best hit's first sentence; abstains from football."""

    name = "first"

    async def generate(self, question: str, hits: Sequence[Hit]) -> Answer:
        if "football" in question:
            return abstention(self.name)
        passage: Passage = passages(hits[0].chunk)[0]
        return Answer(f"{passage.display} [1]", (cite(1, hits[0], passage),), self.name)


class InProcess:
    """Parser without the sandbox: the texts are this test's own."""

    async def parse(self, content: bytes, *, name: str, media_type: str | None = None) -> ParsedDocument:
        return parse(content, name=name, media_type=media_type)


@pytest.fixture
async def backend() -> Offline:
    embedder = HashEmbedder()
    made = offline.offline(embedder, embedder, WordBm25(), FirstSentence(), parser=InProcess())
    assert await offline.index([CorpusObject("pump.md", PUMP), CorpusObject("sensor.md", SENSOR)], made) == 2
    return made


def _set(*questions: Question) -> QuestionSet:
    return QuestionSet("own", Path(), questions)


def _uri(name: str) -> str:
    return located(name, offline.BASE, "s3://none/rows")


def _corpus(backend: Offline) -> dict[str, str]:
    ids = backend.pipeline.ids
    return {uri: ids.document_id(offline.TENANT, offline.SOURCE, uri) for uri in (_uri("pump.md"), _uri("sensor.md"))}


async def test_a_set_is_asked_and_judged_from_retrieval_to_citations(backend: Offline) -> None:
    found = await evaluate(_set(*QUESTIONS), _uri, ACCESS, backend, corpus=_corpus(backend))
    assert (found.answerable, found.unanswerable, found.unindexed) == (2, 1, ())
    assert found.retrieval.recall[1].mean == found.retrieval.mrr.mean == 1
    assert found.refused == estimate([1.0])
    assert found.lost == estimate([0.0, 0.0])
    assert found.citations
    assert (found.citations.n, found.citations.aligned, found.citations.at_span) == (2, 1, 1)
    assert set(found.by_kind) == {"lookup"}


async def test_who_may_see_nothing_finds_nothing(backend: Offline) -> None:
    stranger: AccessFilter = filter_for(tenant=offline.TENANT, subject="eve", groups=("others",))
    found = await evaluate(_set(*QUESTIONS), _uri, stranger, backend, corpus=_corpus(backend))
    assert found.retrieval.recall[10].mean == 0
    assert found.lost == estimate([1.0, 1.0])
    assert found.citations is None


async def test_gold_that_is_not_indexed_is_told_and_counts_as_a_miss(backend: Offline) -> None:
    asked_for = _set(QUESTIONS[0], Question("4", "What does the valve do?", ("valve.md",)))
    found = await evaluate(asked_for, _uri, ACCESS, backend, corpus=_corpus(backend))
    assert found.unindexed == (_uri("valve.md"),)
    assert found.retrieval.recall[10].mean == 0.5


async def test_a_citation_that_the_source_does_not_hold_is_found_out(backend: Offline) -> None:
    """Retrieval and generation might agree on a text that is not the document's: the parsed source is asked."""
    asked = await ask(QUESTIONS[0], [_uri("pump.md")], ACCESS, backend, answers=True)
    assert asked.answer
    (citation,) = asked.answer.citations
    forged = replace(citation, quote=citation.quote.replace("Tuesday", "Sundays"))
    moved = replace(citation, start=citation.start + 1, end=citation.end + 1)
    both = [Asked(asked.question, asked.gold, asked.ranked, asked.read, replace(asked.answer, citations=(each,)))
            for each in (forged, moved)]  # fmt: skip
    found = await judge("own", both, backend, _corpus(backend))
    assert found.citations
    assert (found.citations.aligned, found.citations.at_span) == (0.5, 0)


async def test_retrieval_alone_is_judged_without_answers(backend: Offline) -> None:
    found = await evaluate(_set(*QUESTIONS), _uri, ACCESS, backend, corpus=_corpus(backend), answers=False)
    assert (found.refused, found.lost, found.citations) == (None, None, None)


async def test_bm25_answers_the_same_questions_from_the_same_texts(backend: Offline) -> None:
    """Nothing is gained on questions that both answer, and all on one whose words no document has."""
    found = await evaluate(_set(*QUESTIONS), _uri, ACCESS, backend, corpus=_corpus(backend))
    assert found.bm25.mrr == estimate([1.0, 1.0])
    assert found.gain.mrr == estimate([0.0, 0.0])
    strange = _set(Question("5", "Workshop?", ("pump.md",)))
    assert (await evaluate(strange, _uri, ACCESS, backend, corpus=_corpus(backend))).bm25.mrr.mean == 0


async def test_gold_quotes_are_looked_for_in_the_chunks_that_are_read(backend: Offline) -> None:
    quotes = ("cleaned every Tuesday by the night shift", "cleaned every Friday")
    found = await evaluate(_set(replace(QUESTIONS[0], quotes=quotes)), _uri, ACCESS, backend, corpus=_corpus(backend))
    assert found.evidence == estimate([0.5])


async def test_a_set_without_answerable_questions_is_refused(backend: Offline) -> None:
    with pytest.raises(Rejected, match="nothing to retrieve"):
        await evaluate(_set(QUESTIONS[2]), _uri, ACCESS, backend, corpus=_corpus(backend))
