"""Change events: from a changed object to an event of ``documents.changed.v1``, from events to indexing tasks, and from applied
tasks to the events that report them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from itertools import groupby
from uuid import UUID

from rag.errors import Rejected
from rag.ids import Ids
from rag.ingest.tasks import Outcome, Report
from rag.models import Batch, Cause, DocumentStatus, IndexingTask, OffsetRange
from rag.ports import EventLog, Ledger, Outbox, OutboxEvent, Record
from rag.sources import Source, Sources
from rag.telemetry import EVENTS_ANNOUNCED, span, trace_headers
from schemas.events import ChangeKind, DocumentChanged, DocumentDead, DocumentIndexed, IndexState
from schemas.topics import CHANGED, DEAD, INDEXED

REDRIVE = "redrive"  # origin of an event that has an object read again although nothing changed
_TRACE_CONTEXT = re.compile(r"00-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}")


@dataclass(frozen=True, slots=True)
class ObjectChange:
    """A hint that the object at the canonical ``uri`` changed or was deleted. The lane reads the source's current state."""

    uri: str
    occurred_at: datetime
    origin: str  # notification | listing | poll | upload | sampler | erasure | redrive
    is_deletion: bool = False
    version: str | None = None


# -- from a source to the log -------------------------------------------------------------------------------------------


async def publish_changes(
    changes: Sequence[ObjectChange], source: Source, ids: Ids, log: EventLog
) -> list[DocumentChanged]:
    """Publish one event per change, in order. The log has acknowledged all of them when this returns."""
    events = [_changed(change, source, ids) for change in changes]
    if events:
        with span("events.publish", events=len(events)):
            await log.publish(CHANGED, [(event.document_id, event) for event in events], headers=trace_headers())
    for change in changes:
        EVENTS_ANNOUNCED.labels(source.name, change.origin).inc()
    return events


def outbox_event(change: ObjectChange, source: Source, ids: Ids) -> OutboxEvent:
    """Return the event of a change that is recorded with its cause and published afterwards."""
    return _outbox(CHANGED, _changed(change, source, ids))


def _changed(change: ObjectChange, source: Source, ids: Ids) -> DocumentChanged:
    return DocumentChanged(
        document_id=ids.document_id(source.tenant, source.name, change.uri),
        tenant=source.tenant,
        source=source.name,
        uri=change.uri,
        kind=ChangeKind.DELETED if change.is_deletion else ChangeKind.CHANGED,
        version=change.version or None,  # some sources write an empty text where there is no version
        origin=change.origin,
        occurred_at=change.occurred_at,
        announced_at=datetime.now(UTC),
    )


# -- from the log to tasks ----------------------------------------------------------------------------------------------


async def collect(
    records: Sequence[Record],
    due: OffsetRange,
    *,
    index_id: str,
    ids: Ids,
    sources: Sources,
    ledger: Ledger,
    run_id: str = "",
) -> Batch:
    """Make one task per document, caused by its last event. A tombstone makes a task for the document that the ledger knows.

    A record that no task can be made of becomes a dead letter of the batch. It touches no document.
    """
    tasks: dict[str, IndexingTask] = {}
    dead_letters = []
    tombstones = {record.key: record for record in records if record.value is None and not record.error}
    known = await ledger.recorded(index_id, [key for key in tombstones if _is_id(key)])
    for record in records:
        cause = Cause(due.topic, due.epoch, due.partition, record.offset, run_id, _traceparent(record.headers))
        if record.error or not isinstance(record.value, DocumentChanged | None):
            dead_letters.append(_dead_letter(record, index_id, "undecodable"))
        elif record.value is None:
            row = known.get(record.key)
            if row and row.revision and record.key not in tasks:
                tasks[record.key] = IndexingTask(row.document_id, row.tenant, row.source, row.uri, row.revision, cause)
        else:
            try:
                task = _task(record, record.value, cause, ids, sources)
                must_reread = record.value.origin == REDRIVE or (record.key in tasks and tasks[record.key].must_reread)
                tasks[record.key] = replace(task, must_reread=must_reread)
            except Rejected as error:
                dead_letters.append(_dead_letter(record, index_id, error.reason))
    return Batch(index_id, due.partition, tuple(tasks.values()), due, tuple(dead_letters))


