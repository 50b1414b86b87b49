"""Index, update, delete, re-embed and erase are one operation: ``plan`` decides, ``apply`` acts.

Points are write-once. A change writes new points, which no reader sees. One short transaction of the ledger makes them current and
retires the old ones, and then the old ones are deleted. A crash leaves points that the ledger records as garbage. A request that
Qdrant executes after its caller gave up leaves an orphan, or deletes a point that is already retired.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from rag.errors import Unavailable
from rag.ids import payload_hash, point_id
from rag.models import (
    RETIRED,
    Access,
    Chunk,
    DocumentRecord,
    DocumentStatus,
    Embedding,
    IndexingTask,
    OffsetRange,
    ParsedDocument,
    Payload,
    Placement,
    Point,
)
from rag.ports import Delta, EventsOf, FreshVectors, Ledger, VectorIndex
from rag.telemetry import APPLY_CONFLICTS, logger, span

VERSION = "3"  # of the payload's fields; part of the pipeline fingerprint
APPLY_SECONDS = 300.0  # the deadline of one apply: the sweep spares intents that are younger

_log = logger(__name__)


@dataclass(frozen=True, slots=True)
class Desired:
    """The state that one document must have in the index. ``chunks`` is empty unless the document is shown."""

    task: IndexingTask
    access: Access
    chunks: Sequence[Chunk] = ()
    title: str = ""
    language: str = ""
    partition: int = -1


def desired(
    task: IndexingTask, partition: int, parsed: ParsedDocument | None = None, chunks: Sequence[Chunk] = ()
) -> Desired:
    """Return the desired state of a task. A title from a label takes precedence over the parsed one."""
    access = Access(task.tenant, task.principals)
    if parsed is None:
        return Desired(task, access, title=task.title, partition=partition)
    return Desired(task, access, chunks, task.title or parsed.title, parsed.language or "", partition)


def payload(chunk: Chunk, wanted: Desired) -> Payload:
    """Return the fields that search filters on, and the chunk's own content. Position, title, uri and provenance are the ledger's.

    A pure function of document version, pipeline and access.
    """
    task = wanted.task
    fields: Payload = {
        "document_id": task.document_id,
        "tenant": wanted.access.tenant,
        "principals": list(wanted.access.principals),
        "scopes": list(task.scopes),
        "source": task.source,
        "partition": wanted.partition,
        "text": chunk.text,
        "section": list(chunk.section),
        "language": wanted.language,
        "media_type": task.media_type,
    }
    return fields | {"payload_hash": payload_hash(fields)}


def plan(wanted: Desired, recorded: DocumentRecord) -> Delta:
    """Decide how the index comes to hold ``wanted`` and nothing else of the document.

    A chunk keeps its point while its payload is the same. A backfill writes every point again.
    """
    task = wanted.task
    payloads = {chunk.chunk_id: payload(chunk, wanted) for chunk in wanted.chunks}
    placements = {
        chunk.chunk_id: _placement(chunk, payloads[chunk.chunk_id]["payload_hash"], recorded, task.cause.is_backfill)
        for chunk in wanted.chunks
    }
    kept = {placement.point_id for placement in placements.values()}
    record = DocumentRecord(
        document_id=task.document_id,
        revision=task.base_revision,
        status=task.status,
        tenant=task.tenant,
        source=task.source,
        uri=task.uri,
        partition=wanted.partition,
        version=task.version,
        change_token=task.change_token,
        content_hash=task.content_hash,
        principals=task.principals,
        scopes=task.scopes,
        subjects=task.subjects,
        title=wanted.title,
        media_type=task.media_type,
        language=wanted.language,
        reason=task.reason,
        config_hash=task.config_hash,
        artifacts=tuple(key for key in (task.parsed, task.chunked, task.embedded) if key),
        chunks=placements,
        cause=task.cause,
        parking=recorded.parking if task.status is DocumentStatus.PARKED else None,
    )
    return Delta(
        record,
        writes={chunk_id: fields for chunk_id, fields in payloads.items() if not placements[chunk_id].point_id},
        retired=tuple(sorted(old.point_id for old in recorded.chunks.values() if old.point_id not in kept)),
        is_visible=_shown(record) != _shown(recorded),
        needs_confirmation=task.status is DocumentStatus.DELETED and task.reason == RETIRED,
        tokens=sum(chunk.tokens for chunk in wanted.chunks),
        erased_people=task.erased_people,
    )


def _placement(chunk: Chunk, digest: str, recorded: DocumentRecord, is_backfill: bool) -> Placement:
    old = recorded.chunks.get(chunk.chunk_id)
    point = old.point_id if old and old.payload_hash == digest and not is_backfill else ""
    return Placement(point, digest, chunk.ordinal, chunk.start, chunk.end, chunk.page)


def _shown(record: DocumentRecord) -> tuple[object, ...]:
    """Return the parts of a record that a reader can see."""
    return record.status, record.title, record.uri, record.version, record.principals, record.chunks


@dataclass(frozen=True, slots=True)
class Applied:
    """The deltas that took effect. The documents of ``lost`` deltas were changed or suppressed meanwhile: derive them again.
    ``held`` deltas are deletions that wait for a confirmation."""

    applied: tuple[Delta, ...]
    lost: tuple[Delta, ...]
    held: tuple[Delta, ...] = ()


async def apply(
    index_id: str,
    deltas: Sequence[Delta],
    embeddings: Mapping[str, Embedding],
    *,
    ledger: Ledger,
    vectors: VectorIndex,
    fresh: FreshVectors | None = None,
    events: EventsOf | None = None,
    done: OffsetRange | None = None,
    settings: Mapping[str, str] | None = None,
) -> Applied:
    """Apply the deltas, all but the lost ones. One call to the vector index writes all points of the batch.

    No lock is held while the vector index works. If no delta was lost, the position moves to the end of ``done`` in the same
    transaction. Raises KeyError when a chunk to be written has no embedding; nothing is written then. Raises Unavailable when the
    deadline passes, and OutdatedSettings when other ``settings`` (source → digest) were declared.
    """
    deltas = [_with_points(delta) for delta in deltas]
    points = [point for delta in deltas for point in _points(delta, embeddings)]
    with span("documents.apply", documents=len(deltas)):
        try:
            async with asyncio.timeout(APPLY_SECONDS):
                if points:
                    await ledger.record_intent(index_id, deltas)
                    await vectors.upsert(index_id, points)
                swap = await ledger.swap(index_id, deltas, vectors=fresh, events=events, done=done, settings=settings)
        except TimeoutError as error:
            raise Unavailable(f"{len(deltas)} documents were not applied within {APPLY_SECONDS:.0f} s") from error
        garbage = [each for delta in swap.accepted for each in delta.retired]
        garbage += [each for delta in swap.lost for each in delta.new_points]
        if garbage:
            await _delete_garbage(index_id, garbage, ledger, vectors)
    APPLY_CONFLICTS.inc(len(swap.lost))
    return Applied(swap.accepted, swap.lost, swap.held)


def _with_points(delta: Delta) -> Delta:
    """Assign a new point id to every chunk that must be written. A repeated apply assigns other ids."""
    chunks = {
        chunk_id: replace(placement, point_id=point_id()) if chunk_id in delta.writes else placement
        for chunk_id, placement in delta.record.chunks.items()
    }
    return replace(delta, record=replace(delta.record, chunks=chunks)) if delta.writes else delta


def _points(delta: Delta, embeddings: Mapping[str, Embedding]) -> list[Point]:
    chunks = delta.record.chunks
    return [Point(chunks[chunk_id].point_id, embeddings[chunk_id], fields) for chunk_id, fields in delta.writes.items()]


async def _delete_garbage(index_id: str, point_ids: Sequence[str], ledger: Ledger, vectors: VectorIndex) -> None:
    """Delete retired points now. After an outage the sweep deletes them: the ledger records them, and no reader sees them."""
    try:
        await _delete(index_id, await ledger.condemn(index_id, point_ids=point_ids), ledger, vectors)
    except Unavailable as error:
        _log.warning("points.left_for_the_sweep", points=len(point_ids), why=str(error))


async def _delete(index_id: str, point_ids: Sequence[str], ledger: Ledger, vectors: VectorIndex) -> None:
    if point_ids:
        await vectors.delete(index_id, point_ids)
        await ledger.forget_points(index_id, point_ids)


async def sweep(index_id: str, *, ledger: Ledger, vectors: VectorIndex, older_than: float = 2 * APPLY_SECONDS) -> int:
    """Delete the garbage that crashes left in the vector index, and return the number of points. Idempotent.

    Give ``older_than`` (in seconds) a value above the deadline of an apply, or running applies lose and plan again.
    """
    swept = 0
    while point_ids := await ledger.condemn(index_id, older_than=older_than):
        await _delete(index_id, point_ids, ledger, vectors)
        swept += len(point_ids)
    return swept
