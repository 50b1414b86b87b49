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
            metadata = _metadata(done, report, seconds) | await self._findings(done, report)
            await self.dagster.materialized(ASSET, metadata, partition=done.partition)
            self._queue.task_done()

    async def _findings(self, done: OffsetRange, report: Report) -> dict[str, float | str]:
        """Run the functions of the asset's checks over the documents of the micro-batch.

        Their results are metadata, because Dagster stores one evaluation without a run per check and partition, and refuses the next.
        """
        documents = [outcome.task.document_id for outcome in report.outcomes]
        try:
            findings = await partition_findings(
                self.spec, done.partition, self.store, self.vectors, documents=documents
            )
        except Unavailable as error:
            return {"checks": f"not run: {error}"}
        failed = [each.name for each in findings if not each.passed]
        for each in findings:
            if not each.passed:
                _log.error("stream.check_failed", check=each.name, partition=done.partition, **each.details)
        return {"checks": f"failed: {', '.join(failed)}" if failed else f"{len(findings)} of {len(findings)} passed"}


@dataclass(frozen=True)
class NoReports:
    """The reports of a lane without a Dagster."""

    async def applied(self, done: OffsetRange, report: Report, seconds: float) -> None:
        return None


def _metadata(done: OffsetRange, report: Report, seconds: float) -> dict[str, float | str]:
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
