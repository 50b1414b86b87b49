from __future__ import annotations

import httpx
import pytest

from evals import runs as module
from evals.runs import DagsterRun, RunStep, covered_seconds, fetch_runs, metadata_total, parse, step_seconds
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


def test_concurrent_runs_count_once_in_wall_clock_time_and_twice_by_step() -> None:
    first = DagsterRun("a", "SUCCESS", 0, 0, (RunStep("embeddings", 1, 5),))
    second = DagsterRun("b", "SUCCESS", 0, 0, (RunStep("embeddings", 3, 8),))
    later = DagsterRun("c", "SUCCESS", 0, 0, (RunStep("chunks", 10, 11),), {"embeddings": {"embedded": 3}})
    runs = [later, first, second]
    assert covered_seconds((run.began, run.ended) for run in runs) == 8
    assert step_seconds(runs) == {"chunks": 1, "embeddings": 9}
    assert metadata_total(runs, "embeddings", "embedded") == 3


@pytest.mark.parametrize(
    ("spans", "length"),
    [([], 0), ([(1, 1)], 0), ([(0, 10), (2, 3)], 10), ([(0, 1), (1, 2)], 2), ([(5, 6), (0, 1)], 2)],
)
def test_overlapping_spans_count_once(spans: list[tuple[float, float]], length: float) -> None:
    assert covered_seconds(spans) == length


def _mock_dagster(monkeypatch: pytest.MonkeyPatch, status: int, body: object) -> None:
    transport = httpx.MockTransport(lambda _: httpx.Response(status, json=body))
    original = httpx.AsyncClient
    monkeypatch.setattr(httpx, "AsyncClient", lambda **options: original(transport=transport, **options))


async def test_runs_are_sorted_oldest_first(monkeypatch: pytest.MonkeyPatch) -> None:
    results = [RESULT, {**RESULT, "runId": "r0", "creationTime": 5.0}]
    _mock_dagster(monkeypatch, 200, {"data": {"runsOrError": {"__typename": "Runs", "results": results}}})
    assert [run.run_id for run in await fetch_runs("http://dagster.test", 0)] == ["r0", "r1"]


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (500, {}),
        (200, {"errors": [{"message": "no such field"}]}),
        (200, {"data": {"runsOrError": {"__typename": "PythonError", "message": "the database is gone"}}}),
        (200, {"data": {"runsOrError": {"__typename": "Runs", "results": [RESULT] * module.MAX_RUNS}}}),
    ],
)
async def test_incomplete_timings_are_refused(monkeypatch: pytest.MonkeyPatch, status: int, body: object) -> None:
    _mock_dagster(monkeypatch, status, body)
    with pytest.raises(Unavailable):
        await fetch_runs("http://dagster.test", 0)
