"""The fourth walk in memory, without the gates, which do not exist yet: the sample corpus is indexed and evaluated.

An evaluation must measure the answers that callers get. Therefore the same questions go through the gateway and must get the same
answers.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import cast

import pytest

from evals import offline
from evals.offline import CorpusObject, Offline
from evals.quality import QuestionResult, judge, run_question
from evals.questions import QuestionSet, gold_uri, load
from governance.access import filter_for
from rag.adapters.llms.extractive import ExtractiveGenerator
from rag.adapters.memory.models import HashEmbedder, WordBm25
from rag.models import Answer, DocumentStatus, ParsedDocument
from tests.fakes.gateway import gateway
from tests.fakes.world import Parsing, World

FOLDERS = ("engineering/", "handbook/", "products/", "support/")
FORMATS = (
    ".md",
    ".html",
    ".json",
)  # in-process parsers of text take milliseconds; tests/rag/ingest/parsing has the others
ACCESS = filter_for(tenant=offline.TENANT, subject="evals", groups=("staff",))


@dataclass(frozen=True)
class Evaluation:
    """An indexed part of the sample corpus, the questions about it, and their results."""

    backend: Offline
    question_set: QuestionSet
    results: list[QuestionResult]

    def corpus(self) -> dict[str, str]:
        ids = self.backend.pipeline.ids
        uris = map(uri, names(self.question_set))
        return {each: ids.document_id(offline.TENANT, offline.SOURCE, each) for each in uris}


def uri(name: str) -> str:
    return gold_uri(name, offline.BASE, "s3://none/rows")


def names(sample: QuestionSet) -> list[str]:
    return [name for name in sample.documents() if name.startswith(FOLDERS) and name.endswith(FORMATS)]


@pytest.fixture
async def evaluation() -> Evaluation:
    sample = load("sample")
    embedder = HashEmbedder(256)
    backend = offline.empty_index(embedder, embedder, WordBm25(), ExtractiveGenerator(embedder), parser=Parsing())
    objects = [CorpusObject(name, (sample.folder / name).read_bytes()) for name in names(sample)]
    assert await offline.index(objects, backend) >= 60
    question_set = sample.about(names(sample))
    results = [
        await run_question(question, [uri(name) for name in question.gold], ACCESS, backend, answers=True)
        for question in question_set.questions
    ]
    return Evaluation(backend, question_set, results)


async def test_an_evaluation_indexes_a_corpus_runs_its_questions_and_judges_the_results(evaluation: Evaluation) -> None:
    quality = await judge("sample", evaluation.results, evaluation.backend, evaluation.corpus())
    assert quality.answerable >= 15
    assert quality.unanswerable >= 10
    assert quality.unindexed == ()
    assert quality.retrieval.recall[10].mean >= 0.8
    assert quality.retrieval.recall[1].mean <= quality.retrieval.recall[5].mean <= quality.retrieval.recall[10].mean
    assert quality.citations
    assert (quality.citations.aligned, quality.citations.at_span) == (1, 1), "a citation is not verbatim in its source"
    assert quality.refused
    assert quality.lost
    assert quality.refused.mean > quality.lost.mean, "more answerable than unanswerable questions were refused"


async def test_the_evaluated_answers_are_the_ones_that_callers_of_the_gateway_get(evaluation: Evaluation) -> None:
    pipeline, answering = evaluation.backend.pipeline, evaluation.backend.answering
    world = cast("World", SimpleNamespace(
        sources=pipeline.reader.sources, objects=pipeline.reader.objects, log=evaluation.backend.lane.log,
        ledger=pipeline.ledger, vectors=pipeline.vectors, cache=answering.cache, pipeline=pipeline,
    ))  # fmt: skip
    answered = {True: 0, False: 0}
    async with gateway(world, answering) as door:
        for result in evaluation.results:
            body = await door.ask("evaluator", result.question.text)
            answer = cast("Answer", result.answer)
            assert body["answer"] == answer.text
            assert [each["quote"] for each in body["citations"]] == [each.quote for each in answer.citations]
            answered[answer.abstained] += 1
    assert min(answered.values()) > 0


async def test_the_loss_of_the_gold_documents_lowers_the_figures(evaluation: Evaluation) -> None:
    """A metric that cannot fall is useless: without its gold documents in the ranking, a question's recall is 0."""
    complete = await judge("sample", evaluation.results, evaluation.backend, evaluation.corpus())
    without_gold = [
        replace(each, ranked=tuple(u for u in each.ranked if u not in each.gold)) for each in evaluation.results
    ]
    degraded = await judge("sample", without_gold, evaluation.backend, evaluation.corpus())
    assert degraded.retrieval.recall[10].mean == 0 < complete.retrieval.recall[10].mean
    assert degraded.bm25 == complete.bm25


async def test_every_document_of_the_corpus_is_live(evaluation: Evaluation) -> None:
    corpus = evaluation.corpus()
    pipeline = evaluation.backend.pipeline
    recorded = await pipeline.ledger.recorded(pipeline.spec.index_id, list(corpus.values()))
    assert {record.status for record in recorded.values()} == {DocumentStatus.LIVE}
    document: ParsedDocument = await pipeline.artifacts.parsed(next(iter(recorded.values())).artifacts[0])
    assert document.text
