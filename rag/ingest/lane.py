"""The lane: change events of one partition into the index. The order of delivery is the order of the lines in ``run`` and ``derive``."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from typing import Any

from rag.ingest import change_events
from rag.ingest.change_events import Collected
from rag.ingest.pipeline import FindSuppressed, Pipeline
from rag.ingest.tasks import Report
from rag.models import Batch, OffsetRange
from rag.ports import EventLog, Positions, Record
from rag.telemetry import span
from schemas.events import DocumentDead


@dataclass(frozen=True)
class Lane:
    """The steps of both lanes. The stream lane and the tests call ``run``; each Dagster asset calls the piece that it shows."""

    pipeline: Pipeline
    log: EventLog
    positions: Positions
    find_suppressed: FindSuppressed

    async def run(self, due: OffsetRange, *, run_id: str = "") -> Report:
        """Take one offset range from the log into the index. A crash at any step repeats the range and loses nothing."""
        records = await self.read(due)  # 1 read
        collected = await self.collect(records, due, run_id=run_id)  # 2 collect
        await self.dead_letter(collected.dead_letters)  # 3 dead-letter
        return await self.derive(collected.batch)

    async def derive(self, batch: Batch) -> Report:
        """Take a batch into the index: the tasks of an offset range, or a backfill, which has no position to advance."""
        parsed = await self.parse(batch)  # 4 parse
        chunked = await self.chunk(parsed)  # 5 chunk
        embedded = await self.embed(chunked)  # 6 embed
        report = await self.index(embedded)  # 7 index, 8 publish: window by window
        await self.advance(batch)  # 9 advance
        return report

    async def read(self, due: OffsetRange) -> list[Record]:
        """Read the records of the range. Raises LostEvents when the log no longer holds its start."""
        return await self.log.read(due.topic, due.partition, due.start, due.end)

    async def collect(self, records: Sequence[Record], due: OffsetRange, *, run_id: str = "") -> Collected:
        """Make one task per document."""
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

    async def dead_letter(self, dead_letters: Sequence[DocumentDead]) -> None:
        """Publish the records that no task can be made of."""
        await change_events.publish_dead_letters(dead_letters, self.log)

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
        """Apply the batch window by window, and publish the outcome of a window before the next one starts: a later window that
        fails holds back no event of an earlier one."""
        publish = partial(change_events.publish_outcomes, index_id=batch.index_id, log=self.log)
        with _trace(batch):
            return await self.pipeline.index(batch, find_suppressed=self.find_suppressed, on_applied=publish)

    async def advance(self, batch: Batch) -> None:
        """Move the position to the end of the range. A backfill has no range and moves nothing."""
        if batch.range:
            await self.positions.advance(batch.index_id, batch.range)


def _trace(batch: Batch) -> AbstractContextManager[Any]:
    """Continue the trace of the batch's first event, in whichever process the step runs."""
    parent = {"traceparent": batch.traceparent} if batch.traceparent else None
    return span("documents.run", parent=parent, documents=len(batch.tasks))
