"""The values of the domain, in the order of a document's processing. All are immutable."""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from schemas.events import DocumentDead

CELL_SEPARATOR = " | "  # between the cells of a row, in the text of a row and in a table's header
SECTION_SEPARATOR = " > "  # between the headings of a heading path

Vector = npt.NDArray[np.float32]
Payload = dict[str, Any]


# -- access -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Access:
    """The principals (``group:staff``, ``user:alice``) of one tenant that may read a document. Sorted and distinct."""

    tenant: str
    principals: tuple[str, ...]


class Effect(enum.StrEnum):
    GRANT = "grant"
    REVOKE = "revoke"


@dataclass(frozen=True, slots=True)
class AccessRule:
    """The decision of an administrator on the documents of a scope, apart from their labels: ``principal`` may see them, or may not.

    A revoke wins over every label and every grant. The scope is a document, or the documents of ``source`` whose uri starts with
    ``uri_prefix``. There is one rule for a scope and a principal, and ``rule_id`` is derived from them.
    """

    rule_id: str
    tenant: str
    scope: str  # of ``Ids.scopes``
    principal: str
    effect: Effect
    source: str
    uri_prefix: str = ""  # ends with a slash; empty for the whole source and for a document
    document_id: str = ""
    actor: str = ""  # the administrator's pseudonym
    reason: str = ""
    decided_at: datetime | None = None  # set by the ledger


@dataclass(frozen=True, slots=True)
class Hold:
    """A legal hold: nothing of its scope may be erased while it stands. Several holds may stand on one scope, each for its own matter."""

    hold_id: str
    tenant: str
    scope: str  # of ``Ids.scopes``
    source: str
    uri_prefix: str = ""  # ends with a slash; empty for the whole source and for a document
    document_id: str = ""
    actor: str = ""  # the administrator's pseudonym
    reason: str = ""
    placed_at: datetime | None = None  # set by the ledger

    @property
    def refusal(self) -> str:
        place = f"document {self.document_id}" if self.document_id else self.uri_prefix or f"source {self.source}"
        return f"legal hold {self.hold_id} on {place} forbids the erasure: leave its documents out, or have the hold lifted"


class RuledScopes(NamedTuple):
    """The scopes that the rules of a caller's principals name."""

    granted: tuple[str, ...] = ()
    revoked: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class AccessFilter:
    """The documents that a caller may see: those of ``tenant`` that name at least one of ``principals``, or that a rule grants to one
    of them, without those that a rule revokes from one of them.

    Only ``governance.access`` may create a filter (a house rule checks this). ``narrow`` maps the fields of the caller's own
    filters (``source``, ``document_id``, ``language``, ``media_type``) to accepted values. They can only narrow the access.
    """

    tenant: str
    principals: tuple[str, ...]
    narrow: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    ruled: RuledScopes = field(default_factory=RuledScopes)

    def __post_init__(self) -> None:
        if not self.tenant or not self.principals:
            raise ValueError("an access filter needs a tenant and at least one principal")

    def under(self, ruled: RuledScopes) -> AccessFilter:
        """Return the filter for a search of the vector index, which cannot read the rules itself. The ledger reads them again."""
        return replace(self, ruled=ruled)


# -- objects of a source ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ObjectState:
    """The current state of an object according to its store. ``labels`` is the user metadata, with keys in lower case
    and values that ``rag.labels`` decodes."""

    uri: str
    version: str
    size: int
    modified: datetime
    change_token: str = ""  # changes with the content; a listing and a read return the same token
    media_type: str | None = None
    labels: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class SourceObject:
    """An object read at one version."""

    state: ObjectState
    content: bytes


# -- parsed documents and chunks ----------------------------------------------------------------------------------------


class BlockKind(enum.StrEnum):
    HEADING = "heading"
    PARAGRAPH = "paragraph"
    LIST_ITEM = "list_item"
    ROW = "row"  # one row of a table; ``header`` is the table's header line
    RECORD = "record"  # one JSON value or database row; ``header`` is its key path
    CODE = "code"


@dataclass(frozen=True, slots=True)
class Block:
    """A part of a parsed document: ``text[start:end]`` of the document's text. Blocks are in order and do not overlap."""

    kind: BlockKind
    start: int
    end: int
    section: tuple[str, ...] = ()  # the headings above the block, outermost first
    page: int | None = None  # one-based
    header: str | None = None


@dataclass(frozen=True, slots=True)
class ParsedDocument:
    """The text and structure of a document. Every offset counts characters (code points) of ``text``."""

    text: str
    blocks: tuple[Block, ...]
    title: str
    language: str | None  # ISO 639-1, None when the text is too short for detection
    media_type: str
    pages: int | None = None


@dataclass(frozen=True, slots=True)
class Chunk:
    """The unit of retrieval and citation. ``text`` is ``parsed.text[start:end]``, verbatim.

    ``input`` (heading path, table header, text) is the exact input of the dense and the sparse encoder. Within a document, the
    chunk's id and its embedding depend on ``input`` alone.
    """

    chunk_id: str
    ordinal: int
    text: str
    input: str
    start: int
    end: int
    section: tuple[str, ...]
    tokens: int = 0  # of ``input``; a hit does not carry the count
    page: int | None = None


