"""The values of the domain, in the order in which a document meets them. All are immutable."""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import numpy as np
import numpy.typing as npt

Vector = npt.NDArray[np.float32]
Payload = dict[str, Any]


# -- who may see it -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Access:
    """Who may see a document: principals (``group:staff``, ``user:alice``) within one tenant. Sorted, without repeats."""

    tenant: str
    principals: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class AccessFilter:
    """What a caller may see: documents of ``tenant`` that name any of ``principals``.

    Only ``governance.access`` makes one (a house rule checks it). ``narrow`` holds the caller's own filters
    (``source``, ``document_id``, ``language``, ``media_type``): field → accepted values; they can only narrow.
    """

    tenant: str
    principals: tuple[str, ...]
    narrow: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.tenant or not self.principals:
            raise ValueError("an access filter needs a tenant and at least one principal")


# -- what a source holds ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ObjectState:
    """An object as its store describes it now. ``labels`` are its user metadata, keys in lower case."""

    uri: str
    version: str
    size: int
    modified: datetime
    change_token: str = ""  # changes with the content, and is the same in a listing as in a read
    media_type: str | None = None
    labels: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class SourceObject:
    """An object read at one version."""

    state: ObjectState
    content: bytes


# -- what parsing makes of it -------------------------------------------------------------------------------------------


class BlockKind(enum.StrEnum):
    HEADING = "heading"
    PARAGRAPH = "paragraph"
    LIST_ITEM = "list_item"
    ROW = "row"  # one row of a table; ``header`` is the table's header line
    RECORD = "record"  # one JSON value or database row; ``header`` is its key path
    CODE = "code"


@dataclass(frozen=True, slots=True)
class Block:
    """A piece of a parsed document: ``text[start:end]`` of the document's text. Blocks are in order and do not overlap."""

    kind: BlockKind
    start: int
    end: int
    section: tuple[str, ...] = ()  # the headings above it, outermost first
    page: int | None = None  # one-based
    header: str | None = None


@dataclass(frozen=True, slots=True)
class ParsedDocument:
    """A document as text. Every offset counts characters (code points) of ``text``."""

    text: str
    blocks: tuple[Block, ...]
    title: str
    language: str | None  # ISO 639-1, None when too short to tell
    media_type: str
    pages: int | None = None


@dataclass(frozen=True, slots=True)
class Chunk:
    """What is found and cited: ``text == parsed.text[start:end]``, verbatim.

    ``input`` is exactly what the dense and the sparse encoder see (heading path, table header, text); the chunk's id and its
    embedding depend on it and on nothing else.
    """

    chunk_id: str
    ordinal: int
    text: str
    input: str
    start: int
    end: int
    section: tuple[str, ...]
    tokens: int
    page: int | None = None


@dataclass(frozen=True, slots=True)
class SparseVector:
    indices: npt.NDArray[np.uint32]
    values: Vector


@dataclass(frozen=True, slots=True)
class Embedding:
    dense: Vector  # (dimensions,), unit length
    sparse: SparseVector


# -- what the index holds -----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class IndexSpec:
    """An index belongs to one pipeline fingerprint."""

    index_id: str  # the fingerprint, 16 hex digits
    dimensions: int

    @property
    def collection(self) -> str:
        return f"documents_{self.index_id}"


@dataclass(frozen=True, slots=True)
class Point:
    chunk_id: str
    embedding: Embedding
    payload: Payload


@dataclass(frozen=True, slots=True)
class ScoredPoint:
    chunk_id: str
    score: float
    payload: Payload


@dataclass(frozen=True, slots=True)
class HybridQuery:
    dense: Vector
    sparse: SparseVector


class DocumentStatus(enum.StrEnum):
    LIVE = "live"
    DELETED = "deleted"  # absent from its source
    DEAD = "dead"  # could not be indexed; ``reason`` says why
    SUPPRESSED = "suppressed"  # refused by admission


