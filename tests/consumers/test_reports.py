"""Reports of the stream lane, against a server that answers as Dagster's webserver does."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from prometheus_client import REGISTRY

from consumers.reports import WAITING, LaneReports
from rag.adapters.dagster import DagsterReports
from rag.ingest.tasks import Report
from rag.models import OffsetRange
from schemas.topics import CHANGED
from tests.fakes.world import SPEC, World


class Webserver:
    """The API of Dagster's webserver for external assets."""

    def __init__(self) -> None:
        self.received: list[tuple[str, dict[str, Any]]] = []
        self.status = 200

    def answer(self, request: httpx.Request) -> httpx.Response:
        self.received.append((request.url.path, json.loads(request.content)))
        return httpx.Response(self.status, json={})


@pytest.fixture
def webserver() -> Webserver:
    return Webserver()


@pytest.fixture
async def dagster(webserver: Webserver) -> AsyncIterator[DagsterReports]:
    transport = httpx.MockTransport(webserver.answer)
    async with httpx.AsyncClient(base_url="http://dagster.test", transport=transport) as client:
        yield DagsterReports(client)


@pytest.fixture
async def reports(dagster: DagsterReports) -> LaneReports:
    world = World()
    await world.put("a.md")
    await world.run_lane()
    return LaneReports(dagster, SPEC, world.ledger, world.vectors)


async def sent(reports: LaneReports) -> None:
    """Send until every queued report is sent."""
    sender = asyncio.create_task(reports.run())
    await asyncio.wait_for(reports._queue.join(), 5)
    sender.cancel()
    await asyncio.gather(sender, return_exceptions=True)


def degraded() -> float:
    return REGISTRY.get_sample_value("tidemark_degraded_total", {"part": "dagster"}) or 0.0


DONE = OffsetRange(CHANGED, "e", 3, 10, 14)


async def test_a_micro_batch_is_one_materialization_with_its_offsets_and_checks(
    reports: LaneReports, webserver: Webserver
) -> None:
    await reports.applied(DONE, Report(documents=2, chunks=5, written=3, embedded=1, dead=1), 0.1234)
    await sent(reports)
    ((path, body),) = webserver.received
    assert path == "/report_asset_materialization/vector_index"
    assert body["partition"] == "3"
    assert body["metadata"] == {
        "documents": 2, "chunks": 5, "written": 3, "embedded": 1, "dead": 1, "first offset": 10, "end offset": 14,
        "seconds": 0.123, "checks": "4 of 4 passed",
    }  # fmt: skip


async def test_a_webserver_that_refuses_costs_the_report_and_nothing_else(
    reports: LaneReports, webserver: Webserver
) -> None:
    before, webserver.status = degraded(), 500
    await reports.applied(DONE, Report(), 0.1)
    await sent(reports)
    assert degraded() == before + 1


async def test_the_queue_of_waiting_reports_is_bounded(reports: LaneReports) -> None:
    before = degraded()
    for _ in range(WAITING + 3):
        await reports.applied(DONE, Report(), 0.1)
    assert degraded() == before + 3