@dataclass(frozen=True, slots=True)
class SparseVector:
    indices: npt.NDArray[np.uint32]
    values: Vector


@dataclass(frozen=True, slots=True)
class Embedding:
    dense: Vector  # (dimensions,), unit length
    sparse: SparseVector


# -- the index and the ledger -------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class IndexSpec:
    """The index of one pipeline fingerprint."""

    index_id: str  # the fingerprint, 16 hex digits
    dimensions: int

    @property
    def collection(self) -> str:
        return f"documents_{self.index_id}"


@dataclass(frozen=True, slots=True)
class Point:
    """A chunk's vectors and payload. A point is written once: its id is new for every write and is never used again."""

    point_id: str
    embedding: Embedding
    payload: Payload


@dataclass(frozen=True, slots=True)
class ScoredPoint:
    point_id: str
    score: float
    payload: Payload


@dataclass(frozen=True, slots=True)
class HybridQuery:
    dense: Vector
    sparse: SparseVector


class DocumentStatus(enum.StrEnum):
    LIVE = "live"
    DELETED = "deleted"  # absent from its source
    DEAD = "dead"  # could not be indexed, with the cause in ``reason``
    SUPPRESSED = "suppressed"  # refused by admission
    PARKED = "parked"  # its object cannot be read now, for ``reason``; its chunks, if any, are of the older version


ERASED = "erased"  # the reason in the row of a suppressed document of which nothing but the id is known any more
RETIRED = "retired"  # the reason of a deletion whose source is no longer configured, or no longer contains the document


@dataclass(frozen=True, slots=True)
class Cause:
    """The event that caused a worker to process a document. A backfill has no event: its ``offset`` is -1."""

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
class Placement:
    """The current point of a chunk, and the chunk's place in the parsed text. An empty ``point_id`` is not yet assigned."""

    point_id: str
    payload_hash: str
    ordinal: int
    start: int
    end: int
    page: int | None = None


@dataclass(frozen=True, slots=True)
class Parking:
    """The attempts to read a parked document's object: their number, the time of the first one, and the time of the next one."""

    attempts: int
    since: datetime
    next_try: datetime


@dataclass(frozen=True, slots=True)
class DocumentRecord:
    """The ledger's record of one document in one index. Revision 0 means that the ledger does not know the document."""

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
    scopes: tuple[str, ...] = ()  # that an access rule may name, of ``Ids.scopes``
    subjects: tuple[str, ...] = ()
    title: str = ""
    media_type: str = ""
    language: str = ""
    reason: str = ""
    config_hash: str = ""  # of the source's settings that the document was derived with
    artifacts: tuple[str, ...] = ()
    chunks: Mapping[str, Placement] = field(default_factory=dict)  # by chunk id
    cause: Cause | None = None  # of the last change
    parking: Parking | None = None  # of a parked document


class Inventoried(NamedTuple):
    """The recorded state of a document that is not deleted, for the comparison with a listing."""

    document_id: str
    change_token: str
    config_hash: str
    status: DocumentStatus


@dataclass(frozen=True, slots=True)
class Provenance:
    """The origin of a visible chunk and its place in the document. The ledger adds it to every hit, so that a hit shows the text,
    span, page and title of one revision."""

    document_id: str
    revision: int
    uri: str
    title: str
    source_version: str
    cause: Cause
    chunk_id: str
    ordinal: int
    start: int
    end: int
    page: int | None
    source: str
    language: str
    media_type: str
    is_stale: bool = False  # the source has a newer version, which cannot be read now