@dataclass(frozen=True, slots=True)
class Cause:
    """The event that made a worker look at a document. A backfill has no event: its ``offset`` is -1."""

    topic: str
    epoch: str
    partition: int
    offset: int
    run_id: str = ""
    traceparent: str = ""
    changed_at: float = 0.0  # seconds since 1970 by the source's clock; 0 for a backfill

    @property
    def is_backfill(self) -> bool:
        return self.offset < 0

    @property
    def trace_id(self) -> str:
        return self.traceparent.split("-")[1] if self.traceparent.count("-") == 3 else ""


@dataclass(frozen=True, slots=True)
class DocumentRecord:
    """What the ledger holds of one document in one index. ``revision`` 0: never seen."""

    document_id: str
    revision: int = 0
    status: DocumentStatus = DocumentStatus.DELETED
    tenant: str = ""
    source: str = ""
    uri: str = ""
    partition: int = -1
    version: str = ""
    change_token: str = ""
    content_hash: str = ""
    principals: tuple[str, ...] = ()
    subjects: tuple[str, ...] = ()
    title: str = ""
    media_type: str = ""
    language: str = ""
    reason: str = ""
    artifacts: tuple[str, ...] = ()
    chunks: Mapping[str, str] = field(default_factory=dict)  # chunk id → payload hash
    cause: Cause | None = None  # of the last change


@dataclass(frozen=True, slots=True)
class Provenance:
    """Where a visible chunk comes from, joined by the ledger to every hit."""

    document_id: str
    revision: int
    uri: str
    title: str
    source_version: str
    cause: Cause


# -- what flows between steps -------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class OffsetRange:
    """Offsets ``start <= offset < end`` of one partition of ``topic`` in one epoch."""

    topic: str
    epoch: str
    partition: int
    start: int
    end: int

    def covers(self, cause: Cause | None) -> bool:
        if cause is None or (cause.topic, cause.epoch, cause.partition) != (self.topic, self.epoch, self.partition):
            return False
        return self.start <= cause.offset < self.end


@dataclass(frozen=True, slots=True)
class IndexingTask:
    """One document on its way into an index. It holds references only, so that it can be stored and passed between processes.

    ``status`` is the status that the document is about to have. The artifact keys fill up step by step.
    """

    document_id: str
    tenant: str
    source: str
    uri: str
    base_revision: int
    cause: Cause
    status: DocumentStatus = DocumentStatus.LIVE
    version: str = ""
    change_token: str = ""
    content_hash: str = ""
    media_type: str = ""
    title: str = ""  # a label; the parsed title stands when empty
    principals: tuple[str, ...] = ()
    subjects: tuple[str, ...] = ()
    reason: str = ""
    parsed: str = ""  # artifact keys, filled in step by step
    chunked: str = ""
    embedded: str = ""
    fresh: int = 0  # chunks that cost an embedding


@dataclass(frozen=True, slots=True)
class Batch:
    """The tasks of one partition, as one asset hands them to the next."""

    index_id: str
    partition: int
    tasks: tuple[IndexingTask, ...]
    range: OffsetRange | None = None

    @property
    def is_backfill(self) -> bool:
        """A backfill has no offset range. It derives every document of the partition again, whatever is recorded."""
        return self.range is None

    @property
    def traceparent(self) -> str:
        """The trace of the first event that has one. The steps over the batch continue that trace."""
        return next((task.cause.traceparent for task in self.tasks if task.cause.traceparent), "")


# -- what an answer is made of ------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Hit:
    """A chunk that the caller may see, current at the time of the ledger read."""

    chunk: Chunk
    score: float
    provenance: Provenance
    source: str = ""
    language: str = ""
    media_type: str = ""


@dataclass(frozen=True, slots=True)
class Citation:
    """``quote`` is verbatim ``parsed.text[start:end]``; ``marker`` is the number in the answer's text (``[1]``)."""

    marker: int
    document_id: str
    chunk_id: str
    title: str
    uri: str
    source_version: str
    page: int | None
    start: int
    end: int
    quote: str
    score: float
    topic: str
    partition: int
    offset: int
    run_id: str


@dataclass(frozen=True, slots=True)
class Answer:
    text: str
    citations: Sequence[Citation]
    generator: str  # "extractive" or the name of the model
    usage: Mapping[str, int] = field(default_factory=dict)
    abstained: bool = False
