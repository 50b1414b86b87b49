"""What the domain needs from the world. Each port has an in-memory adapter; ``tests/contracts`` holds all of them to one behaviour.

Every method may raise Unavailable when the dependency does not answer; anything else that is raised is in the docstring.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Protocol

from rag.models import (
    AccessFilter,
    Answer,
    Batch,
    DocumentRecord,
    Embedding,
    Hit,
    HybridQuery,
    IndexSpec,
    ObjectState,
    OffsetRange,
    ParsedDocument,
    Payload,
    Point,
    Provenance,
    ScoredPoint,
    SourceObject,
    SparseVector,
    Vector,
)


class ObjectStore(Protocol):
    """Objects by URI (``s3://bucket/key``, ``file:///folder/path``); only containers it was made for can be reached (Rejected)."""

    async def head(self, uri: str) -> ObjectState | None:
        """None means confirmed absence; a refused or failed look is Unavailable."""

    async def get(self, uri: str, *, limit: int | None = None) -> SourceObject | None:
        """State and content of one version. Raises Rejected("too_large") before reading more than ``limit`` bytes."""

    async def put(
        self, uri: str, content: bytes, *, media_type: str = "", labels: Mapping[str, str] | None = None
    ) -> ObjectState:
        """Idempotent. Not visible in part."""

    async def delete(self, uris: Sequence[str]) -> None:
        """Idempotent: absent objects are no error."""

    def list(self, prefix_uri: str) -> AsyncIterator[ObjectState]:
        """In no promised order; labels are not filled in."""


class Parser(Protocol):
    """Bytes to text with structure, in bounded time and memory, whatever the bytes are."""

    async def parse(self, content: bytes, *, name: str, media_type: str | None = None) -> ParsedDocument:
        """Raises Rejected with a reason: unsupported, encrypted, corrupt, empty, no_text, too_large, too_many_pages, timeout,
        out_of_memory, crashed. ``name`` (a file name) helps to tell the format."""


class Tokenizer(Protocol):
    """The embedder's own tokenizer."""

    def spans(self, text: str) -> Sequence[tuple[int, int]]:
        """Character span of each token of ``text``, without special tokens, not truncated."""


class Embedder(Protocol):
    """Texts to unit vectors. The same text gives the same vector (cosine >= 0.9999) whatever its batch mates."""

    name: str
    dimensions: int
    max_tokens: int
    fingerprint: str  # changes with model, precision, pooling, prefix

    async def embed(self, texts: Sequence[str]) -> Sequence[Vector]:
        """Documents. Texts over ``max_tokens`` are cut at the end."""

    async def embed_query(self, text: str) -> Vector:
        """A question (some models want another prefix for it)."""


class SparseEncoder(Protocol):
    """Term weights for BM25. Pure and fast: called inline."""

    fingerprint: str

    def encode(self, texts: Sequence[str]) -> Sequence[SparseVector]: ...

    def encode_query(self, text: str) -> SparseVector: ...


class VectorIndex(Protocol):
    """Points in collections, one collection per index."""

    async def create(self, spec: IndexSpec) -> None:
        """Idempotent. Makes the alias ``documents`` when there is none."""

    async def upsert(self, index_id: str, points: Sequence[Point]) -> None:
        """Idempotent; searchable when it returns. One call for the batch."""

    async def set_payloads(self, index_id: str, payloads: Mapping[str, Payload]) -> None:
        """Replace payloads (chunk id → payload); vectors stay. Absent points stay absent."""

    async def delete(self, index_id: str, chunk_ids: Sequence[str]) -> None:
        """Idempotent; not found any more when it returns."""

    async def search(self, index_id: str, query: HybridQuery, access: AccessFilter, *, limit: int) -> list[ScoredPoint]:
        """Dense and sparse candidates under the filter, fused by reciprocal rank; best first."""

    def scroll(
        self, index_id: str, *, partition: int | None = None, documents: Sequence[str] | None = None
    ) -> AsyncIterator[tuple[str, str]]:
        """(chunk id, payload hash) of every point, of one Kafka partition and of some documents when named."""

    async def retrieve(self, index_id: str, chunk_ids: Sequence[str]) -> list[Point]: ...

    async def count(self, index_id: str, *, partition: int | None = None) -> int:
        """Exact."""


@dataclass(frozen=True, slots=True)
class Record:
    """One record of the log. ``value`` None is a tombstone; ``error`` says why the bytes could not be decoded."""

    topic: str
    partition: int
    offset: int
    key: str
    value: Any
    headers: Mapping[str, str] = field(default_factory=dict)
    error: str = ""


@dataclass(frozen=True, slots=True)
class TopicState:
    """``bounds``: partition → (first offset still held, end offset). ``epoch`` names cluster, topic id and partition count."""

    topic: str
    epoch: str
    bounds: Mapping[int, tuple[int, int]]


class EventLog(Protocol):
    """Kafka, as far as the domain knows it. Values are the dataclasses of ``schemas.events``."""

    async def publish(
        self, topic: str, events: Sequence[tuple[str, Any]], *, headers: Mapping[str, str] | None = None
    ) -> None:
        """(key, value) pairs, all acknowledged when it returns. Delivered at least once, in order per key."""

    async def describe(self, topic: str) -> TopicState: ...

    async def read(self, topic: str, partition: int, start: int, end: int) -> list[Record]:
        """Records with ``start <= offset < end``, fewer where the log has holes. Raises LostEvents when ``start`` is gone."""

    async def mirror(self, group: str, topic: str, positions: Mapping[int, int]) -> bool:
        """Commit as a non-member, for lag tools. False when the group has members: a hand-over, not a failure."""

    async def members(self, group: str) -> int: ...


@dataclass(frozen=True, slots=True)
class Delta:
    """What turns the recorded state of one document into the desired one. Made by ``rag.ingest.indexing.plan``."""

    record: DocumentRecord  # the row to be, with ``revision`` = the base revision this was planned from
    upserts: Mapping[str, Payload] = field(default_factory=dict)
    payload_updates: Mapping[str, Payload] = field(default_factory=dict)  # payload changes only
    deletes: tuple[str, ...] = ()
    tokens: int = 0

    @property
    def is_nothing(self) -> bool:
        return not (self.upserts or self.payload_updates or self.deletes)


FreshVectors = Mapping[tuple[str, str, bytes], tuple[str, Vector]]
"""(embedder fingerprint, tenant, embedding key) → (document id, vector): what the embedding cache is to remember."""


@dataclass(frozen=True, slots=True)
class SwapResult:
    """Deltas whose documents are locked: the accepted ones, the ones that lost the compare-and-swap, and the suppressed ones."""

    accepted: tuple[Delta, ...]
    lost: tuple[Delta, ...]
    suppressed: tuple[Delta, ...]


class Ledger(Protocol):
    """The judge of what is visible. Revisions grow by one with every applied delta."""

    async def open_index(self, spec: IndexSpec) -> None:
        """Register the index. Idempotent."""

    async def recorded(self, index_id: str, document_ids: Sequence[str]) -> dict[str, DocumentRecord]:
        """An entry for every id asked for; revision 0 where nothing is known."""

    async def record_intent(self, index_id: str, deltas: Sequence[Delta]) -> None:
        """Record the chunks that are about to be written, so that the garbage of a crash is known. Commits."""

    def swap(
        self, index_id: str, deltas: Sequence[Delta], *, vectors: FreshVectors | None = None
    ) -> AbstractAsyncContextManager[SwapResult]:
        """Lock the documents in id order and re-check revision, intent and suppression; on a clean exit record the accepted
        deltas and cache the ``vectors`` of their documents, in one transaction. On an exception nothing is recorded."""

    def garbage(
        self, index_id: str, *, document_ids: Sequence[str] | None = None, older_than: float = 0.0, limit: int = 1000
    ) -> AbstractAsyncContextManager[Sequence[str]]:
        """Lock the documents that have garbage and yield its chunk ids (written or about to be, and not current); forgotten on a
        clean exit. ``older_than`` in seconds."""

    async def index_revision(self, index_id: str, tenant: str) -> int:
        """Grows with every transaction that changed anything of the tenant in the index."""

    async def visible(self, index_id: str, chunk_ids: Sequence[str], access: AccessFilter) -> dict[str, Provenance]:
        """The chunks that are current, live, not suppressed, and allowed; the others are missing from the answer."""


class Positions(Protocol):
    """Where each index stands in the log."""

    async def positions(self, index_id: str, topic: str, epoch: str) -> dict[int, int]:
        """partition → next offset; partitions never read are missing."""

    async def advance(self, index_id: str, done: OffsetRange) -> None:
        """Everything before ``done.end`` is applied. Forward only: a late worker changes nothing."""

    async def epochs(self, index_id: str, topic: str) -> list[str]:
        """Epochs with recorded positions, oldest first."""


class Catalog(Protocol):
    """Documents as people ask for them."""

    async def live(self, index_id: str, partition: int) -> list[DocumentRecord]:
        """Every document of the partition that a backfill re-derives: live and dead ones."""

    async def chunks(self, index_id: str, partition: int, *, documents: Sequence[str] | None = None) -> dict[str, str]:
        """chunk id → payload hash of all current chunks of the partition, of some documents when named."""

    async def documents(
        self, index_id: str, access: AccessFilter, *, after: str = "", limit: int = 100, status: str | None = None
    ) -> list[dict[str, Any]]:
        """Documents the caller may see (dead ones with their reason), in order of id, for paging."""

    async def document(self, index_id: str, document_id: str, access: AccessFilter) -> dict[str, Any] | None:
        """One of them, with its provenance and chunk ids (its lineage)."""

    async def inventory(self, index_id: str, source: str) -> dict[str, tuple[str, str]]:
        """uri → (document id, change_token) of all documents of a source that are not deleted: what a reconciling listing compares with."""

    async def counts(self, index_id: str, source: str, prefix: str = "") -> dict[str, int]:
        """status → number of documents of a source whose uri starts with ``prefix``."""


class EmbeddingCache(Protocol):
    async def lookup(self, fingerprint: str, tenant: str, keys: Iterable[bytes]) -> dict[bytes, Vector]: ...

    async def prune(self, *, max_rows: int, max_age_days: float) -> int:
        """Bound the cache; returns the number of rows dropped."""


class Suppressions(Protocol):
    """What must never come back."""

    async def suppressed(self, tenant: str, ids: Sequence[str]) -> set[str]:
        """Those of ``ids`` (document ids, subject ids) that are suppressed."""

    async def suppress(self, tenant: str, ids: Sequence[str], *, reason: str) -> None:
        """Idempotent."""


class Batches(Protocol):
    """References handed from asset to asset within a run. Kept for a day."""

    async def save(self, run_id: str, step: str, batch: Batch) -> None: ...

    async def load(self, run_id: str, step: str, partition: int) -> Batch | None: ...


class Cursors(Protocol):
    """How far a polled source has been read."""

    async def cursor(self, name: str) -> dict[str, Any]:
        """Empty when never set."""

    async def set_cursor(self, name: str, value: Mapping[str, Any]) -> None: ...

    async def row_hashes(self, source: str, table: str, keys: Sequence[str] | None = None) -> dict[str, str]:
        """key → hash of the rows last announced; of ``keys`` only when given."""

    async def set_row_hashes(
        self, source: str, table: str, hashes: Mapping[str, str], gone: Sequence[str] = ()
    ) -> None: ...


class Measurements(Protocol):
    """Counters that outlive the process that counted: a Dagster run adds, the gateway's ``/metrics`` shows."""

    async def add(self, values: Mapping[tuple[str, tuple[tuple[str, str], ...]], float]) -> None:
        """(metric name, sorted labels) → increment."""

    async def totals(self) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]: ...


