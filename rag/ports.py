"""The ports: the domain's needs as protocols. Each port has an in-memory adapter; ``tests/contracts`` runs one suite on all adapters.

Every method may raise Unavailable when the dependency does not answer. The docstrings state all other errors.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Protocol

from rag.models import (
    AccessFilter,
    AccessRule,
    Answer,
    AuditEntry,
    AuditEvent,
    AuditHead,
    AuditQuery,
    Batch,
    DocumentRecord,
    Embedding,
    ErasedPeople,
    Erasure,
    Hit,
    Hold,
    HybridQuery,
    IndexSpec,
    Inventoried,
    ObjectState,
    OffsetRange,
    ParsedDocument,
    Payload,
    Point,
    Provenance,
    RuledScopes,
    ScoredPoint,
    SourceObject,
    SparseVector,
    Vector,
)
from rag.telemetry import SampleKey


class ObjectStore(Protocol):
    """Objects by URI (``s3://bucket/key``, ``file:///folder/path``). A URI outside of the configured containers is Rejected."""

    async def head(self, uri: str) -> ObjectState | None:
        """Return the object's state. None means confirmed absence; a refused or failed request is Unavailable."""

    async def get(self, uri: str, *, limit: int | None = None) -> SourceObject | None:
        """Return state and content of one version. Raises Rejected("too_large") before reading more than ``limit`` bytes.

        Raises ObjectUnavailable when the container answers but refuses this object.
        """

    async def put(
        self, uri: str, content: bytes, *, media_type: str = "", labels: Mapping[str, str] | None = None
    ) -> ObjectState:
        """Store the object as a whole: a part of it is never visible. Idempotent.

        Labels are kept as they are. Raises ValueError for one that is not printable ASCII: ``rag.labels`` encodes them.
        """

    async def delete(self, uris: Sequence[str]) -> None:
        """Delete the objects. Idempotent: an absent object is not an error."""

    async def erase(self, uris: Sequence[str]) -> None:
        """Delete every version, delete marker and unfinished upload of the objects. Idempotent."""

    async def kept(self, uris: Sequence[str]) -> set[str]:
        """Return those of ``uris`` of which any version, delete marker or unfinished upload is left."""

    def list(self, prefix_uri: str) -> AsyncIterator[ObjectState]:
        """List the objects under the prefix, in any order and without their labels."""

    async def identity(self, uri: str) -> Mapping[str, str]:
        """Return the marks of the container's root: ``inode``, and ``marker`` if it has one. Empty when the name identifies it.

        A root that is absent is Unavailable.
        """


class Parser(Protocol):
    """Converter from bytes to structured text. Its time and memory are bounded for any input."""

    async def parse(
        self, content: bytes, *, name: str, media_type: str | None = None, compartment: str = ""
    ) -> ParsedDocument:
        """Parse the content. The file ``name`` helps to detect the format.

        A process may read several documents of one ``compartment``, so these must have the same readers. Without one, a document has
        a process of its own.

        Raises Rejected with one of the reasons unsupported, encrypted, corrupt, empty, no_text, too_large, too_many_pages,
        timeout, out_of_memory, crashed. Raises Unavailable when no process can be started or isolated.
        """


class Tokenizer(Protocol):
    """The embedder's own tokenizer."""

    def spans(self, text: str) -> Sequence[tuple[int, int]]:
        """Return the character span of each token of ``text``, without special tokens and without truncation."""


class Embedder(Protocol):
    """Encoder of texts as unit vectors. Other texts in the batch do not change a text's vector (cosine >= 0.9999)."""

    name: str
    dimensions: int
    max_tokens: int
    fingerprint: str  # changes with model, precision, pooling, prefix

    async def embed(self, texts: Sequence[str]) -> Sequence[Vector]:
        """Embed texts of documents. Texts over ``max_tokens`` are truncated.

        Raises ObjectUnavailable when the model refuses one of the texts and accepts others.
        """

    async def embed_query(self, text: str) -> Vector:
        """Embed a question. Some models need another prefix for it."""


class SparseEncoder(Protocol):
    """Encoder of texts as term weights for BM25. It is pure and fast, so it is called on the event loop."""

    fingerprint: str

    def encode(self, texts: Sequence[str]) -> Sequence[SparseVector]: ...

    def encode_query(self, text: str) -> SparseVector: ...


class VectorIndex(Protocol):
    """Points in collections, one collection per index."""

    async def create(self, spec: IndexSpec) -> None:
        """Create the collection, and the alias ``documents`` if it does not exist. Idempotent."""

    async def exists(self, index_id: str) -> bool:
        """Return whether the collection exists."""

    async def upsert(self, index_id: str, points: Sequence[Point]) -> None:
        """Write the whole batch. The points are searchable when the call returns. Idempotent.

        A call that times out may still be executed later.
        """

    async def delete(self, index_id: str, point_ids: Sequence[str]) -> None:
        """Delete points. They are no longer searchable when the call returns. Idempotent."""

    async def purge(self, index_id: str) -> None:
        """Remove the bytes of deleted points from the index's files, and return when that is done. Searches go on, or wait for it.

        Qdrant keeps small segments and the tail of its log as they are, until more is written.
        """

    async def search(self, index_id: str, query: HybridQuery, access: AccessFilter, *, limit: int) -> list[ScoredPoint]:
        """Return dense and sparse candidates that match the filter, fused by reciprocal rank, best first, equals by id.

        Fewer than ``limit`` points mean that there are no more candidates.
        """

    def scroll(
        self, index_id: str, *, partition: int | None = None, documents: Sequence[str] | None = None, start: str = ""
    ) -> AsyncIterator[tuple[str, str]]:
        """Yield (point id, payload hash) of every point, in order of id from ``start`` on. ``partition`` (of Kafka) and ``documents``
        restrict the points."""

    async def retrieve(self, index_id: str, point_ids: Sequence[str]) -> list[Point]: ...

    async def count(self, index_id: str, *, partition: int | None = None) -> int:
        """Return the exact number of points."""


@dataclass(frozen=True, slots=True)
class Record:
    """One record of the log. A tombstone has the ``value`` None; ``error`` is the reason why the bytes could not be decoded."""

    topic: str
    partition: int
    offset: int
    key: str
    value: Any
    headers: Mapping[str, str] = field(default_factory=dict)
    error: str = ""
    size: int = 0  # bytes of key and value in the log


@dataclass(frozen=True, slots=True)
class TopicState:
    """The state of a topic. ``epoch`` identifies cluster, topic id and partition count.

    ``bounds`` maps each partition to its first offset that is still in the log and its end offset.
    """

    topic: str
    epoch: str
    bounds: Mapping[int, tuple[int, int]]


Starts = Callable[[frozenset[int]], Awaitable[Mapping[int, int]]]
"""Assigned partitions → the offset of each from which it must be read."""


class Subscription(Protocol):
    """A membership in a consumer group, which divides the partitions of a topic among its members."""

    @property
    def partitions(self) -> frozenset[int]:
        """Return the partitions that are assigned now."""

    async def poll(self, wait: float) -> list[Record]:
        """Return the records that have arrived, in order per partition. Wait up to ``wait`` seconds for the first one only.

        Assigned and revoked partitions change within this call. Raises LostEvents when an offset that must be read was purged.
        """

    async def pause(self, partitions: frozenset[int]) -> None:
        """Receive no further records of these partitions until they are resumed. Idempotent; other partitions are ignored."""

    async def resume(self, partitions: frozenset[int]) -> None: ...

    async def commit(self, positions: Mapping[int, int]) -> None:
        """Mirror positions to the group, for lag tools. The positions that count are the ledger's, so a failure is ignored."""


class EventLog(Protocol):
    """The domain's view of Kafka. Values are the dataclasses of ``schemas.events``."""

    async def publish(
        self, topic: str, events: Sequence[tuple[str, Any]], *, headers: Mapping[str, str] | None = None
    ) -> None:
        """Publish (key, value) pairs. All are acknowledged when the call returns. Delivery is at least once, in order per key."""

    async def describe(self, topic: str) -> TopicState: ...

    async def read(self, topic: str, partition: int, start: int, end: int) -> list[Record]:
        """Read the records with ``start <= offset < end``; the log may have gaps. Raises LostEvents when ``start`` was purged, and
        Unavailable when the log ends before ``end``."""

    async def mirror(self, group: str, topic: str, positions: Mapping[int, int]) -> bool:
        """Commit the positions as a non-member, for lag tools. Return False when the group has members, which is not an error:
        another lane has taken over."""

    async def members(self, group: str) -> int: ...

    def subscribe(self, group: str, topic: str, starts: Starts) -> AbstractAsyncContextManager[Subscription]:
        """Join the group for the time of the block. ``starts`` is awaited for each new assignment, before any of its records comes."""


@dataclass(frozen=True, slots=True)
class Delta:
    """The changes from the recorded to the desired state of one document. ``rag.ingest.indexing.plan`` computes them."""

    record: DocumentRecord  # the new row; its ``revision`` is the base revision of the plan
    writes: Mapping[str, Payload] = field(default_factory=dict)  # chunk id → payload of the chunk's new point
    retired: tuple[str, ...] = ()  # point ids that are no longer current
    is_visible: bool = True  # whether a reader can see the difference
    needs_confirmation: bool = False  # a deletion that is held back unless it was confirmed, however small
    tokens: int = 0
    erased_people: int = 0  # of the tenant, when the text was searched for them

    @property
    def new_points(self) -> list[str]:
        """Return the ids of the points that must be written. The ids are assigned when the intent is recorded."""
        return [self.record.chunks[chunk_id].point_id for chunk_id in self.writes]


@dataclass(frozen=True, slots=True)
class OutboxEvent:
    """An event that is published after the transaction that caused it."""

    topic: str
    key: str
    value: Any  # a dataclass of ``schemas.events``, or None for a tombstone


FreshVectors = Mapping[tuple[str, str, bytes], tuple[str, Vector]]
"""(embedder fingerprint, tenant, embedding key) → (document id, vector): new entries of the embedding cache."""


@dataclass(frozen=True, slots=True)
class SwapResult:
    """The deltas of locked documents: accepted, lost because the document was changed or suppressed or a person erased meanwhile, or
    held: deletions that wait for a confirmation."""

    accepted: tuple[Delta, ...]
    lost: tuple[Delta, ...]
    held: tuple[Delta, ...] = ()


EventsOf = Callable[[SwapResult], Sequence[OutboxEvent]]
"""The verdicts of a swap → the events that report it."""


class Ledger(Protocol):
    """The authority on which chunks are visible. Every applied delta increments the document's revision by one."""

    async def open_index(self, spec: IndexSpec) -> None:
        """Register the index. Idempotent."""

    async def recorded(self, index_id: str, document_ids: Sequence[str]) -> dict[str, DocumentRecord]:
        """Return a record for every requested id, with revision 0 for an unknown document."""

    async def record_intent(self, index_id: str, deltas: Sequence[Delta]) -> None:
        """Record the points that are about to be written, so that the garbage of a crash can be found. Commits."""

    async def swap(
        self,
        index_id: str,
        deltas: Sequence[Delta],
        *,
        vectors: FreshVectors | None = None,
        events: EventsOf | None = None,
        done: OffsetRange | None = None,
        settings: Mapping[str, str] | None = None,
    ) -> SwapResult:
        """Lock the documents in id order in one short transaction, check revision, intent and suppression again, record the
        accepted deltas, cache the ``vectors`` of their documents, and write their ``events`` to the outbox.

        The deletion of live and parked documents is held and recorded if it and the recent ones would delete most of a source
        (``rag.ingest.deletions``) and it was not confirmed. An accepted delta ends the confirmation of its document.
        If no delta was lost, move the position to the end of ``done`` as well. A position never moves back.
        ``settings`` is source → digest of the settings that the deltas were derived with. Raises OutdatedSettings, and records
        nothing, when another digest of a source was declared.
        """

    async def declare_settings(self, digests: Mapping[str, str]) -> None:
        """Declare the settings of every source (``Source.digest``). Every running swap ends first. A source that was declared before
        and is missing now is declared as not configured, with an empty digest. Idempotent."""

    async def condemn(
        self, index_id: str, *, point_ids: Sequence[str] | None = None, older_than: float = 0.0, limit: int = 1000
    ) -> list[str]:
        """Mark garbage for deletion and return its point ids: of ``point_ids``, or any that is ``older_than`` seconds. Commits.

        Garbage is a point that was written, or whose write was intended, and that is not current. A swap refuses a delta whose
        intent was condemned.
        """

    async def forget_points(self, index_id: str, point_ids: Sequence[str]) -> None:
        """Delete the entries of condemned points, after the points were deleted. Idempotent."""

    async def unknown_points(self, index_id: str, point_ids: Sequence[str]) -> set[str]:
        """Return the orphans among the points: neither current, nor intended, nor condemned."""

    async def has_points(self, index_id: str) -> bool:
        """Return whether any point of the index is current."""

    async def index_revision(self, index_id: str, tenant: str) -> int:
        """Return a number that grows with every transaction that changes the tenant's part of the index."""

    async def ruled_scopes(self, access: AccessFilter) -> RuledScopes:
        """Return the scopes that the access rules of the filter's principals name."""

    async def erased_people(self, tenant: str, document_ids: Sequence[str]) -> ErasedPeople:
        """Return the tenant's erased people, and who of them the documents may mention."""

    async def ruled(self, tenant: str, scopes: Sequence[str]) -> set[str]:
        """Return those of ``scopes`` that any access rule names."""

    async def visible(self, index_id: str, point_ids: Sequence[str], access: AccessFilter) -> dict[str, Provenance]:
        """Return point id → provenance of the points that are current, live, not suppressed and allowed. Omit the other points."""


class AccessRules(Protocol):
    """The grants and revokes of administrators. Every search, cached answer and listing obeys them from the call's return on."""

    async def access_rules(
        self,
        tenant: str,
        *,
        source: str = "",
        principals: Sequence[str] | None = None,
        scopes: Sequence[str] | None = None,
        after: str = "",
        limit: int = 100,
    ) -> list[AccessRule]:
        """Return a page of the tenant's rules, in order of id: those of a source, of any of the ``principals``, and of
        any of the ``scopes``."""

    async def decide(self, rule: AccessRule) -> AccessRule:
        """Record the rule in the place of an earlier one for its scope and principal. Idempotent."""

    async def withdraw(self, tenant: str, rule_id: str) -> AccessRule | None:
        """Delete the rule, so that its scope's labels alone decide again. Return it, or None when there is none. Idempotent."""


class Holds(Protocol):
    """Legal holds. ``Erasures.accept`` refuses an erasure of anything under one."""

    async def place(self, hold: Hold) -> Hold:
        """Record the hold and return it with its time. Idempotent by its id. An acceptance comes before it, or after it and is refused."""

    async def holds(
        self, tenant: str, *, scopes: Sequence[str] | None = None, after: str = "", limit: int = 100
    ) -> list[Hold]:
        """Return a page of the tenant's holds in order of id, which is the order of time: those of any of the ``scopes``, or all."""

    async def lift(self, tenant: str, hold_id: str) -> Hold | None:
        """Delete the hold and return it, or None when there is none. Idempotent."""


class Deletions(Protocol):
    """The deletions that were held back because they would delete most of a source. A person confirms them, document by document."""

    async def held_deletions(self, index_id: str, tenant: str, source: str) -> dict[str, bool]:
        """Return document id → whether its deletion is confirmed, of the deletions that are not done."""

    async def confirm_deletions(
        self, index_id: str, tenant: str, source: str, document_ids: Sequence[str], *, restart_count: bool = False
    ) -> None:
        """Accept the deletion of these documents until it is done. Idempotent.

        With ``restart_count``, the source's recent deletions count no longer: a person saw them and confirmed the rest.
        """

    async def release_deletions(self, index_id: str, document_ids: Sequence[str]) -> None:
        """Forget held and confirmed deletions of documents that are there again. Idempotent."""


class Positions(Protocol):
    """The positions of each index in the log."""

    async def positions(self, index_id: str, topic: str, epoch: str) -> dict[int, int]:
        """Return partition → next offset. Partitions that were never read are missing."""

    async def advance(self, index_id: str, done: OffsetRange) -> None:
        """Record that every offset before ``done.end`` is applied. A position never moves back, so a late worker has no effect."""

    async def epochs(self, index_id: str, topic: str) -> list[str]:
        """Return the epochs that have recorded positions, oldest first."""


@dataclass(frozen=True, slots=True)
class DocumentQuery:
    """The wanted documents of a catalog. An empty field selects all. ``title`` is a part of the title, in any case."""

    source: str = ""
    status: str = ""
    reason: str = ""
    title: str = ""


class Catalog(Protocol):
    """The documents, for people's queries and for backfills."""

    async def live(self, index_id: str, partition: int, *, after: str = "", limit: int = 1000) -> list[DocumentRecord]:
        """Return a page, in order of id, of the documents of the partition that a backfill derives again: the live, the parked and
        the dead ones."""

    async def shard(self, index_id: str, shard: str) -> list[DocumentRecord]:
        """Return every document, also the deleted ones, whose id starts with the two hex digits of ``shard``."""

    async def of_tenant(
        self, index_id: str, tenant: str, *, after: str = "", limit: int = 1000
    ) -> list[DocumentRecord]:
        """Return a page, in order of id, of the tenant's documents that are not deleted."""

    async def parked(self, index_id: str, *, due: datetime, limit: int = 100) -> list[DocumentRecord]:
        """Return the parked documents whose next try is due at that time, longest due first."""

    async def parked_reasons(self, index_id: str) -> dict[str, int]:
        """Return reason → number of parked documents."""

    async def points(self, index_id: str, partition: int, *, documents: Sequence[str] | None = None) -> dict[str, str]:
        """Return point id → payload hash of all current points of the partition, or of the given ``documents`` only."""

    async def documents(
        self, index_id: str, access: AccessFilter, wanted: DocumentQuery, *, after: str = "", limit: int = 100
    ) -> list[dict[str, Any]]:
        """Return a page of the documents that the caller may see, in order of id. Dead and parked documents have their reason."""

    async def document(self, index_id: str, document_id: str, access: AccessFilter) -> dict[str, Any] | None:
        """Return a document that the caller may see, with the cause of its last change."""

    async def lineage(self, index_id: str, document_id: str, access: AccessFilter) -> dict[str, Any] | None:
        """Return ``document`` with its current ``points``, and its state in each index that has it (``indexes``), newest first."""

    async def inventory(self, index_id: str, tenant: str, source: str) -> dict[str, Inventoried]:
        """Return uri → recorded state of a source's documents that are not deleted. Reconciliation compares a listing with it."""

    async def recorded_sources(self, index_id: str) -> set[tuple[str, str]]:
        """Return the (tenant, source) pairs that have documents, also those that are no longer configured."""

    async def counts(self, index_id: str, tenant: str, source: str, prefix: str = "") -> dict[str, int]:
        """Return status → number of documents of a source whose uri starts with ``prefix``."""


class Outbox(Protocol):
    """Events that were recorded together with the change that they report, until they are published."""

    def unpublished(self, *, limit: int = 1000) -> AbstractAsyncContextManager[Sequence[OutboxEvent]]:
        """Yield the oldest events in order, to one caller at a time. Delete them on a clean exit."""


class EmbeddingCache(Protocol):
    """Vectors of texts that were embedded before, by embedder fingerprint, tenant and ``Ids.embedding_key``."""

    async def lookup(self, fingerprint: str, tenant: str, keys: Iterable[bytes]) -> dict[bytes, Vector]: ...

    async def prune(self, *, max_rows: int, max_age_days: float) -> int:
        """Drop entries not used for ``max_age_days``, and the least recently used ones over ``max_rows``. Return how many were dropped."""


class Suppressions(Protocol):
    """The ids of documents and people that admission refuses, so that erased data never comes back."""

    async def suppressed(self, tenant: str, ids: Sequence[str]) -> set[str]:
        """Return those of ``ids`` (document ids, subject ids) that are suppressed."""

    async def suppress(
        self, tenant: str, ids: Sequence[str], *, reason: str, events: Sequence[OutboxEvent] = ()
    ) -> None:
        """Suppress the ids, and write the ``events`` to the outbox in the same transaction. Idempotent, but for the events."""


class Erasures(Protocol):
    """Accepted erasures, and the content that the ledger itself holds of documents."""

    async def located(
        self, tenant: str, *, document_id: str = "", uri_prefix: str = "", subject_ids: Sequence[str] = ()
    ) -> list[DocumentRecord]:
        """Return the recorded documents, of any status and index, that one of the conditions names: each once, without erased ones."""

    async def accept(self, erasure: Erasure, events: Sequence[OutboxEvent], *, scopes: Sequence[str] = ()) -> None:
        """Suppress the erasure's documents and people, record it, and write the ``events`` to the outbox, in one transaction.

        Raises Conflict, and changes nothing, when one of ``scopes`` (those of the documents) is under a legal hold.

        A swap that runs ends first. A later one sees the suppressions, and loses documents whose text was not searched for the people.
        Idempotent by the erasure's id, but for the events.
        """

    async def erasures(self, tenant: str, *, after: str = "", limit: int = 100) -> list[Erasure]:
        """Return a page of the tenant's erasures, in order of id, which is the order of time."""

    async def erasure(self, tenant: str, erasure_id: str) -> Erasure | None: ...

    async def due_erasures(self, now: datetime, *, limit: int = 10) -> list[Erasure]:
        """Return the erasures of every tenant whose next step is due, longest due first."""

    async def open_deadlines(self) -> list[datetime]:
        """Return the deadline of every erasure that is not certified."""

    async def progress(self, erasure: Erasure, events: Sequence[OutboxEvent] = ()) -> Erasure:
        """Record the progress and the ``events`` under the next revision. Raises Conflict when another worker did before."""

    async def forget(self, tenant: str, document_ids: Sequence[str]) -> None:
        """Delete all that the ledger holds of suppressed documents in every index, but their ids. Their points become garbage."""

    async def remembered(self, tenant: str, document_ids: Sequence[str]) -> set[str]:
        """Return those of the documents of which the ledger holds more than their ids."""

    async def index_ids(self) -> list[str]:
        """Return the ids of all indexes, oldest first."""


class Batches(Protocol):
    """The batches of references that assets pass to each other within a run. Kept for a day."""

    async def save(self, run_id: str, step: str, batch: Batch) -> None: ...

    async def load(self, run_id: str, step: str, partition: int) -> Batch | None: ...


class Cursors(Protocol):
    """The progress through each polled source."""

    async def cursor(self, name: str) -> dict[str, Any]:
        """Return the cursor. It is empty if it was never set."""

    async def set_cursor(self, name: str, value: Mapping[str, Any]) -> None: ...

    async def row_hashes(self, source: str, table: str, keys: Sequence[str] | None = None) -> dict[str, str]:
        """Return key → hash of the rows that were last announced, or of the given ``keys`` only."""

    async def set_row_hashes(
        self, source: str, table: str, hashes: Mapping[str, str], gone: Sequence[str] = ()
    ) -> None: ...


class Measurements(Protocol):
    """Counters that outlive their process. A Dagster run adds to them; the gateway's ``/metrics`` reports them."""

    async def add(self, values: Mapping[SampleKey, float]) -> None:
        """Add the increments."""

    async def totals(self) -> dict[SampleKey, float]: ...


class AuditLog(Protocol):
    """Append-only chains of events, one for each tenant. Whoever changes an entry breaks its chain (``governance.audit_chain``)."""

    async def append_audit(self, events: Sequence[AuditEvent]) -> None:
        """Append the events to the chains of their tenants, in one transaction and in this order. Several processes may append at once.

        Idempotent by event id, so a call whose result was lost may be repeated.
        """

    async def audit_entries(
        self, tenant: str, wanted: AuditQuery, *, after: int = 0, newest_first: bool = False, limit: int = 1000
    ) -> list[AuditEntry]:
        """Return a page of a chain by number: the entries beyond ``after``, or with ``newest_first`` those before it (0: the end)."""

    async def audit_heads(self) -> dict[str, AuditHead]:
        """Return tenant → head of its chain, for the chains that have entries."""


class Stores(
    Ledger,
    AccessRules,
    Holds,
    Deletions,
    Positions,
    Outbox,
    Catalog,
    EmbeddingCache,
    Suppressions,
    Erasures,
    Batches,
    Cursors,
    Measurements,
    AuditLog,
    Protocol,
):
    """The ports of one database, because they share its transactions."""


@dataclass(frozen=True, slots=True)
class Row:
    """A row of a table. ``body`` is a JSON object of all its columns that are not null.

    ``columns`` names all columns of the table, also those that are null here; it is empty where the source does not know them.
    """

    key: str
    changed: datetime
    body: str
    columns: tuple[str, ...] = ()


class Warehouse(Protocol):
    """Polled tables. ``table``, ``key`` and ``changed`` are identifiers from the settings, never from data. A compound ``key`` is the
    expression of its adapter."""

    async def changed(
        self, table: str, key: str, changed: str, *, since: datetime | None, after: Row | None, limit: int
    ) -> list[Row]:
        """Return rows in order of (changed, key): from ``since`` on, or strictly after the row ``after``."""

    async def hashes(self, table: str, key: str) -> dict[str, str]:
        """Return key → hash of the row's body (MD5, hex). The warehouse computes the hashes."""

    async def rows(self, table: str, key: str, changed: str, keys: Sequence[str]) -> list[Row]:
        """Return those rows of ``keys`` that exist."""


class ChangedKeys(Protocol):
    """Outboxes with the keys of changed rows, from Snowflake streams. The names are identifiers from the settings, never from data."""

    async def pending(self, outbox: str, limit: int) -> list[tuple[int, str]]:
        """Return the (number, row key) of the oldest entries."""

    async def fill(self, stream: str, outbox: str, key: str) -> None:
        """Move the changes of the stream to the outbox in one transaction: both happen or neither. Raises StaleStream."""

    async def forget(self, outbox: str, numbers: Sequence[int]) -> None:
        """Delete these entries. It is idempotent."""


class StreamedWarehouse(Warehouse, ChangedKeys, Protocol):
    """A warehouse with streams."""


class AnswerCache(Protocol):
    async def get(self, key: str) -> bytes | None: ...

    async def put(self, key: str, value: bytes, *, ttl: float, documents: Sequence[str] = ()) -> None:
        """Keep the entry for ``ttl`` seconds. ``documents`` are the ids of those that it rests on."""

    async def forget(self, documents: Sequence[str]) -> int:
        """Delete the entries that rest on any of the documents, and return their number. Idempotent."""

    async def rests_on(self, documents: Sequence[str]) -> set[str]:
        """Return those of the documents that an entry rests on."""


class Reranker(Protocol):
    name: str

    async def rerank(self, question: str, hits: Sequence[Hit], *, limit: int) -> list[Hit]:
        """Return the best ``limit`` of ``hits``, best first, with the reranker's scores."""


class Generator(Protocol):
    name: str

    async def generate(self, question: str, hits: Sequence[Hit]) -> Answer:
        """Answer from the hits alone, or abstain if they do not contain the answer. Every citation's quote is verbatim in its hit."""


Embeddings = Mapping[str, Embedding]  # chunk id → embedding
