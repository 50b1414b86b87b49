"""Reports of the stream lane to Dagster's UI: one materialization per micro-batch, and the findings of its documents.

Reports wait in a bounded queue, so that a slow webserver delays no document.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

from rag.adapters.dagster import DagsterReports
from rag.errors import Unavailable
from rag.ingest.findings import Store, partition_findings
from rag.ingest.tasks import Report
from rag.models import IndexSpec, OffsetRange
from rag.ports import VectorIndex
from rag.telemetry import DEGRADED, logger

_log = logger(__name__)
ASSET = "vector_index"
WAITING = 1000  # micro-batches that wait to be reported; further ones are counted and not reported


@dataclass(frozen=True)
class LaneReports:
    """``Reports`` of the stream lane. ``run`` sends what ``applied`` has queued."""

    dagster: DagsterReports
    spec: IndexSpec
    store: Store
    vectors: VectorIndex
    _queue: asyncio.Queue[tuple[OffsetRange, Report, float]] = field(default_factory=lambda: asyncio.Queue(WAITING))

    async def applied(self, done: OffsetRange, report: Report, seconds: float) -> None:
        if self._queue.full():
            DEGRADED.labels("dagster").inc()
        else:
            self._queue.put_nowait((done, report, seconds))

    async def run(self) -> None:
        """Send reports until cancelled."""
        while True:
            done, report, seconds = await self._queue.get()
            await self.dagster.materialized(ASSET, done.partition, _metadata(done, report, seconds))
            try:
                await self._check(done, report)
            except Unavailable as error:
                _log.warning("stream.not_checked", why=str(error))

    async def _check(self, done: OffsetRange, report: Report) -> None:
        documents = [outcome.task.document_id for outcome in report.outcomes]
        for each in await partition_findings(self.spec, done.partition, self.store, self.vectors, documents=documents):
            await self.dagster.checked(ASSET, done.partition, each.name, each.passed, each.details)


@dataclass(frozen=True)
class NoReports:
    """The reports of a lane without a Dagster."""

    async def applied(self, done: OffsetRange, report: Report, seconds: float) -> None:
        return None


def _metadata(done: OffsetRange, report: Report, seconds: float) -> dict[str, float]:
    return {
        "documents": report.documents,
        "chunks": report.chunks,
        "written": report.written,
        "embedded": report.embedded,
        "dead": report.dead,
        "first offset": done.start,
        "end offset": done.end,
        "seconds": round(seconds, 3),
    }
