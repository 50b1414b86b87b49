"""Ledger in memory, for fast tests. It makes the same decisions, with one lock instead of row locks."""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict, replace
from datetime import UTC, datetime
from typing import Any

from rag.models import (
    AccessFilter,
    Batch,
    DocumentRecord,
    DocumentStatus,
    IndexSpec,
    OffsetRange,
    Provenance,
    Vector,
)
from rag.ports import Delta, FreshVectors, SwapResult

Label = tuple[tuple[str, str], ...]


class MemoryLedger:
    """Ledger, Positions, Catalog, EmbeddingCache, Suppressions, Batches and Measurements of ``rag.ports``."""

    def __init__(self) -> None:
        self._lock = asyncio.Lock()
        self._documents: dict[tuple[str, str], tuple[DocumentRecord, datetime]] = {}
        self._garbage: dict[tuple[str, str], tuple[str, float]] = {}
        self._positions: dict[tuple[str, str, str, int], int] = {}
        self._revisions: dict[tuple[str, str], int] = defaultdict(int)
        self._vectors: dict[tuple[str, str, bytes], tuple[str, Vector]] = {}
        self._suppressed: set[tuple[str, str]] = set()
        self._batches: dict[tuple[str, str, int], Batch] = {}
        self._cursors: dict[str, dict[str, Any]] = {}
        self._row_hashes: dict[tuple[str, str], dict[str, str]] = defaultdict(dict)
        self._totals: dict[tuple[str, Label], float] = defaultdict(float)

    # -- documents

    async def open_index(self, spec: IndexSpec) -> None:
        return None

    async def recorded(self, index_id: str, document_ids: Sequence[str]) -> dict[str, DocumentRecord]:
        return {each: self._get(index_id, each) for each in document_ids}

    async def record_intent(self, index_id: str, deltas: Sequence[Delta]) -> None:
        for delta in deltas:
            document_id = delta.record.document_id
            current = self._get(index_id, document_id).chunks
            for chunk in delta.upserts:
                if chunk not in current:
                    self._garbage.setdefault((index_id, chunk), (document_id, time.monotonic()))

    @asynccontextmanager
    async def swap(
        self, index_id: str, deltas: Sequence[Delta], *, vectors: FreshVectors | None = None
    ) -> AsyncIterator[SwapResult]:
        async with self._lock:
            result = self._compare(index_id, deltas)
            yield result
            for delta in result.accepted:
                self._record(index_id, delta)
            accepted = {delta.record.document_id for delta in result.accepted}
            self._vectors |= {key: entry for key, entry in (vectors or {}).items() if entry[0] in accepted}

    @asynccontextmanager
    async def garbage(
        self, index_id: str, *, document_ids: Sequence[str] | None = None, older_than: float = 0.0, limit: int = 1000
    ) -> AsyncIterator[Sequence[str]]:
        async with self._lock:
            noted = [
                chunk
                for (index, chunk), (document_id, at) in self._garbage.items()
                if index == index_id
                and time.monotonic() - at >= older_than
                and (document_ids is None or document_id in document_ids)
            ][:limit]
            yield [
                chunk for chunk in noted if chunk not in self._get(index_id, self._garbage[index_id, chunk][0]).chunks
            ]
            for chunk in noted:
                del self._garbage[index_id, chunk]

    async def index_revision(self, index_id: str, tenant: str) -> int:
        return self._revisions[index_id, tenant]

    async def visible(self, index_id: str, chunk_ids: Sequence[str], access: AccessFilter) -> dict[str, Provenance]:
        wanted = set(chunk_ids)
        return {
            chunk: Provenance(
                record.document_id, record.revision, record.uri, record.title, record.version, record.cause
            )
            for record in self._of(index_id)
            if record.cause and record.status is DocumentStatus.LIVE and self._is_allowed(record, access)
            for chunk in wanted & record.chunks.keys()
        }

    # -- catalog

    async def live(self, index_id: str, partition: int) -> list[DocumentRecord]:
        return [r for r in self._of(index_id) if r.partition == partition and r.status in {"live", "dead"}]

    async def chunks(self, index_id: str, partition: int, *, documents: Sequence[str] | None = None) -> dict[str, str]:
        records = [r for r in self._of(index_id) if r.partition == partition]
        return {c: h for r in records if documents is None or r.document_id in documents for c, h in r.chunks.items()}

    async def documents(
        self, index_id: str, access: AccessFilter, *, after: str = "", limit: int = 100, status: str | None = None
    ) -> list[dict[str, Any]]:
        listed = [
            self._listed(index_id, record)
            for record in self._of(index_id)
            if self._is_allowed(record, access) and record.document_id > after and status in {None, record.status.value}
        ]
        return listed[:limit]

    async def document(self, index_id: str, document_id: str, access: AccessFilter) -> dict[str, Any] | None:
        if (index_id, document_id) not in self._documents:
            return None
        record = self._get(index_id, document_id)
        if not self._is_allowed(record, access):
            return None
        fields = asdict(record.cause) if record.cause else {}
        details = {"content_hash": record.content_hash, "cause": fields, "chunk_ids": sorted(record.chunks)}
        return self._listed(index_id, record) | details

    async def inventory(self, index_id: str, source: str) -> dict[str, tuple[str, str]]:
        return {
            r.uri: (r.document_id, r.change_token)
            for r in self._of(index_id)
            if r.source == source and r.status is not DocumentStatus.DELETED
        }

    async def counts(self, index_id: str, source: str, prefix: str = "") -> dict[str, int]:
        counted: dict[str, int] = defaultdict(int)
        for record in self._of(index_id):
            if record.source == source and record.uri.startswith(prefix):
                counted[record.status.value] += 1
        return dict(counted)

    # -- stores

    async def positions(self, index_id: str, topic: str, epoch: str) -> dict[int, int]:
        return {p: o for (i, t, e, p), o in self._positions.items() if (i, t, e) == (index_id, topic, epoch)}

    async def advance(self, index_id: str, done: OffsetRange) -> None:
        key = (index_id, done.topic, done.epoch, done.partition)
        self._positions[key] = max(self._positions.get(key, 0), done.end)

    async def epochs(self, index_id: str, topic: str) -> list[str]:
        return list(dict.fromkeys(e for (i, t, e, _) in self._positions if (i, t) == (index_id, topic)))

    async def lookup(self, fingerprint: str, tenant: str, keys: Iterable[bytes]) -> dict[bytes, Vector]:
        entries = {key: self._vectors.get((fingerprint, tenant, key)) for key in keys}
        return {key: entry[1] for key, entry in entries.items() if entry}

    async def prune(self, *, max_rows: int, max_age_days: float) -> int:
        drop = list(self._vectors)[: max(0, len(self._vectors) - max_rows)]
        for key in drop:
            del self._vectors[key]
        return len(drop)

    async def suppressed(self, tenant: str, ids: Sequence[str]) -> set[str]:
        return {each for each in ids if (tenant, each) in self._suppressed}

    async def suppress(self, tenant: str, ids: Sequence[str], *, reason: str) -> None:
        self._suppressed |= {(tenant, each) for each in ids}

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
        hashes = self._row_hashes[source, table]
        return dict(hashes) if keys is None else {key: hashes[key] for key in keys if key in hashes}

    async def set_row_hashes(
        self, source: str, table: str, hashes: Mapping[str, str], gone: Sequence[str] = ()
    ) -> None:
        recorded = self._row_hashes[source, table]
        recorded.update(hashes)
        for key in gone:
            recorded.pop(key, None)

    # -- within

    def _get(self, index_id: str, document_id: str) -> DocumentRecord:
        entry = self._documents.get((index_id, document_id))
        return entry[0] if entry else DocumentRecord(document_id)

    def _of(self, index_id: str) -> list[DocumentRecord]:
        records = (record for (index, _), (record, _) in self._documents.items() if index == index_id)
        return sorted(records, key=lambda record: record.document_id)

    def _is_suppressed(self, record: DocumentRecord) -> bool:
        return any((record.tenant, each) in self._suppressed for each in (record.document_id, *record.subjects))

    def _is_allowed(self, record: DocumentRecord, access: AccessFilter) -> bool:
        shared = not set(record.principals).isdisjoint(access.principals)
        return record.tenant == access.tenant and shared and not self._is_suppressed(record)

    def _compare(self, index_id: str, deltas: Sequence[Delta]) -> SwapResult:
        accepted, lost, suppressed = [], [], []
        for delta in deltas:
            current = self._get(index_id, delta.record.document_id)
            unknown = [c for c in delta.upserts if (index_id, c) not in self._garbage and c not in current.chunks]
            if current.revision != delta.record.revision or unknown:
                lost.append(delta)
            elif delta.record.status is DocumentStatus.LIVE and self._is_suppressed(delta.record):
                suppressed.append(delta)
            else:
                accepted.append(delta)
        return SwapResult(tuple(accepted), tuple(lost), tuple(suppressed))

    def _record(self, index_id: str, delta: Delta) -> None:
        document_id = delta.record.document_id
        record = replace(delta.record, revision=delta.record.revision + 1)
        self._documents[index_id, document_id] = (record, datetime.now(UTC))
        for chunk in delta.upserts:
            self._garbage.pop((index_id, chunk), None)
        for chunk in delta.deletes:
            self._garbage.setdefault((index_id, chunk), (document_id, time.monotonic()))
        if not delta.is_empty:
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
        }
