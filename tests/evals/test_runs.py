from __future__ import annotations

import httpx
import pytest

from evals import runs as module
from evals.runs import Run, Step, counted, parse, runs, step_seconds, union
from rag.errors import Unavailable

RESULT = {
    "runId": "r1",
    "status": "SUCCESS",
    "creationTime": 10.0,
    "stats": {"launchTime": 12.0, "endTime": 31.0},
    "stepStats": [
        {"stepKey": "parsed_documents", "status": "SUCCESS", "startTime": 15.0, "endTime": 20.0},
        {"stepKey": "embeddings", "status": "SUCCESS", "startTime": 20.5, "endTime": 30.0},
        {"stepKey": "vector_index", "status": "SKIPPED", "startTime": None, "endTime": None},
    ],
    "assetMaterializations": [
        {"assetKey": {"path": ["embeddings"]}, "metadataEntries": [
            {"label": "embedded", "intValue": 4}, {"label": "seconds", "floatValue": 9.5}, {"label": "note"}]},
        {"assetKey": {"path": ["embeddings"]}, "metadataEntries": [{"label": "embedded", "intValue": 3}]},
    ],
}  # fmt: skip


def test_a_run_began_with_its_first_step_and_ended_with_its_last() -> None:
    run = parse(RESULT)
    assert (run.created, run.launched, run.began, run.ended) == (10, 12, 15, 30)
    assert run.has_ended
    assert not parse({**RESULT, "status": "STARTED"}).has_ended
    assert run.metadata == {"embeddings": {"embedded": 7, "seconds": 9.5}}


def test_a_run_that_never_started_has_no_steps() -> None:
    run = parse({**RESULT, "status": "FAILURE", "stats": {}, "stepStats": [], "assetMaterializations": []})
    assert (run.launched, run.steps) == (10, ())


def test_runs_side_by_side_count_once_on_the_clock_and_twice_by_step() -> None:
    first = Run("a", "SUCCESS", 0, 0, (Step("embeddings", 1, 5),))
    second = Run("b", "SUCCESS", 0, 0, (Step("embeddings", 3, 8),))
    later = Run("c", "SUCCESS", 0, 0, (Step("chunks", 10, 11),), {"embeddings": {"embedded": 3}})
    done = [later, first, second]
    assert union((run.began, run.ended) for run in done) == 8
    assert step_seconds(done) == {"chunks": 1, "embeddings": 9}
    assert counted(done, "embeddings", "embedded") == 3


@pytest.mark.parametrize(
    ("spans", "length"),
    [([], 0), ([(1, 1)], 0), ([(0, 10), (2, 3)], 10), ([(0, 1), (1, 2)], 2), ([(5, 6), (0, 1)], 2)],
)
def test_a_union_counts_every_moment_once(spans: list[tuple[float, float]], length: float) -> None:
    assert union(spans) == length


def _answering(monkeypatch: pytest.MonkeyPatch, status: int, body: object) -> None:
    transport = httpx.MockTransport(lambda _: httpx.Response(status, json=body))
    original = httpx.AsyncClient
    monkeypatch.setattr(module.httpx, "AsyncClient", lambda **options: original(transport=transport, **options))


async def test_runs_come_oldest_first(monkeypatch: pytest.MonkeyPatch) -> None:
    results = [RESULT, {**RESULT, "runId": "r0", "creationTime": 5.0}]
    _answering(monkeypatch, 200, {"data": {"runsOrError": {"__typename": "Runs", "results": results}}})
    assert [run.run_id for run in await runs("http://dagster.test", 0)] == ["r0", "r1"]


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (500, {}),
        (200, {"errors": [{"message": "no such field"}]}),
        (200, {"data": {"runsOrError": {"__typename": "PythonError", "message": "the database is gone"}}}),
        (200, {"data": {"runsOrError": {"__typename": "Runs", "results": [RESULT] * module.MOST}}}),
    ],
)
async def test_timings_that_cannot_be_had_whole_are_refused(
    monkeypatch: pytest.MonkeyPatch, status: int, body: object
) -> None:
    _answering(monkeypatch, status, body)
    with pytest.raises(Unavailable):
        await runs("http://dagster.test", 0)
