"""Work on its way: what may become of it, and the account of what did."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import TypeVar

from rag.models import Cause, Chunk, DocumentStatus, Embedding, Recorded, Work
from rag.ports import Delta
from rag.telemetry import DOCUMENTS_DEAD, DOCUMENTS_INDEXED

PARSED, CHUNKS, VECTORS = "parsed.json", "chunks.json", "vectors.npz"  # artifacts of the steps
Item = TypeVar("Item")


@dataclass(frozen=True, slots=True)
class Report:
    """What became of documents. ``works`` are as they were applied, each with its number of chunks and its new revision."""

    works: tuple[tuple[Work, int, int], ...] = ()
    documents: int = 0
    chunks: int = 0
    written: int = 0
    embedded: int = 0
    tokens: int = 0
    dead: int = 0

    def __add__(self, other: Report) -> Report:
        return Report(*(getattr(self, each.name) + getattr(other, each.name) for each in fields(self)))


@dataclass(frozen=True, slots=True)
class Planned:
    """A delta and what applying it needs."""

    work: Work
    delta: Delta
    chunks: Sequence[Chunk] = ()
    embeddings: Mapping[str, Embedding] = field(default_factory=dict)


def dead(work: Work, reason: str) -> Work:
    return replace(work, status=DocumentStatus.DEAD, reason=reason, parsed="", chunked="", embedded="")


def suppressed(work: Work) -> Work:
    return replace(work, status=DocumentStatus.SUPPRESSED, reason="suppressed", parsed="", chunked="", embedded="")


def afresh(work: Work) -> Work:
    return replace(work, status=DocumentStatus.LIVE, reason="", parsed="", chunked="", embedded="", fresh=0)


def backfill(recorded: Recorded, run_id: str) -> Work:
    steps = {key.rsplit("/", 1)[-1]: key for key in recorded.artifacts}
    return Work(
        document_id=recorded.document_id,
        tenant=recorded.tenant,
        source=recorded.source,
        uri=recorded.uri,
        base_revision=recorded.revision,
        cause=Cause("", "", recorded.partition, -1, run_id),
        status=recorded.status,
        version=recorded.version,
        stamp=recorded.stamp,
        content_hash=recorded.content_hash,
        media_type=recorded.media_type,
        title=recorded.title,
        principals=recorded.principals,
        subjects=recorded.subjects,
        reason=recorded.reason,
        parsed=steps.get(PARSED, ""),
        chunked=steps.get(CHUNKS, ""),
        embedded=steps.get(VECTORS, ""),
    )


def reported(applied: Sequence[Delta], works: Mapping[str, Work]) -> Report:
    for delta in applied:
        DOCUMENTS_INDEXED.labels(delta.record.status.value).inc()
        if delta.record.status is DocumentStatus.DEAD:
            DOCUMENTS_DEAD.labels(delta.record.reason).inc()
    done = tuple(
        (
            replace(works[delta.record.document_id], status=delta.record.status, reason=delta.record.reason),
            len(delta.record.chunks),
            delta.record.revision + 1,
        )
        for delta in applied
    )
    return Report(
        works=done,
        documents=len(applied),
        chunks=sum(len(delta.record.chunks) for delta in applied),
        written=sum(len(delta.upserts) for delta in applied),
        embedded=sum(work.fresh for work, _, _ in done),
        tokens=sum(delta.tokens for delta in applied),
        dead=sum(delta.record.status is DocumentStatus.DEAD for delta in applied),
    )


def windows(items: Sequence[Item], size: int) -> Iterator[Sequence[Item]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]
