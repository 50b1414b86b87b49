"""The ledger in memory, for fast tests: the same verdicts, one lock instead of row locks."""

from __future__ import annotations

import asyncio
import time
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from itertools import product
from typing import Any

from rag.adapters.memory.access import MemoryAccessRules
from rag.adapters.memory.audit import MemoryAuditLog
from rag.adapters.memory.erasures import MemoryErasures
from rag.adapters.memory.holds import MemoryHolds
from rag.ingest.deletions import WAVE_SECONDS, is_mass
from rag.models import (
    ERASED,
    AccessFilter,
    Batch,
    Cause,
    DocumentRecord,
    DocumentStatus,
    ErasedPeople,
    Erasure,
    IndexSpec,
    Inventoried,
    OffsetRange,
    Placement,
    Provenance,
    Vector,
)
from rag.ports import Delta, DocumentQuery, EventsOf, FreshVectors, OutboxEvent, SwapResult
from rag.sources import require_settings

SHOWN = {DocumentStatus.LIVE, DocumentStatus.PARKED}  # the statuses of documents that may have chunks
Label = tuple[tuple[str, str], ...]


@dataclass
class _Garbage:
    since: float  # monotonic
    is_intent: bool


@dataclass
class _Held:
    tenant: str
    source: str
    is_confirmed: bool = False


