"""The parts of the Dagster lane's bench that work without a stack. No test measures time."""

from __future__ import annotations

from dataclasses import asdict, replace
from io import StringIO
from json import dumps
from pathlib import Path

import httpx
import pytest
from rich.console import Console

from evals import dagster_group, dagster_lane, embedder_alone, latency, report
from evals.dagster_lane import Figures, Indexing, Machine, rates
from evals.embedder_alone import EmbeddingFigures, measure_embedder
from evals.latency import Latencies, Latency
from evals.metrics import estimate
from evals.quality import CUTS, Citations, Quality, Ranking
from evals.questions import load
from rag.adapters.memory.models import HashEmbedder
from rag.errors import Unavailable
from rag.ingest.chunking import ChunkSettings

INDEXING = Indexing(
    documents=100, formats={"md": 60, "pdf": 40}, chunks=5100, embedded=5100, dead=0, runs=8, failed_runs=0, put=2.0, wall=120.0,
    working=100.0, waited_for_first=9.0, queued=1.0, start_up=6.0, start_up_longest=8.0, steps={"embeddings": 90.0},
)  # fmt: skip
EMBEDDING = EmbeddingFigures(chunks=5100, tokens=400_000, seconds=85.0, slowest_slice=58.0, fastest_slice=62.0)
PERFECT = Ranking({cut: estimate([1.0]) for cut in CUTS}, estimate([1.0]), estimate([1.0]))
CITATIONS = Citations(n=3, aligned=1.0, at_span=1.0)
FIGURES = Figures(
    small=False,
    machine=Machine(2, "cpu", "3.11", 0.0, 80.0, 82.0),
    indexing=INDEXING,
    embedding=EMBEDDING,
    rates=rates(INDEXING, EMBEDDING),
    latencies=Latencies(*(Latency(9, 0.01, 0.02, 0.03, cached) for cached in (0, 0, 0, 9))),
    quality=Quality("enterprise", 1, 0, (), PERFECT, PERFECT, PERFECT, lost=estimate([0.0]), citations=CITATIONS),
)


def test_the_ratio_compares_working_time_with_the_embedder_alone() -> None:
    computed = rates(INDEXING, EMBEDDING)
    assert computed.chunks_embedder == 60
    assert computed.chunks_working == 51
    assert computed.ratio == pytest.approx(0.85)
    assert computed.ratio_wall == pytest.approx(5100 / 120 / 60)


def test_cached_chunks_do_not_improve_the_ratio() -> None:
    assert rates(replace(INDEXING, embedded=2550), EMBEDDING).ratio == pytest.approx(0.425)


async def test_the_pace_of_the_machine_is_measured_on_the_same_texts_each_time(shared: Path) -> None:
    first, second = HashEmbedder(), HashEmbedder()
    assert min(await embedder_alone.embedder_pace(first), await embedder_alone.embedder_pace(second)) > 0
    assert first.embedded == second.embedded == 141 + 16


async def test_the_embedder_alone_embeds_every_text_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedder_alone, "SLICE", 4)
    embedder = HashEmbedder()
    embedding = await measure_embedder([f"text {number}" for number in range(10)], 20, embedder)
    assert embedding.chunks == 10
    assert embedder.embedded == 10 + 10  # the warm-up embeds the first 16, here all
    assert embedding.slowest_slice <= embedding.fastest_slice


def test_a_small_pass_has_only_questions_that_its_documents_answer() -> None:
    documents, question_set = dagster_lane.corpus(load("sample"), True, HashEmbedder(), ChunkSettings())
    names = {each.key.removeprefix("enterprise/") for each in documents}
    assert len(documents) == 40
    assert len({name.rsplit(".", 1)[-1] for name in names}) == 5
    assert 20 <= len(question_set.questions) <= 80
    assert all(set(each.gold) <= names for each in question_set.questions)


def _printed(figures: Figures) -> str:
    out = StringIO()
    report.dagster(figures, Console(file=out, width=200))
    return out.getvalue()


def test_the_report_shows_rates_limit_ratio_latency_and_quality_side_by_side() -> None:
    text = _printed(FIGURES)
    for expected in ("100 documents (60 md, 40 pdf), 5100 chunks", "51.00", "60.00", "0.85", "start-up 6.0 s", "plain BM25",
                  "answers, cached", "10.0"):  # fmt: skip
        assert expected in text
    assert not report.warnings(FIGURES)
    dumps(asdict(FIGURES))


@pytest.mark.parametrize(
    ("figures", "warning"),
    [
        (replace(FIGURES, small=True), "small pass"),
        (replace(FIGURES, indexing=replace(INDEXING, chunks=4000)), "only 4000 chunks"),
        (replace(FIGURES, indexing=replace(INDEXING, dead=2)), "2 documents could not be indexed"),
        (replace(FIGURES, indexing=replace(INDEXING, failed_runs=1)), "1 of 8 runs did not succeed"),
        (replace(FIGURES, indexing=replace(INDEXING, embedded=5000)), "100 chunks were not embedded but cached"),
        (replace(FIGURES, machine=replace(FIGURES.machine, load_before=1.0)), "busy before the start"),
        (replace(FIGURES, machine=replace(FIGURES.machine, pace_after=120.0)), "1.50 times as fast"),
        (replace(FIGURES, embedding=replace(EMBEDDING, fastest_slice=90.0)), "noisy"),
        (replace(FIGURES, latencies=replace(FIGURES.latencies, answers_cached=Latency(9, 1, 1, 1, 4))), "4 of the 9"),
    ],
)
def test_misleading_figures_cause_a_warning(figures: Figures, warning: str) -> None:
    assert any(warning in each for each in report.warnings(figures))
    assert warning in _printed(figures)


def test_a_refused_request_is_not_a_latency() -> None:
    client = httpx.Client(
        transport=httpx.MockTransport(lambda _: httpx.Response(429, text="slow down")), base_url="http://g.test"
    )
    with pytest.raises(Unavailable, match="429"):
        latency._answer(client, "why?")


def test_the_group_names_the_ratio_and_where_the_rest_goes() -> None:
    ratio, answers, recall = dagster_group.figures(FIGURES)
    assert ratio.value == pytest.approx(0.85)
    assert ratio.is_reached is False
    assert "embeddings 90" in ratio.note
    assert (answers.value, recall.value) == (10, 1)
