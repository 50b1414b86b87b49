"""From records of ``documents.changed.v1`` to work, and from work done to the events that tell of it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from uuid import UUID

from rag.errors import Rejected
from rag.ids import Ids
from rag.ingest.tasks import Report
from rag.models import Batch, Cause, DocumentStatus, OffsetRange, Work
from rag.ports import EventLog, Ledger, Record
from rag.sources import Sources
from rag.telemetry import FRESHNESS_SECONDS, span
from schemas.events import DocumentChanged, DocumentDead, DocumentIndexed, IndexState

_TRACE_CONTEXT = re.compile(r"00-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}")
CHANGED, INDEXED, DEAD = "documents.changed.v1", "documents.indexed.v1", "documents.dead.v1"


@dataclass(frozen=True, slots=True)
class Arrived:
    """``batch`` has one work per document, ``unusable`` tells of the records that no work can be made of."""

    batch: Batch
    unusable: tuple[DocumentDead, ...]


async def collect(
    records: Sequence[Record],
    done: OffsetRange,
    *,
    index_id: str,
    ids: Ids,
    sources: Sources,
    ledger: Ledger,
    run_id: str = "",
) -> Arrived:
    """One work per document: its last event is the cause. Tombstones ask for the document that the ledger knows."""
    works: dict[str, Work] = {}
    unusable = []
    tombstones = {record.key: record for record in records if record.value is None and not record.error}
    known = await ledger.recorded(index_id, [key for key in tombstones if _is_id(key)])
    for record in records:
        cause = Cause(done.topic, done.epoch, done.partition, record.offset, run_id, _traceparent(record.headers))
        if record.error or not isinstance(record.value, DocumentChanged | None):
            unusable.append(_unusable(record, index_id, "undecodable"))
        elif record.value is None:
            row = known.get(record.key)
            if row and row.revision and record.key not in works:
                works[record.key] = Work(row.document_id, row.tenant, row.source, row.uri, row.revision, cause)
        else:
            try:
                works[record.key] = _work(record, record.value, cause, ids, sources)
            except Rejected as error:
                unusable.append(_unusable(record, index_id, error.reason))
    return Arrived(Batch(index_id, done.partition, tuple(works.values()), done), tuple(unusable))


async def refuse(unusable: Sequence[DocumentDead], events: EventLog) -> None:
    """Send the records that no work can be made of to the dead letters. No document is touched by them."""
    if unusable:
        await events.publish(DEAD, [(event.document_id, event) for event in unusable])


async def announce(report: Report, batch: Batch, events: EventLog) -> None:
    """Tell what became of the batch. Before the position moves: a crash repeats the news rather than losing them."""
    now = datetime.now(UTC)
    indexed, died = [], []
    for work, chunks, revision in report.works:
        indexed.append((work.document_id, _indexed(work, chunks, revision, batch.index_id, now)))
        if work.status is DocumentStatus.DEAD:
            died.append((work.document_id, _dead(work, batch.index_id, now)))
        if work.cause.changed_at and work.status is DocumentStatus.LIVE:
            FRESHNESS_SECONDS.observe(max(0.0, now.timestamp() - work.cause.changed_at))
    with span("events.publish", events=len(indexed) + len(died)):
        if indexed:
            await events.publish(INDEXED, indexed)
        if died:
            await events.publish(DEAD, died)


def _traceparent(headers: Mapping[str, str]) -> str:
    """Whoever may write to the topic may write any header: nothing but a W3C trace context goes on."""
    found = headers.get("traceparent", "")
    return found if _TRACE_CONTEXT.fullmatch(found) else ""


def _work(record: Record, event: DocumentChanged, cause: Cause, ids: Ids, sources: Sources) -> Work:
    """Raises Rejected for an event that names a document or an object that it has no say over."""
    sources.owner(event.source, event.tenant, event.uri)
    if not record.key == event.document_id == ids.document_id(event.tenant, event.source, event.uri):
        raise Rejected("key, document id and uri of the event do not belong together", reason="foreign_id")
    caused = replace(cause, changed_at=event.occurred_at.timestamp())
    return Work(event.document_id, event.tenant, event.source, event.uri, 0, caused)


def _unusable(record: Record, index_id: str, reason: str) -> DocumentDead:
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


def _is_id(key: str) -> bool:
    try:
        return str(UUID(key)) == key
    except ValueError:
        return False


def _indexed(work: Work, chunks: int, revision: int, index_id: str, now: datetime) -> DocumentIndexed:
    state = IndexState.DELETED if work.status is DocumentStatus.SUPPRESSED else IndexState(work.status.value)
    return DocumentIndexed(
        document_id=work.document_id,
        tenant=work.tenant,
        index_id=index_id,
        revision=revision,
        state=state,
        chunks=chunks,
        embedded=work.fresh,
        reused=max(0, chunks - work.fresh),
        epoch=work.cause.epoch,
        partition=work.cause.partition,
        offset=work.cause.offset,
        indexed_at=now,
    )


def _dead(work: Work, index_id: str, now: datetime) -> DocumentDead:
    return DocumentDead(
        document_id=work.document_id,
        tenant=work.tenant,
        index_id=index_id,
        topic=work.cause.topic,
        partition=work.cause.partition,
        offset=work.cause.offset,
        reason=work.reason,
        trace_id=work.cause.trace_id,
        failed_at=now,
    )