class MemoryLedger(MemoryAccessRules, MemoryHolds, MemoryErasures, MemoryAuditLog):
    """Ledger, AccessRules, Holds, Deletions, Positions, Outbox, Catalog, EmbeddingCache, Suppressions, Erasures, Batches, Measurements and
    AuditLog of ``rag.ports``."""

    def __init__(self) -> None:
        super().__init__()
        MemoryAuditLog.__init__(self)
        self._lock = asyncio.Lock()
        self._documents: dict[tuple[str, str], tuple[DocumentRecord, datetime]] = {}
        self._garbage: dict[tuple[str, str], _Garbage] = {}
        self._outbox: list[OutboxEvent] = []
        self._relay = asyncio.Lock()
        self._positions: dict[tuple[str, str, str, int], int] = {}
        self._revisions: dict[tuple[str, str], int] = defaultdict(int)
        self._vectors: dict[tuple[str, str, bytes], tuple[str, Vector]] = {}
        self._suppressed: set[tuple[str, str]] = set()
        self._people: dict[str, dict[str, int]] = defaultdict(dict)  # tenant → subject id → characters
        self._spared: dict[str, set[tuple[str, str]]] = defaultdict(set)  # tenant → (document id, subject id)
        self._indexes: dict[str, None] = {}  # in the order of their opening
        self._batches: dict[tuple[str, str, int], Batch] = {}
        self._held: dict[tuple[str, str], _Held] = {}
        self._deletions: dict[tuple[str, str, str], list[float]] = defaultdict(list)  # by source: monotonic times
        self._cursors: dict[str, dict[str, Any]] = {}
        self._row_hashes: dict[tuple[str, str], dict[str, str]] = defaultdict(dict)
        self._settings: dict[str, str] = {}
        self._totals: dict[tuple[str, Label], float] = defaultdict(float)

    # -- documents

    async def open_index(self, spec: IndexSpec) -> None:
        self._indexes[spec.index_id] = None

    async def recorded(self, index_id: str, document_ids: Sequence[str]) -> dict[str, DocumentRecord]:
        return {each: self._get(index_id, each) for each in document_ids}

    async def record_intent(self, index_id: str, deltas: Sequence[Delta]) -> None:
        now = time.monotonic()
        for delta in deltas:
            for point in delta.new_points:
                self._garbage[index_id, point] = _Garbage(now, is_intent=True)

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
        async with self._lock:
            require_settings(self._settings, settings or {})
            result = self._compare(index_id, deltas)
            for delta in result.accepted:
                self._record(index_id, delta)
            accepted = {delta.record.document_id for delta in result.accepted}
            self._vectors |= {key: entry for key, entry in (vectors or {}).items() if entry[0] in accepted}
            if events:
                self._outbox += events(result)
            if done and not result.lost:
                self._advance(index_id, done)
        return result

    async def declare_settings(self, digests: Mapping[str, str]) -> None:
        async with self._lock:
            self._settings = dict.fromkeys(self._settings, "") | dict(digests)

    async def condemn(
        self, index_id: str, *, point_ids: Sequence[str] | None = None, older_than: float = 0.0, limit: int = 1000
    ) -> list[str]:
        oldest = time.monotonic() - older_than
        chosen = [
            point
            for (index, point), entry in self._garbage.items()
            if index == index_id and entry.since <= oldest and (point_ids is None or point in point_ids)
        ][:limit]
        for point in chosen:
            self._garbage[index_id, point].is_intent = False
        return chosen

    async def forget_points(self, index_id: str, point_ids: Sequence[str]) -> None:
        for point in point_ids:
            self._garbage.pop((index_id, point), None)

    async def unknown_points(self, index_id: str, point_ids: Sequence[str]) -> set[str]:
        current = {placement.point_id for record in self._of(index_id) for placement in record.chunks.values()}
        return {each for each in point_ids if each not in current and (index_id, each) not in self._garbage}

    async def has_points(self, index_id: str) -> bool:
        return any(record.chunks for record in self._of(index_id))

    async def index_revision(self, index_id: str, tenant: str) -> int:
        return self._revisions[index_id, tenant]

    async def visible(self, index_id: str, point_ids: Sequence[str], access: AccessFilter) -> dict[str, Provenance]:
        wanted = set(point_ids)
        return {
            placement.point_id: _provenance(record, chunk_id, placement)
            for record in self._of(index_id)
            if record.status in SHOWN and self._allowed(record, access)
            for chunk_id, placement in record.chunks.items()
            if placement.point_id in wanted
        }

    # -- deletions

    async def held_deletions(self, index_id: str, tenant: str, source: str) -> dict[str, bool]:
        return {
            document_id: entry.is_confirmed
            for (index, document_id), entry in self._held.items()
            if (index, entry.tenant, entry.source) == (index_id, tenant, source)
        }

    async def confirm_deletions(
        self, index_id: str, tenant: str, source: str, document_ids: Sequence[str], *, restart_count: bool = False
    ) -> None:
        for document_id in document_ids:
            self._held[index_id, document_id] = _Held(tenant, source, is_confirmed=True)
        if restart_count:
            self._deletions.pop((index_id, tenant, source), None)

    async def release_deletions(self, index_id: str, document_ids: Sequence[str]) -> None:
        for document_id in document_ids:
            self._held.pop((index_id, document_id), None)

    # -- catalog

    async def live(self, index_id: str, partition: int, *, after: str = "", limit: int = 1000) -> list[DocumentRecord]:
        own = [r for r in self._of(index_id) if r.partition == partition and r.status in {"live", "parked", "dead"}]
        return sorted((r for r in own if r.document_id > after), key=lambda r: r.document_id)[:limit]

    async def of_tenant(
        self, index_id: str, tenant: str, *, after: str = "", limit: int = 1000
    ) -> list[DocumentRecord]:
        own = (r for r in self._of(index_id) if r.tenant == tenant and r.status is not DocumentStatus.DELETED)
        return [r for r in own if r.document_id > after][:limit]

    async def shard(self, index_id: str, shard: str) -> list[DocumentRecord]:
        return [record for record in self._of(index_id) if record.document_id.startswith(shard)]

    async def parked(self, index_id: str, *, due: datetime, limit: int = 100) -> list[DocumentRecord]:
        waiting = [(record.parking.next_try, record) for record in self._of(index_id) if record.parking]
        found = sorted((entry for entry in waiting if entry[0] <= due), key=lambda entry: entry[0])
        return [record for _, record in found[:limit]]

    async def parked_reasons(self, index_id: str) -> dict[str, int]:
        return dict(Counter(record.reason for record in self._of(index_id) if record.parking))

    async def points(self, index_id: str, partition: int, *, documents: Sequence[str] | None = None) -> dict[str, str]:
        return {
            placement.point_id: placement.payload_hash
            for record in self._of(index_id)
            if record.partition == partition and (documents is None or record.document_id in documents)
            for placement in record.chunks.values()
        }

    async def documents(
        self, index_id: str, access: AccessFilter, wanted: DocumentQuery, *, after: str = "", limit: int = 100
    ) -> list[dict[str, Any]]:
        listed = [
            self._listed(index_id, record)
            for record in self._of(index_id)
            if self._allowed(record, access) and record.document_id > after and _is_wanted(record, wanted)
        ]
        return listed[:limit]

    async def document(self, index_id: str, document_id: str, access: AccessFilter) -> dict[str, Any] | None:
        if (index_id, document_id) not in self._documents:
            return None
        record = self._get(index_id, document_id)
        if not self._allowed(record, access):
            return None
        fields = asdict(record.cause) if record.cause else {}
        return self._listed(index_id, record) | {"content_hash": record.content_hash, "cause": fields}

    async def lineage(self, index_id: str, document_id: str, access: AccessFilter) -> dict[str, Any] | None:
        row = await self.document(index_id, document_id, access)
        if row is None:
            return None
        placed = sorted(self._get(index_id, document_id).chunks.items(), key=lambda item: item[1].ordinal)
        points = [
            {"point_id": at.point_id, "chunk_id": chunk_id, "start": at.start, "end": at.end, "page": at.page}
            for chunk_id, at in placed
        ]
        rows = [
            self._listed(index, record) | {"index_id": index}
            for (index, each), (record, _) in self._documents.items()
            if each == document_id and record.tenant == access.tenant
        ]
        newest_first = sorted(rows, key=lambda each: each["updated_at"], reverse=True)
        names = ("index_id", "revision", "status", "source_version", "chunks", "updated_at")
        return row | {"points": points, "indexes": [{name: each[name] for name in names} for each in newest_first]}

    async def inventory(self, index_id: str, tenant: str, source: str) -> dict[str, Inventoried]:
        return {
            r.uri: Inventoried(r.document_id, r.change_token, r.config_hash, r.status)
            for r in self._of(index_id)
            if (r.tenant, r.source) == (tenant, source) and r.status is not DocumentStatus.DELETED
        }

    async def recorded_sources(self, index_id: str) -> set[tuple[str, str]]:
        return {(r.tenant, r.source) for r in self._of(index_id) if r.status is not DocumentStatus.DELETED}

    async def counts(self, index_id: str, tenant: str, source: str, prefix: str = "") -> dict[str, int]:
        counted: dict[str, int] = defaultdict(int)
        for record in self._of(index_id):
            if (record.tenant, record.source) == (tenant, source) and record.uri.startswith(prefix):
                counted[record.status.value] += 1
        return dict(counted)

    # -- stores

    async def positions(self, index_id: str, topic: str, epoch: str) -> dict[int, int]:
        return {p: o for (i, t, e, p), o in self._positions.items() if (i, t, e) == (index_id, topic, epoch)}

    @asynccontextmanager
    async def unpublished(self, *, limit: int = 1000) -> AsyncIterator[Sequence[OutboxEvent]]:
        async with self._relay:
            events = self._outbox[:limit]
            yield events
            del self._outbox[: len(events)]

    async def advance(self, index_id: str, done: OffsetRange) -> None:
        self._advance(index_id, done)

    def _advance(self, index_id: str, done: OffsetRange) -> None:
        key = (index_id, done.topic, done.epoch, done.partition)
        self._positions[key] = max(self._positions.get(key, 0), done.end)

    async def epochs(self, index_id: str, topic: str) -> list[str]:
        return list(dict.fromkeys(e for (i, t, e, _) in self._positions if (i, t) == (index_id, topic)))

    async def lookup(self, fingerprint: str, tenant: str, keys: Iterable[bytes]) -> dict[bytes, Vector]:
        found = {key: self._vectors.get((fingerprint, tenant, key)) for key in keys}
        return {key: entry[1] for key, entry in found.items() if entry}

    async def prune(self, *, max_rows: int, max_age_days: float) -> int:
        drop = list(self._vectors)[: max(0, len(self._vectors) - max_rows)]
        for key in drop:
            del self._vectors[key]
        return len(drop)

    async def suppressed(self, tenant: str, ids: Sequence[str]) -> set[str]:
        return {each for each in ids if (tenant, each) in self._suppressed}

    async def erased_people(self, tenant: str, document_ids: Sequence[str]) -> ErasedPeople:
        spared = {(document, person) for document, person in self._spared[tenant] if document in document_ids}
        return ErasedPeople(dict(self._people[tenant]), frozenset(spared))

    async def suppress(
        self, tenant: str, ids: Sequence[str], *, reason: str, events: Sequence[OutboxEvent] = ()
    ) -> None:
        self._suppressed |= {(tenant, each) for each in ids}
        self._outbox += events

    async def located(
        self, tenant: str, *, document_id: str = "", uri_prefix: str = "", subject_ids: Sequence[str] = ()
    ) -> list[DocumentRecord]:
        found = {
            record.document_id: record
            for record, _ in self._documents.values()
            if record.tenant == tenant
            and record.reason != ERASED
            and (
                record.document_id == document_id
                or (uri_prefix and record.uri.startswith(uri_prefix))
                or not set(record.subjects).isdisjoint(subject_ids)
            )
        }
        return [found[each] for each in sorted(found)]

    async def accept(self, erasure: Erasure, events: Sequence[OutboxEvent], *, scopes: Sequence[str] = ()) -> None:
        async with self._lock:
            self._require_no_hold(erasure.tenant, scopes)
            self._suppressed |= {(erasure.tenant, each) for each in (*erasure.document_ids, *erasure.subject_ids)}
            self._people[erasure.tenant].update(zip(erasure.subject_ids, erasure.subject_lengths, strict=True))
            self._spared[erasure.tenant].update(product(erasure.spared, erasure.subject_ids))
            self._erasures.setdefault(erasure.erasure_id, erasure)
            self._outbox += events

    async def progress(self, erasure: Erasure, events: Sequence[OutboxEvent] = ()) -> Erasure:
        recorded = self._progress(erasure)
        self._outbox += events
        return recorded

    async def forget(self, tenant: str, document_ids: Sequence[str]) -> None:
        async with self._lock:
            for (index_id, document_id), (record, _) in list(self._documents.items()):
                if record.tenant != tenant or document_id not in document_ids:
                    continue
                for placement in record.chunks.values():
                    self._garbage[index_id, placement.point_id] = _Garbage(time.monotonic(), is_intent=False)
                if record.reason != ERASED or record.uri:
                    erased = DocumentRecord(document_id, record.revision + 1, DocumentStatus.SUPPRESSED, tenant, record.source,
                                            partition=record.partition, reason=ERASED, cause=record.cause)  # fmt: skip
                    self._documents[index_id, document_id] = (erased, datetime.now(UTC))
                self._held.pop((index_id, document_id), None)
            self._vectors = {key: entry for key, entry in self._vectors.items() if entry[0] not in document_ids}

    async def remembered(self, tenant: str, document_ids: Sequence[str]) -> set[str]:
        rows = {
            record.document_id
            for record, _ in self._documents.values()
            if record.tenant == tenant and (record.uri or record.title or record.chunks)
        }
        return (rows | {document_id for document_id, _ in self._vectors.values()}).intersection(document_ids)

    async def index_ids(self) -> list[str]:
        return list(self._indexes)

    async def save(self, run_id: str, step: str, batch: Batch) -> None:
        self._batches[run_id, step, batch.partition] = batch

    async def load(self, run_id: str, step: str, partition: int) -> Batch | None:
        return self._batches.get((run_id, step, partition))

    async def add(self, values: Mapping[tuple[str, Label], float]) -> None:
        for key, value in values.items():
            self._totals[key] += value

    async def totals(self) -> dict[tuple[str, Label], float]:
        return dict(self._totals)

    async def cursor(self, name: str) -> dict[str, Any]:
        return dict(self._cursors.get(name, {}))

    async def set_cursor(self, name: str, value: Mapping[str, Any]) -> None:
        self._cursors[name] = dict(value)

    async def row_hashes(self, source: str, table: str, keys: Sequence[str] | None = None) -> dict[str, str]:
        held = self._row_hashes[source, table]
        return dict(held) if keys is None else {key: held[key] for key in keys if key in held}

    async def set_row_hashes(
        self, source: str, table: str, hashes: Mapping[str, str], gone: Sequence[str] = ()
    ) -> None:
        held = self._row_hashes[source, table]
        held.update(hashes)
        for key in gone:
            held.pop(key, None)

    # -- within

    def _get(self, index_id: str, document_id: str) -> DocumentRecord:
        found = self._documents.get((index_id, document_id))
        return found[0] if found else DocumentRecord(document_id)

    def _of(self, index_id: str) -> list[DocumentRecord]:
        mine = (record for (index, _), (record, _) in self._documents.items() if index == index_id)
        return sorted(mine, key=lambda record: record.document_id)

    def _hidden(self, record: DocumentRecord) -> bool:
        return record.status is DocumentStatus.SUPPRESSED or any(
            (record.tenant, each) in self._suppressed for each in (record.document_id, *record.subjects)
        )

    def _allowed(self, record: DocumentRecord, access: AccessFilter) -> bool:
        return self._is_granted(record, access) and not self._hidden(record)

    def _count_change(self, tenant: str) -> None:
        for index_id, each in self._revisions:
            if each == tenant:
                self._revisions[index_id, tenant] += 1

    def _compare(self, index_id: str, deltas: Sequence[Delta]) -> SwapResult:
        accepted: list[Delta] = []
        lost: list[Delta] = []
        for delta in deltas:
            current = self._get(index_id, delta.record.document_id)
            entries = [self._garbage.get((index_id, point)) for point in delta.new_points]
            is_intended = all(entry and entry.is_intent for entry in entries)
            is_refused = delta.record.status in SHOWN and self._hidden(delta.record)
            is_unsearched = delta.record.status is DocumentStatus.LIVE and delta.erased_people != len(
                self._people[delta.record.tenant]
            )
            is_current = current.revision == delta.record.revision and is_intended
            is_accepted = is_current and not is_refused and not is_unsearched
            (accepted if is_accepted else lost).append(delta)
        held = self._hold(index_id, accepted)
        return SwapResult(tuple(each for each in accepted if each not in held), tuple(lost), tuple(held))

    def _hold(self, index_id: str, accepted: Sequence[Delta]) -> list[Delta]:
        """Record and return the deletions that need a confirmation, and count the others."""
        waves: dict[tuple[str, str], list[Delta]] = defaultdict(list)
        held: list[Delta] = []
        for delta in accepted:
            record = delta.record
            entry = self._held.get((index_id, record.document_id))
            is_live = self._get(index_id, record.document_id).status in SHOWN
            if record.status is not DocumentStatus.DELETED or not is_live or (entry and entry.is_confirmed):
                continue
            if delta.needs_confirmation:
                held.append(delta)
            else:
                waves[record.tenant, record.source].append(delta)
        since = time.monotonic() - WAVE_SECONDS
        for (tenant, source), wave in waves.items():
            recent = [each for each in self._deletions[index_id, tenant, source] if each > since]
            live = sum(
                (each.tenant, each.source) == (tenant, source) and each.status in SHOWN for each in self._of(index_id)
            )
            if is_mass(len(recent) + len(wave), len(recent) + live):
                held += wave
            else:
                self._deletions[index_id, tenant, source] = recent + [time.monotonic()] * len(wave)
        for delta in held:
            self._held[index_id, delta.record.document_id] = _Held(delta.record.tenant, delta.record.source)
        return held

    def _record(self, index_id: str, delta: Delta) -> None:
        record = replace(delta.record, revision=delta.record.revision + 1)
        self._documents[index_id, record.document_id] = (record, datetime.now(UTC))
        self._held.pop((index_id, record.document_id), None)
        for point in delta.new_points:
            del self._garbage[index_id, point]
        for point in delta.retired:
            self._garbage[index_id, point] = _Garbage(time.monotonic(), is_intent=False)
        if delta.is_visible:
            self._revisions[index_id, record.tenant] += 1

    def _listed(self, index_id: str, record: DocumentRecord) -> dict[str, Any]:
        names = ("document_id", "source", "uri", "title", "media_type", "language", "reason", "revision")
        fields: dict[str, Any] = {name: getattr(record, name) for name in names}
        updated = self._documents[index_id, record.document_id][1]
        return fields | {
            "status": record.status.value,
            "source_version": record.version,
            "updated_at": updated,
            "chunks": len(record.chunks),
            "next_try": record.parking.next_try if record.parking else None,
        }


def _is_wanted(record: DocumentRecord, wanted: DocumentQuery) -> bool:
    return (
        wanted.source in {"", record.source}
        and wanted.status in {"", record.status.value}
        and wanted.reason in {"", record.reason}
        and wanted.title.lower() in record.title.lower()
    )


def _provenance(record: DocumentRecord, chunk_id: str, placement: Placement) -> Provenance:
    return Provenance(
        document_id=record.document_id,
        revision=record.revision,
        uri=record.uri,
        title=record.title,
        source_version=record.version,
        cause=record.cause or Cause("", "", -1, -1),
        chunk_id=chunk_id,
        ordinal=placement.ordinal,
        start=placement.start,
        end=placement.end,
        page=placement.page,
        source=record.source,
        language=record.language,
        media_type=record.media_type,
        is_stale=record.status is DocumentStatus.PARKED,
    )
