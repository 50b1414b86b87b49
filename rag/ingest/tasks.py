"""Indexing tasks: the states that a task can reach, and the report of the tasks that were applied."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import TypeVar

from rag.models import RETIRED, Cause, Chunk, DocumentRecord, DocumentStatus, Embedding, IndexingTask
from rag.ports import Delta
from rag.telemetry import DOCUMENTS_DEAD, DOCUMENTS_INDEXED, FRESHNESS_SECONDS

PARSED, CHUNKS, VECTORS = "parsed.json", "chunks.json", "vectors.npz"  # artifacts of the steps
Item = TypeVar("Item")


@dataclass(frozen=True, slots=True)
class Outcome:
    """A task as it was applied, with the number of its chunks and the new revision of its document."""

    task: IndexingTask
    chunks: int
    revision: int


@dataclass(frozen=True, slots=True)
class Report:
    """The applied tasks and their totals."""

    outcomes: tuple[Outcome, ...] = ()
    documents: int = 0
    chunks: int = 0
    written: int = 0
    embedded: int = 0
    tokens: int = 0
    dead: int = 0
    held: int = 0  # deletions that wait for a confirmation; they are not among the documents

    def __add__(self, other: Report) -> Report:
        return Report(*(getattr(self, each.name) + getattr(other, each.name) for each in fields(self)))


@dataclass(frozen=True, slots=True)
class Planned:
    """A delta, and the chunks and embeddings that applying it needs."""

    task: IndexingTask
    delta: Delta
    chunks: Sequence[Chunk] = ()
    embeddings: Mapping[str, Embedding] = field(default_factory=dict)


def dead(task: IndexingTask, reason: str) -> IndexingTask:
    """Return the task of a document that cannot be indexed, for ``reason``."""
    return replace(task, status=DocumentStatus.DEAD, reason=reason, parsed="", chunked="", embedded="")


def suppressed(task: IndexingTask) -> IndexingTask:
    """Return the task of a document that admission refuses."""
    return replace(task, status=DocumentStatus.SUPPRESSED, reason="suppressed", parsed="", chunked="", embedded="")


def parked(task: IndexingTask, reason: str) -> IndexingTask:
    """Return the task of a document whose object cannot be read now, for ``reason``."""
    return replace(task, status=DocumentStatus.PARKED, reason=reason, parsed="", chunked="", embedded="")


def deleted(task: IndexingTask) -> IndexingTask:
    """Return the task of a document whose absence from its source is confirmed."""
    return replace(task, status=DocumentStatus.DELETED, reason="", version="", change_token="", content_hash="")


def retired(task: IndexingTask) -> IndexingTask:
    """Return the task of a document that no configured source contains any more. It is deleted once that is confirmed."""
    return replace(deleted(task), reason=RETIRED)


def overtaken(task: IndexingTask) -> IndexingTask:
    """Return the task without artifacts, because its version is no longer the source's. ``index`` derives it again."""
    return replace(task, parsed="", chunked="", embedded="")


def reset(task: IndexingTask) -> IndexingTask:
    """Return the task as it was before its source was read: with nothing of an earlier reading or of the ledger's record."""
    return replace(
        overtaken(task),
        status=DocumentStatus.LIVE,
        version="",
        change_token="",
        content_hash="",
        media_type="",
        title="",
        principals=(),
        subjects=(),
        reason="",
        config_hash="",
        characters=0,
        erased_people=0,
        fresh=0,
    )


def backfill_task(record: DocumentRecord, run_id: str) -> IndexingTask:
    """Return the task that backfills a recorded document, with the artifacts that the ledger lists for it."""
    steps = {key.rsplit("/", 1)[-1]: key for key in record.artifacts}
    return IndexingTask(
        document_id=record.document_id,
        tenant=record.tenant,
        source=record.source,
        uri=record.uri,
        base_revision=record.revision,
        cause=Cause("", "", record.partition, -1, run_id),
        status=record.status,
        version=record.version,
        change_token=record.change_token,
        content_hash=record.content_hash,
        media_type=record.media_type,
        title=record.title,
        principals=record.principals,
        subjects=record.subjects,
        reason=record.reason,
        config_hash=record.config_hash,
        parsed=steps.get(PARSED, ""),
        chunked=steps.get(CHUNKS, ""),
        embedded=steps.get(VECTORS, ""),
        characters=max((each.end for each in record.chunks.values()), default=0),
    )


def summarize(applied: Sequence[Delta], tasks: Mapping[str, IndexingTask]) -> Report:
    """Sum up applied deltas. ``tasks``: document id → task."""
    outcomes = tuple(_outcome(delta, tasks[delta.record.document_id]) for delta in applied)
    return Report(
        outcomes=outcomes,
        documents=len(applied),
        chunks=sum(outcome.chunks for outcome in outcomes),
        written=sum(len(delta.writes) for delta in applied),
        embedded=sum(outcome.task.fresh for outcome in outcomes),
        tokens=sum(delta.tokens for delta in applied),
        dead=sum(delta.record.status is DocumentStatus.DEAD for delta in applied),
    )


def count(report: Report) -> None:
    """Count the applied tasks in the metrics, and observe how long their changes took to become visible."""
    now = time.time()
    for outcome in report.outcomes:
        task = outcome.task
        DOCUMENTS_INDEXED.labels(task.status.value).inc()
        if task.status is DocumentStatus.DEAD:
            DOCUMENTS_DEAD.labels(task.reason).inc()
        if task.cause.changed_at and task.status is DocumentStatus.LIVE:
            FRESHNESS_SECONDS.observe(max(0.0, now - task.cause.changed_at))


def _outcome(delta: Delta, task: IndexingTask) -> Outcome:
    record = delta.record
    return Outcome(replace(task, status=record.status, reason=record.reason), len(record.chunks), record.revision + 1)


def windows(items: Sequence[Item], size: int) -> Iterator[Sequence[Item]]:
    """Yield the items in order, ``size`` at a time."""
    for start in range(0, len(items), size):
        yield items[start : start + size]


def windows_of_text(tasks: Sequence[IndexingTask], size: int, characters: int) -> Iterator[Sequence[IndexingTask]]:
    """Yield the tasks in order, up to ``size`` at a time, and with up to ``characters`` of text. A longer document comes alone."""
    window: list[IndexingTask] = []
    held = 0
    for task in tasks:
        if window and (len(window) == size or held + task.characters > characters):
            yield window
            window, held = [], 0
        window.append(task)
        held += task.characters
    if window:
        yield window
