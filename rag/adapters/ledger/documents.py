"""Document records, and the only way to change them: lock, compare, swap."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from typing import Any

from psycopg import AsyncConnection
from psycopg.rows import dict_row
from psycopg.types.json import Jsonb

from rag.adapters.ledger.rows import DOCUMENT_COLUMNS, LedgerPart, cause, cause_json, recorded
from rag.models import AccessFilter, DocumentRecord, DocumentStatus, IndexSpec, Provenance
from rag.ports import Delta, FreshVectors, SwapResult

_SUPPRESSED = """
    exists (select 1 from suppressions s
            where s.tenant = d.tenant and (s.id = d.document_id::text or s.id = any(d.subjects)))
"""


class DocumentsPart(LedgerPart):
    async def open_index(self, spec: IndexSpec) -> None:
        """Register the index. Idempotent."""
        async with self.connection() as db:
            await db.execute(
                "insert into indexes (index_id, dimensions) values (%s, %s) on conflict do nothing",
                (spec.index_id, spec.dimensions),
            )

    async def recorded(self, index_id: str, document_ids: Sequence[str]) -> dict[str, DocumentRecord]:
        ids = list(document_ids)
        async with self.connection() as db:
            records = await read_recorded(db, index_id, "document_id = any(%s::uuid[])", [ids])
        return {each: DocumentRecord(each) for each in ids} | {record.document_id: record for record in records}

    async def record_intent(self, index_id: str, deltas: Sequence[Delta]) -> None:
        if not deltas:
            return
        ids = sorted(delta.record.document_id for delta in deltas)
        written = [(chunk, delta.record.document_id) for delta in deltas for chunk in delta.upserts]
        async with self.connection() as db:
            await db.execute(
                "insert into documents (index_id, document_id) select %s, unnest(%s::uuid[]) on conflict do nothing",
                (index_id, ids),
            )
            await db.execute(
                """
                insert into garbage (index_id, chunk_id, document_id)
                select %(index)s, note.chunk_id, note.document_id
                from unnest(%(chunks)s::uuid[], %(documents)s::uuid[]) as note (chunk_id, document_id)
                where not exists (select 1 from chunks c where c.index_id = %(index)s and c.chunk_id = note.chunk_id)
                on conflict do nothing
                """,
                {"index": index_id, "chunks": [c for c, _ in written], "documents": [d for _, d in written]},
            )

    @asynccontextmanager
    async def swap(
        self, index_id: str, deltas: Sequence[Delta], *, vectors: FreshVectors | None = None
    ) -> AsyncIterator[SwapResult]:
        async with self.connection() as db:
            result = await _lock(db, index_id, deltas)
            yield result
            if result.accepted:
                await _record(db, index_id, result.accepted)
                await _cache_vectors(db, vectors or {}, {delta.record.document_id for delta in result.accepted})

    @asynccontextmanager
    async def garbage(
        self,
        index_id: str,
        *,
        document_ids: Sequence[str] | None = None,
        older_than: float = 0.0,
        limit: int = 1000,
    ) -> AsyncIterator[Sequence[str]]:
        async with self.connection() as db:
            rows = await db.execute(
                """
                select chunk_id::text, document_id::text from garbage
                where index_id = %s and noted_at <= now() - make_interval(secs => %s)
                  and (%s::uuid[] is null or document_id = any(%s::uuid[]))
                order by noted_at limit %s
                """,
                (index_id, older_than, document_ids, document_ids, limit),
            )
            noted = await rows.fetchall()
            await _lock_rows(db, index_id, {document for _, document in noted})
            chunks = [chunk for chunk, _ in noted]
            # Check again under the lock: meanwhile, a chunk may have become current and its garbage row may be gone.
            rows = await db.execute(
                """
                delete from garbage g where g.index_id = %(index)s and g.chunk_id = any(%(chunks)s::uuid[])
                returning g.chunk_id::text,
                  exists (select 1 from chunks c where c.index_id = g.index_id and c.chunk_id = g.chunk_id)
                """,
                {"index": index_id, "chunks": chunks},
            )
            yield [chunk for chunk, is_current in await rows.fetchall() if not is_current]

    async def index_revision(self, index_id: str, tenant: str) -> int:
        async with self.connection() as db:
            rows = await db.execute(
                "select revision from revisions where index_id = %s and tenant = %s", (index_id, tenant)
            )
            row = await rows.fetchone()
        return row[0] if row else 0

    async def visible(self, index_id: str, chunk_ids: Sequence[str], access: AccessFilter) -> dict[str, Provenance]:
        async with self.connection() as db:
            rows = await db.execute(
                f"""
                select c.chunk_id::text, d.document_id::text, d.revision, d.uri, d.title, d.version, d.cause
                from chunks c join documents d using (index_id, document_id)
                where c.index_id = %s and c.chunk_id = any(%s::uuid[])
                  and d.status = 'live' and d.tenant = %s and d.principals && %s::text[] and not {_SUPPRESSED}
                """,  # noqa: S608  (a constant)
                (index_id, list(chunk_ids), access.tenant, list(access.principals)),
            )
            visible = await rows.fetchall()
        return {
            chunk: Provenance(document_id, revision, uri, title, version, cause(cause_fields))
            for chunk, document_id, revision, uri, title, version, cause_fields in visible
        }


async def read_recorded(db: AsyncConnection, index_id: str, where: str, values: list[Any]) -> list[DocumentRecord]:
    """Return the documents that match ``where`` (a constant of this package), with their current chunks."""
    async with db.cursor(row_factory=dict_row) as cursor:
        await cursor.execute(
            f"select {DOCUMENT_COLUMNS} from documents where index_id = %s and {where} order by document_id",  # noqa: S608
            [index_id, *values],
        )
        rows = await cursor.fetchall()
        await cursor.execute(
            """
            select document_id::text, chunk_id::text, payload_hash from chunks
            where index_id = %s and document_id = any(%s::uuid[])
            """,
            [index_id, [row["document_id"] for row in rows]],
        )
        chunks: dict[str, dict[str, str]] = defaultdict(dict)
        for row in await cursor.fetchall():
            chunks[row["document_id"]][row["chunk_id"]] = row["payload_hash"]
    return [recorded(row, chunks[row["document_id"]]) for row in rows]


async def _lock_rows(db: AsyncConnection, index_id: str, document_ids: Iterable[str]) -> dict[str, int]:
    rows = await db.execute(
        """
        select document_id::text, revision from documents
        where index_id = %s and document_id = any(%s::uuid[]) order by document_id for update
        """,
        (index_id, list(document_ids)),
    )
    return dict(await rows.fetchall())


async def _lock(db: AsyncConnection, index_id: str, deltas: Sequence[Delta]) -> SwapResult:
    revisions = await _lock_rows(db, index_id, [delta.record.document_id for delta in deltas])
    missing = await _without_intent(db, index_id, deltas)
    suppressed_ids = await _suppressed_ids(db, deltas)
    accepted, lost, suppressed = [], [], []
    for delta in deltas:
        record = delta.record
        if revisions.get(record.document_id) != record.revision or not missing.isdisjoint(delta.upserts):
            lost.append(delta)
        elif record.status is DocumentStatus.LIVE and not suppressed_ids.isdisjoint(
            {(record.tenant, each) for each in (record.document_id, *record.subjects)}
        ):
            suppressed.append(delta)
        else:
            accepted.append(delta)
    return SwapResult(tuple(accepted), tuple(lost), tuple(suppressed))


async def _without_intent(db: AsyncConnection, index_id: str, deltas: Sequence[Delta]) -> set[str]:
    """Return the chunks to write whose intent a sweep has meanwhile removed. Writing them could leave garbage that is not recorded."""
    rows = await db.execute(
        """
        select wanted::text from unnest(%(chunks)s::uuid[]) as wanted
        where not exists (select 1 from garbage g where g.index_id = %(index)s and g.chunk_id = wanted)
          and not exists (select 1 from chunks c where c.index_id = %(index)s and c.chunk_id = wanted)
        """,
        {"index": index_id, "chunks": [chunk for delta in deltas for chunk in delta.upserts]},
    )
    return {row[0] for row in await rows.fetchall()}


async def _suppressed_ids(db: AsyncConnection, deltas: Sequence[Delta]) -> set[tuple[str, str]]:
    candidates = {(d.record.tenant, each) for d in deltas for each in (d.record.document_id, *d.record.subjects)}
    rows = await db.execute(
        """
        select tenant, id from suppressions
        join unnest(%s::text[], %s::text[]) as candidates (tenant, id) using (tenant, id)
        """,
        ([tenant for tenant, _ in candidates], [each for _, each in candidates]),
    )
    return {(tenant, each) for tenant, each in await rows.fetchall()}


async def _record(db: AsyncConnection, index_id: str, deltas: Sequence[Delta]) -> None:
    async with db.cursor() as cursor:
        await cursor.executemany(
            """
            update documents set revision = revision + 1, status = %s, tenant = %s, source = %s, uri = %s, partition = %s,
                version = %s, stamp = %s, content_hash = %s, principals = %s, subjects = %s, title = %s, media_type = %s,
                language = %s, reason = %s, artifacts = %s, cause = %s, updated_at = now()
            where index_id = %s and document_id = %s
            """,
            [_row(index_id, delta) for delta in deltas],
        )
        removed = [(delta.record.document_id, chunk) for delta in deltas for chunk in delta.deletes]
        await cursor.execute(
            "delete from chunks where index_id = %s and chunk_id = any(%s::uuid[])", (index_id, [c for _, c in removed])
        )
        await cursor.execute(
            """
            insert into garbage (index_id, chunk_id, document_id)
            select %s, * from unnest(%s::uuid[], %s::uuid[]) on conflict do nothing
            """,
            (index_id, [c for _, c in removed], [d for d, _ in removed]),
        )
        current = [
            (chunk, delta.record.document_id, delta.record.chunks[chunk])
            for delta in deltas
            for chunk in (*delta.upserts, *delta.payload_updates)
        ]
        await cursor.execute(
            """
            insert into chunks (index_id, chunk_id, document_id, payload_hash)
            select %s, * from unnest(%s::uuid[], %s::uuid[], %s::text[])
            on conflict (index_id, chunk_id) do update set payload_hash = excluded.payload_hash
            """,
            (index_id, [c for c, _, _ in current], [d for _, d, _ in current], [h for _, _, h in current]),
        )
        await cursor.execute(
            "delete from garbage where index_id = %s and chunk_id = any(%s::uuid[])",
            (index_id, [chunk for delta in deltas for chunk in delta.upserts]),
        )
        tenants = sorted({delta.record.tenant for delta in deltas if not delta.is_empty})
        await cursor.execute(
            """
            insert into revisions (index_id, tenant, revision) select %s, unnest(%s::text[]), 1
            on conflict (index_id, tenant) do update set revision = revisions.revision + 1
            """,
            (index_id, tenants),
        )


def _row(index_id: str, delta: Delta) -> tuple[Any, ...]:
    record = delta.record
    return (
        record.status.value, record.tenant, record.source, record.uri, record.partition, record.version, record.change_token,
        record.content_hash, list(record.principals), list(record.subjects), record.title, record.media_type,
        record.language, record.reason, list(record.artifacts), Jsonb(cause_json(record.cause)),
        index_id, record.document_id,
    )  # fmt: skip


async def _cache_vectors(db: AsyncConnection, vectors: FreshVectors, document_ids: set[str]) -> None:
    rows = [
        (fingerprint, tenant, key, document_id, vector.astype("<f4").tobytes())
        for (fingerprint, tenant, key), (document_id, vector) in vectors.items()
        if document_id in document_ids
    ]
    columns = list(zip(*rows, strict=True)) if rows else [(), (), (), (), ()]
    await db.execute(
        """
        insert into embeddings (fingerprint, tenant, key, document_id, vector)
        select * from unnest(%s::text[], %s::text[], %s::bytea[], %s::uuid[], %s::bytea[]) on conflict do nothing
        """,
        [list(column) for column in columns],
    )
