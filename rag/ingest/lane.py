"""The lane: change events of one partition into the index. The order of delivery is the order of the lines in ``run`` and ``derive``."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from rag.errors import Unavailable
from rag.ingest import change_events
from rag.ingest.pipeline import FindSuppressed, Pipeline
from rag.ingest.tasks import Report, backfill_task
from rag.models import Batch, OffsetRange
from rag.ports import EventLog, Outbox, Record
from rag.telemetry import logger, span

_log = logger(__name__)


@dataclass(frozen=True)
class Lane:
    """The steps of both lanes. The stream lane calls ``take``, and each Dagster asset calls the piece that it shows."""

    pipeline: Pipeline
    log: EventLog
    outbox: Outbox
    find_suppressed: FindSuppressed

    async def run(self, due: OffsetRange, *, run_id: str = "") -> Report:
        """Take one offset range from the log into the index. A crash at any step repeats the range and loses nothing."""
        records = await self.read(due)  # 1 read
        return await self.take(records, due, run_id=run_id)

    async def take(self, records: Sequence[Record], due: OffsetRange, *, run_id: str = "") -> Report:
        """Take records that were read into the index. The stream lane reads them as a member of its group."""
        batch = await self.collect(records, due, run_id=run_id)  # 2 collect
        return await self.derive(batch)

    async def derive(self, batch: Batch) -> Report:
        """Take a batch into the index: the tasks of an offset range, or a backfill, which has no position to advance."""
        parsed = await self.parse(batch)  # 3 parse
        chunked = await self.chunk(parsed)  # 4 chunk
        embedded = await self.embed(chunked)  # 5 embed
        # 6 index: plan and apply, window by window. The transaction of the last window also records
        # 7 the dead letters of the range, and
        # 8 advances the position (docs/decisions/0023).
        report = await self.index(embedded)
        await self.publish()  # 9 publish
        return report

    async def retry_parked(self, *, run_id: str = "", limit: int = 100) -> Report:
        """Read parked documents again whose next try is due, each by itself: an outage of one source does not hold up the others."""
        index_id, report = self.pipeline.spec.index_id, Report()
        for record in await self.pipeline.catalog.parked(index_id, due=datetime.now(UTC), limit=limit):
            try:
                report += await self.derive(Batch(index_id, record.partition, (backfill_task(record, run_id),)))
            except Unavailable as error:
                _log.warning("documents.still_parked", document_id=record.document_id, why=str(error))
        return report

    async def read(self, due: OffsetRange) -> list[Record]:
        """Read the records of the range. Raises LostEvents when the log no longer holds its start, Unavailable when the log ends
        before the range does."""
        return await self.log.read(due.topic, due.partition, due.start, due.end)

    async def collect(self, records: Sequence[Record], due: OffsetRange, *, run_id: str = "") -> Batch:
        """Make one task per document, and a dead letter of each record that no task can be made of."""
        pipeline = self.pipeline
        return await change_events.collect(
            records,
            due,
            index_id=pipeline.spec.index_id,
            ids=pipeline.ids,
            sources=pipeline.reader.sources,
            ledger=pipeline.ledger,
            run_id=run_id,
        )

    async def parse(self, batch: Batch) -> Batch:
        """Ask for admission, read the sources' current state, and parse changed objects."""
        with _trace(batch):
            return await self.pipeline.parse(batch, find_suppressed=self.find_suppressed)

    async def chunk(self, batch: Batch) -> Batch:
        with _trace(batch):
            return await self.pipeline.chunk(batch)

    async def embed(self, batch: Batch) -> Batch:
        with _trace(batch):
            return await self.pipeline.embed(batch)

    async def index(self, batch: Batch) -> Report:
        """Apply the batch window by window. The events that report a window are recorded with it; the last window moves the
        position."""
        with _trace(batch):
            return await self.pipeline.index(batch, find_suppressed=self.find_suppressed)

    async def publish(self) -> int:
        """Publish the recorded events, also those that a crash left, and return their number."""
        return await change_events.publish_outbox(self.outbox, self.log)


def _trace(batch: Batch) -> AbstractContextManager[Any]:
    """Continue the trace of the batch's first event. Each step may run in another process."""
    parent = {"traceparent": batch.traceparent} if batch.traceparent else None
    return span("documents.run", parent=parent, documents=len(batch.tasks))