# -- values between the steps of ingest ---------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class OffsetRange:
    """The offsets ``start <= offset < end`` of one partition of ``topic`` in one epoch."""

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
    """One document during ingest. It contains references only, so that it can be stored and passed between processes.

    ``status`` is the status that the document will have. Each step sets the key of its artifact.
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
    title: str = ""  # from the object's label; if empty, the parsed title is used
    principals: tuple[str, ...] = ()
    scopes: tuple[str, ...] = ()  # set when the document is planned
    subjects: tuple[str, ...] = ()
    config_hash: str = ""
    reason: str = ""
    parsed: str = ""  # artifact keys, each set by its step
    chunked: str = ""
    embedded: str = ""
    characters: int = 0  # of the parsed text: tasks that are in memory together are bounded by them
    erased_people: int = 0  # of the tenant, when the text was searched for them
    must_reread: bool = False  # an operator wants the object tried again, although nothing changed
    fresh: int = 0  # chunks whose embedding was computed, not read from the cache


@dataclass(frozen=True, slots=True)
class Batch:
    """The tasks of one partition, which each asset passes to the next."""

    index_id: str
    partition: int
    tasks: tuple[IndexingTask, ...]
    range: OffsetRange | None = None
    dead_letters: tuple[DocumentDead, ...] = ()  # records of the range that no task can be made of

    @property
    def is_backfill(self) -> bool:
        """Return whether this is a backfill, which has no offset range and derives every document of the partition again."""
        return self.range is None

    @property
    def traceparent(self) -> str:
        """Return the trace context of the first event that has one. The steps over the batch continue its trace."""
        return next((task.cause.traceparent for task in self.tasks if task.cause.traceparent), "")


# -- answers ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Hit:
    """A chunk that the caller may see and that was current when the ledger was read."""

    chunk: Chunk
    score: float
    provenance: Provenance
    point_id: str


@dataclass(frozen=True, slots=True)
class Citation:
    """A citation of a document. ``quote`` is ``parsed.text[start:end]``, verbatim; ``marker`` is its number in the text (``[1]``)."""

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


# -- erasures -----------------------------------------------------------------------------------------------------------


class ErasureState(enum.StrEnum):
    REQUESTED = "requested"  # accepted: nothing of it is shown from then on
    ERASING = "erasing"
    VERIFYING = "verifying"  # erased everywhere, and the settling time runs
    CERTIFIED = "certified"
    INCOMPLETE = "incomplete"  # tried many times; it is still tried, and a person must look


class Erased(NamedTuple):
    """A document of an erasure. ``uri`` is empty once the erasure is certified, because a uri may name a person."""

    document_id: str
    source: str
    uri: str


class ErasureEvent(NamedTuple):
    at: datetime
    text: str  # without personal data


@dataclass(frozen=True, slots=True)
class Erasure:
    """An accepted erasure and its progress. Pseudonyms stand for people: the identifier of the request is not kept."""

    erasure_id: str
    tenant: str
    kind: str  # document | uri_prefix | subject
    reason: str
    actor: str  # the officer's pseudonym
    documents: tuple[Erased, ...]
    requested_at: datetime
    deadline: datetime
    next_at: datetime | None  # the time of the next step
    subject_ids: tuple[str, ...] = ()
    subject_lengths: tuple[int, ...] = ()  # characters of the canonical identifiers, one for each of ``subject_ids``
    spared: tuple[str, ...] = ()  # documents that may go on mentioning the person, because the officer left them out
    mode: str = "delete"
    affected: Mapping[str, int] = field(default_factory=dict)  # thing → number, as accepted
    state: ErasureState = ErasureState.REQUESTED
    revision: int = 0
    attempts: int = 0  # failed ones of the present state
    stores: Mapping[str, str] = field(default_factory=dict)  # store → its outcome
    history: tuple[ErasureEvent, ...] = ()
    certificate: str = ""  # JWS in compact form

    @property
    def document_ids(self) -> list[str]:
        return [each.document_id for each in self.documents]


@dataclass(frozen=True, slots=True)
class ErasedPeople:
    """The people of a tenant that no document may mention, but for the pairs that officers left out."""

    lengths: Mapping[str, int] = field(default_factory=dict)  # subject id → characters of the canonical identifier
    spared: frozenset[tuple[str, str]] = frozenset()  # (document id, subject id)

    def refused(self, document_id: str, mentioned: Set[str]) -> bool:
        return any((document_id, each) not in self.spared for each in mentioned)


# -- audit --------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class AuditEvent:
    """What somebody did, or tried to do. It holds pseudonyms, keyed hashes and codes, never a name, an address or content.

    ``governance.audit`` makes and seals events. ``objects`` are of the form ``kind:id``. ``outcome`` is one of started, success,
    failure, denied.
    """

    event_id: str
    at: datetime
    tenant: str
    actor: str
    action: str
    objects: tuple[str, ...] = ()
    outcome: str = "success"
    reason: str = ""
    details: Mapping[str, str | int] = field(default_factory=dict)
    seal: str = ""

    def fields(self) -> dict[str, Any]:
        """Return everything that the links of a chain cover, as values of JSON."""
        return {
            "event_id": self.event_id,
            "at": self.at.astimezone(UTC).isoformat(timespec="microseconds"),
            "tenant": self.tenant,
            "actor": self.actor,
            "action": self.action,
            "objects": list(self.objects),
            "outcome": self.outcome,
            "reason": self.reason,
            "details": dict(self.details),
            "seal": self.seal,
        }


@dataclass(frozen=True, slots=True)
class AuditEntry:
    """An event in the chain of its tenant. ``number`` counts from 1; ``previous`` and ``link`` are of ``rag.ids.link``."""

    number: int
    previous: str
    link: str
    event: AuditEvent


@dataclass(frozen=True, slots=True)
class AuditHead:
    """The number and the link of a chain's last entry."""

    number: int
    link: str


@dataclass(frozen=True, slots=True)
class AuditQuery:
    """The wanted events. An empty field selects all. ``action`` selects ``query.search`` also by its first word."""

    since: datetime | None = None
    until: datetime | None = None
    actor: str = ""
    action: str = ""
    object: str = ""
    outcome: str = ""