def _traceparent(headers: Mapping[str, str]) -> str:
    """Return the trace context of the headers, or an empty text unless it is a W3C one: a writer to the topic may send any header."""
    found = headers.get("traceparent", "")
    return found if _TRACE_CONTEXT.fullmatch(found) else ""


def _task(record: Record, event: DocumentChanged, cause: Cause, ids: Ids, sources: Sources) -> IndexingTask:
    """Return the task of an event. Raises Rejected for an event that names a document or an object outside its own source."""
    sources.owner(event.source, event.tenant, event.uri)
    if not record.key == event.document_id == ids.document_id(event.tenant, event.source, event.uri):
        raise Rejected("key, document id and uri of the event do not belong together", reason="foreign_id")
    cause = replace(cause, changed_at=event.occurred_at.timestamp())
    return IndexingTask(event.document_id, event.tenant, event.source, event.uri, 0, cause)


def _is_id(key: str) -> bool:
    try:
        return str(UUID(key)) == key
    except ValueError:
        return False


# -- from the index to the log ------------------------------------------------------------------------------------------


def outcome_events(report: Report, batch: Batch) -> list[OutboxEvent]:
    """Return the events that report every applied task. They are written in the transaction that applies the tasks."""
    now = datetime.now(UTC)
    events = [_outbox(INDEXED, _indexed(outcome, batch.index_id, now)) for outcome in report.outcomes]
    tasks = [outcome.task for outcome in report.outcomes if outcome.task.status is DocumentStatus.DEAD]
    return events + [_outbox(DEAD, _dead(task, batch.index_id, now)) for task in tasks]


def dead_letter_events(batch: Batch) -> list[OutboxEvent]:
    """Return the events that report the records of the batch's range that no task could be made of."""
    return [_outbox(DEAD, event) for event in batch.dead_letters]


async def publish_outbox(outbox: Outbox, log: EventLog) -> int:
    """Publish all recorded events in order, and return their number. A crash repeats events and loses none."""
    published = 0
    while True:
        async with outbox.unpublished() as events:
            for topic, run in groupby(events, key=lambda event: event.topic):
                with span("events.publish", topic=topic):
                    await log.publish(topic, [(event.key, event.value) for event in run])
        published += len(events)
        if not events:
            return published


def _outbox(topic: str, event: DocumentChanged | DocumentIndexed | DocumentDead) -> OutboxEvent:
    return OutboxEvent(topic, event.document_id, event)


def _indexed(outcome: Outcome, index_id: str, now: datetime) -> DocumentIndexed:
    task = outcome.task
    state = IndexState.LIVE if outcome.chunks else IndexState.DELETED  # of a parked or suppressed document
    if task.status not in {DocumentStatus.PARKED, DocumentStatus.SUPPRESSED}:
        state = IndexState(task.status.value)
    return DocumentIndexed(
        document_id=task.document_id,
        tenant=task.tenant,
        index_id=index_id,
        revision=outcome.revision,
        state=state,
        chunks=outcome.chunks,
        embedded=task.fresh,
        reused=max(0, outcome.chunks - task.fresh),
        epoch=task.cause.epoch,
        partition=task.cause.partition,
        offset=task.cause.offset,
        indexed_at=now,
    )


def _dead(task: IndexingTask, index_id: str, now: datetime) -> DocumentDead:
    return DocumentDead(
        document_id=task.document_id,
        tenant=task.tenant,
        index_id=index_id,
        topic=task.cause.topic,
        partition=task.cause.partition,
        offset=task.cause.offset,
        reason=task.reason,
        trace_id=task.cause.trace_id,
        failed_at=now,
    )


def _dead_letter(record: Record, index_id: str, reason: str) -> DocumentDead:
    return DocumentDead(
        document_id=record.key if _is_id(record.key) else "",
        tenant="",
        index_id=index_id,
        topic=record.topic,
        partition=record.partition,
        offset=record.offset,
        reason=reason,
        failed_at=datetime.now(UTC),
    )