class Stores(Ledger, Positions, Catalog, EmbeddingCache, Suppressions, Batches, Cursors, Measurements, Protocol):
    """The ports that one database serves, because they share its transactions."""


@dataclass(frozen=True, slots=True)
class Row:
    """A row of a warehouse table. ``body`` is a JSON object of all its columns that are not null."""

    key: str
    changed: datetime
    body: str


class Warehouse(Protocol):
    """Tables that are polled. ``table``, ``key`` and ``changed`` are identifiers from the settings, never from data."""

    async def changed(
        self, table: str, key: str, changed: str, *, since: datetime | None, after: Row | None, limit: int
    ) -> list[Row]:
        """Rows in order of (changed, key), from ``since`` on, or strictly after the row ``after``."""

    async def hashes(self, table: str, key: str) -> dict[str, str]:
        """key → hash of the row's body (MD5, hex), computed where the rows are."""

    async def rows(self, table: str, key: str, changed: str, keys: Sequence[str]) -> list[Row]:
        """The rows of ``keys`` that exist."""


class AnswerCache(Protocol):
    async def get(self, key: str) -> bytes | None: ...

    async def put(self, key: str, value: bytes, *, ttl: float) -> None: ...


class Reranker(Protocol):
    name: str

    async def rerank(self, question: str, hits: Sequence[Hit], *, limit: int) -> list[Hit]:
        """The best ``limit`` of ``hits``, best first, with the reranker's scores."""


class Generator(Protocol):
    name: str

    async def generate(self, question: str, hits: Sequence[Hit]) -> Answer:
        """An answer from the hits alone; abstains when they do not hold one. Every citation's quote is verbatim in its hit."""


Embeddings = Mapping[str, Embedding]  # chunk id → embedding
