"""The fourth walk in memory, as far as it exists: the sample company is indexed, asked and judged. Gates come later.

An evaluation must measure the answers that callers get, so the same questions go through the gateway and must be answered the same.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import cast

import pytest

from evals import offline
from evals.offline import CorpusObject, Offline
from evals.quality import Asked, ask, judge
from evals.questions import QuestionSet, load, located
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
    """An indexed part of the sample company, the questions about it, and their answers."""

    backend: Offline
    asked_for: QuestionSet
    asked: list[Asked]

    def corpus(self) -> dict[str, str]:
        ids = self.backend.pipeline.ids
        return {uri(name): ids.document_id(offline.TENANT, offline.SOURCE, uri(name)) for name in names(self.asked_for)}


def uri(name: str) -> str:
    return located(name, offline.BASE, "s3://none/rows")


def names(sample: QuestionSet) -> list[str]:
    return [name for name in sample.documents() if name.startswith(FOLDERS) and name.endswith(FORMATS)]


@pytest.fixture
async def evaluation() -> Evaluation:
    sample = load("sample")
    embedder = HashEmbedder(256)
    backend = offline.offline(embedder, embedder, WordBm25(), ExtractiveGenerator(embedder), parser=Parsing())
    objects = [CorpusObject(name, (sample.folder / name).read_bytes()) for name in names(sample)]
    assert await offline.index(objects, backend) >= 60
    asked_for = sample.about(names(sample))
    asked = [
        await ask(question, [uri(name) for name in question.gold], ACCESS, backend, answers=True)
        for question in asked_for.questions
    ]
    return Evaluation(backend, asked_for, asked)


async def test_an_evaluation_indexes_asks_and_judges_a_company(evaluation: Evaluation) -> None:
    found = await judge("sample", evaluation.asked, evaluation.backend, evaluation.corpus())
    assert found.answerable >= 15
    assert found.unanswerable >= 10
    assert found.unindexed == ()
    assert found.retrieval.recall[10].mean >= 0.8
    assert found.retrieval.recall[1].mean <= found.retrieval.recall[5].mean <= found.retrieval.recall[10].mean
    assert found.citations
    assert (found.citations.aligned, found.citations.at_span) == (1, 1), "a citation is not verbatim in its source"
    assert found.refused
    assert found.lost
    assert found.refused.mean > found.lost.mean, "more answerable than unanswerable questions were refused"


async def test_the_evaluated_answers_are_the_ones_that_callers_of_the_gateway_get(evaluation: Evaluation) -> None:
    pipeline, answering = evaluation.backend.pipeline, evaluation.backend.answering
    world = cast("World", SimpleNamespace(
        sources=pipeline.reader.sources, objects=pipeline.reader.objects, log=evaluation.backend.lane.log,
        ledger=pipeline.ledger, vectors=pipeline.vectors, cache=answering.cache, pipeline=pipeline,
    ))  # fmt: skip
    answered = {True: 0, False: 0}
    async with gateway(world, answering) as door:
        for asked in evaluation.asked:
            body = await door.ask("evaluator", asked.question.text)
            answer = cast("Answer", asked.answer)
            assert body["answer"] == answer.text
            assert [each["quote"] for each in body["citations"]] == [each.quote for each in answer.citations]
            answered[answer.abstained] += 1
    assert min(answered.values()) > 0


async def test_a_pipeline_that_loses_text_is_seen_in_the_figures(evaluation: Evaluation) -> None:
    """Figures that cannot fall measure nothing: without its best document, a question's recall is zero."""
    good = await judge("sample", evaluation.asked, evaluation.backend, evaluation.corpus())
    worse = [replace(each, ranked=tuple(u for u in each.ranked if u not in each.gold)) for each in evaluation.asked]
    bad = await judge("sample", worse, evaluation.backend, evaluation.corpus())
    assert bad.retrieval.recall[10].mean == 0 < good.retrieval.recall[10].mean
    assert bad.bm25 == good.bm25


async def test_every_document_of_the_company_is_live(evaluation: Evaluation) -> None:
    corpus = evaluation.corpus()
    pipeline = evaluation.backend.pipeline
    recorded = await pipeline.ledger.recorded(pipeline.spec.index_id, list(corpus.values()))
    assert {record.status for record in recorded.values()} == {DocumentStatus.LIVE}
    document: ParsedDocument = await pipeline.artifacts.parsed(next(iter(recorded.values())).artifacts[0])
    assert document.text
