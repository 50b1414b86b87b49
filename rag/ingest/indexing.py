"""Index, update, delete, re-embed and erase are one operation: ``plan`` decides and ``apply`` acts.

Readers see the change of a document at once. New points are written first, and no reader sees them yet. The ledger's transaction then
makes the new points current and the old points garbage. The old points are deleted last. A crash at any step leaves only points that
are not current in the ledger, and a record of them for ``sweep``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from rag.ids import payload_hash
from rag.models import (
    Access,
    Chunk,
    DocumentRecord,
    DocumentStatus,
    Embedding,
    IndexingTask,
    ParsedDocument,
    Payload,
    Point,
)
from rag.ports import Delta, FreshVectors, Ledger, VectorIndex
from rag.telemetry import APPLY_CONFLICTS, span

VERSION = "1"  # of the payload's fields; part of the pipeline fingerprint


@dataclass(frozen=True, slots=True)
class Desired:
    """Desired state of one document in the index. ``chunks`` is empty unless the document is live."""

    task: IndexingTask
    access: Access
    chunks: Sequence[Chunk] = ()
    title: str = ""
    language: str = ""
    partition: int = -1


def desired(
    task: IndexingTask, partition: int, parsed: ParsedDocument | None = None, chunks: Sequence[Chunk] = ()
) -> Desired:
    """Return the desired state of a task's document. A title from a label takes precedence over the parsed one."""
    access = Access(task.tenant, task.principals)
    if parsed is None or task.status is not DocumentStatus.LIVE:
        return Desired(task, access, title=task.title, partition=partition)
    return Desired(task, access, chunks, task.title or parsed.title, parsed.language or "", partition)


def payload(chunk: Chunk, wanted: Desired) -> Payload:
    """Return a chunk's payload: a pure function of document version, pipeline and access. Provenance stays in the ledger."""
    task = wanted.task
    fields: Payload = {
        "document_id": task.document_id,
        "tenant": wanted.access.tenant,
        "principals": list(wanted.access.principals),
        "source": task.source,
        "partition": wanted.partition,
        "ordinal": chunk.ordinal,
        "title": wanted.title,
        "uri": task.uri,
        "text": chunk.text,
        "start": chunk.start,
        "end": chunk.end,
        "section": list(chunk.section),
        "page": chunk.page,
        "tokens": chunk.tokens,
        "language": wanted.language,
        "media_type": task.media_type,
    }
    return fields | {"payload_hash": payload_hash(fields)}


def plan(wanted: Desired, recorded: DocumentRecord) -> Delta:
    """Return the changes that make the index hold ``wanted`` and nothing else of the document. A backfill writes every point again."""
    task = wanted.task
    payloads = {chunk.chunk_id: payload(chunk, wanted) for chunk in wanted.chunks}
    hashes = {chunk_id: fields["payload_hash"] for chunk_id, fields in payloads.items()}
    upserts = {c: p for c, p in payloads.items() if task.cause.is_backfill or c not in recorded.chunks}
    payload_updates = {c: p for c, p in payloads.items() if c not in upserts and recorded.chunks[c] != hashes[c]}
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
        subjects=task.subjects,
        title=wanted.title,
        media_type=task.media_type,
        language=wanted.language,
        reason=task.reason,
        artifacts=tuple(key for key in (task.parsed, task.chunked, task.embedded) if key),
        chunks=hashes,
        cause=task.cause,
    )
    deletes = tuple(sorted(recorded.chunks.keys() - payloads.keys()))
    return Delta(record, upserts, payload_updates, deletes, sum(chunk.tokens for chunk in wanted.chunks))


def withdrawal(delta: Delta, current: DocumentRecord) -> Delta:
    """Return the delta that removes every chunk of a document that may no longer be indexed."""
    record = replace(
        delta.record,
        status=DocumentStatus.SUPPRESSED,
        revision=current.revision,
        chunks={},
        artifacts=(),
        reason="suppressed",
    )
    return Delta(record, deletes=tuple(sorted(current.chunks)))


@dataclass(frozen=True, slots=True)
class Applied:
    """Applied deltas, and those ``lost`` to a newer revision: read the documents of the lost deltas again and plan again."""

    applied: tuple[Delta, ...]
    lost: tuple[Delta, ...]


async def apply(
    index_id: str,
    deltas: Sequence[Delta],
    embeddings: Mapping[str, Embedding],
    *,
    ledger: Ledger,
    vectors: VectorIndex,
    fresh: FreshVectors | None = None,
) -> Applied:
    """Apply the deltas, except those that lose the swap. All points of the batch are written in one call to the vector index.

    Raises KeyError, before anything is written, when a chunk to write has no embedding.
    """
    points = {
        delta.record.document_id: [Point(c, embeddings[c], fields) for c, fields in delta.upserts.items()]
        for delta in deltas
    }
    with span("documents.apply", documents=len(deltas)):
        await ledger.record_intent(index_id, deltas)
        async with ledger.swap(index_id, deltas, vectors=fresh) as swap:
            writes = [point for delta in swap.accepted for point in points[delta.record.document_id]]
            payload_updates = {c: fields for delta in swap.accepted for c, fields in delta.payload_updates.items()}
            if writes:
                await vectors.upsert(index_id, writes)
            if payload_updates:
                await vectors.set_payloads(index_id, payload_updates)
        applied = swap.accepted
        if swap.suppressed:
            current = await ledger.recorded(index_id, [delta.record.document_id for delta in swap.suppressed])
            withdrawn = [withdrawal(delta, current[delta.record.document_id]) for delta in swap.suppressed]
            result = await apply(index_id, withdrawn, {}, ledger=ledger, vectors=vectors)
            swap = replace(swap, lost=(*swap.lost, *result.lost))
            applied = (*applied, *result.applied)
        with_deletes = [delta.record.document_id for delta in swap.accepted if delta.deletes]
        if with_deletes:
            await sweep(index_id, ledger=ledger, vectors=vectors, document_ids=with_deletes)
    APPLY_CONFLICTS.inc(len(swap.lost))
    return Applied(applied, swap.lost)


async def sweep(
    index_id: str,
    *,
    ledger: Ledger,
    vectors: VectorIndex,
    document_ids: Sequence[str] | None = None,
    older_than: float = 0.0,
) -> int:
    """Delete the points that the ledger lists as garbage, and return their number. Idempotent.

    Without ``document_ids``, set ``older_than`` (seconds) above the time that an apply may take. Otherwise, the sweep removes the intents
    of writers that are under way, and they must plan again.
    """
    swept = 0
    while True:
        async with ledger.garbage(index_id, document_ids=document_ids, older_than=older_than) as chunk_ids:
            if chunk_ids:
                await vectors.delete(index_id, chunk_ids)
        swept += len(chunk_ids)
        if len(chunk_ids) == 0:
            return swept
