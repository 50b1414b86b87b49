"""Catalog of documents, for callers and for maintenance."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from datetime import datetime
from typing import Any

from psycopg import AsyncCursor
from psycopg.rows import dict_row

from rag.adapters.ledger.access import ALLOWED, access_values
from rag.adapters.ledger.documents import read_recorded
from rag.adapters.ledger.rows import LedgerPart
from rag.models import AccessFilter, DocumentRecord, DocumentStatus, Inventoried
from rag.ports import DocumentQuery

_LISTED = """
    d.document_id::text as document_id, d.status, d.source, d.uri, d.title, d.media_type, d.language, d.reason,
    d.version as source_version, d.revision, d.updated_at,
    (select next_try from parked p where p.index_id = d.index_id and p.document_id = d.document_id) as next_try,
    (select count(*) from chunks c where c.index_id = d.index_id and c.document_id = d.document_id) as chunks
"""
FIRST_ID = "00000000-0000-0000-0000-000000000000"
_ALLOWED = f"""
    d.index_id = %(index)s and {ALLOWED} and d.status <> 'suppressed'
    and not exists (select 1 from suppressions s where s.tenant = d.tenant
                    and s.id = any(d.subjects || d.document_id::text) offset 0)
"""  # noqa: S608  (a constant)


class CatalogPart(LedgerPart):
    async def live(self, index_id: str, partition: int, *, after: str = "", limit: int = 1000) -> list[DocumentRecord]:
        page = """document_id in (
            select document_id from documents
            where index_id = %s and partition = %s and status in ('live', 'parked', 'dead') and document_id > %s::uuid
            order by document_id limit %s)"""
        async with self.connection() as db:
            return await read_recorded(db, index_id, page, [index_id, partition, after or FIRST_ID, limit])

    async def of_tenant(
        self, index_id: str, tenant: str, *, after: str = "", limit: int = 1000
    ) -> list[DocumentRecord]:
        page = """document_id in (
            select document_id from documents
            where index_id = %s and tenant = %s and status <> 'deleted' and document_id > %s::uuid
            order by document_id limit %s)"""
        async with self.connection() as db:
            return await read_recorded(db, index_id, page, [index_id, tenant, after or FIRST_ID, limit])

    async def shard(self, index_id: str, shard: str) -> list[DocumentRecord]:
        first, last = f"{shard}000000-0000-0000-0000-000000000000", f"{shard}ffffff-ffff-ffff-ffff-ffffffffffff"
        async with self.connection() as db:
            return await read_recorded(db, index_id, "document_id between %s::uuid and %s::uuid", [first, last])

    async def parked(self, index_id: str, *, due: datetime, limit: int = 100) -> list[DocumentRecord]:
        async with self.connection() as db:
            rows = await db.execute(
                """
                select document_id::text from parked where index_id = %s and next_try <= %s
                order by next_try, document_id limit %s
                """,
                (index_id, due, limit),
            )
            ids = [document_id for (document_id,) in await rows.fetchall()]
            found = {
                row.document_id: row
                for row in await read_recorded(db, index_id, "document_id = any(%s::uuid[])", [ids])
            }
        return [found[each] for each in ids]

    async def parked_reasons(self, index_id: str) -> dict[str, int]:
        async with self.connection() as db:
            rows = await db.execute(
                """
                select d.reason, count(*) from parked join documents d using (index_id, document_id)
                where index_id = %s group by d.reason
                """,
                (index_id,),
            )
            return dict(await rows.fetchall())

    async def points(self, index_id: str, partition: int, *, documents: Sequence[str] | None = None) -> dict[str, str]:
        document_ids = None if documents is None else list(documents)
        async with self.connection() as db:
            rows = await db.execute(
                """
                select c.point_id::text, c.payload_hash from chunks c join documents d using (index_id, document_id)
                where d.index_id = %s and d.partition = %s and (%s::uuid[] is null or document_id = any(%s::uuid[]))
                """,
                (index_id, partition, document_ids, document_ids),
            )
            return dict(await rows.fetchall())

    async def documents(
        self, index_id: str, access: AccessFilter, wanted: DocumentQuery, *, after: str = "", limit: int = 100
    ) -> list[dict[str, Any]]:
        async with self.connection() as db, db.cursor(row_factory=dict_row) as cursor:
            await cursor.execute(
                f"""
                select {_LISTED} from documents d
                where {_ALLOWED} and (%(after)s::uuid is null or d.document_id > %(after)s::uuid)
                  and %(source)s in ('', d.source) and %(status)s in ('', d.status) and %(reason)s in ('', d.reason)
                  and position(lower(%(title)s) in lower(d.title)) > 0
                order by d.document_id limit %(limit)s
                """,  # noqa: S608  (constants)
                _parameters(index_id, access) | asdict(wanted) | {"after": after or None, "limit": limit},
            )
            return await cursor.fetchall()

    async def document(self, index_id: str, document_id: str, access: AccessFilter) -> dict[str, Any] | None:
        async with self.connection() as db, db.cursor(row_factory=dict_row) as cursor:
            return await _document(cursor, index_id, document_id, access)

    async def lineage(self, index_id: str, document_id: str, access: AccessFilter) -> dict[str, Any] | None:
        async with self.connection() as db, db.cursor(row_factory=dict_row) as cursor:
            row = await _document(cursor, index_id, document_id, access)
            if row is None:
                return None
            await cursor.execute(
                """
                select point_id::text, chunk_id::text, start_char as start, end_char as "end", page from chunks
                where index_id = %s and document_id = %s::uuid order by ordinal
                """,
                (index_id, document_id),
            )
            points = await cursor.fetchall()
            await cursor.execute(
                f"""
                select d.index_id, {_LISTED} from documents d
                where d.document_id = %s::uuid and d.tenant = %s order by d.updated_at desc
                """,  # noqa: S608  (a constant)
                (document_id, access.tenant),
            )
            return row | {"points": points, "indexes": await cursor.fetchall()}

    async def inventory(self, index_id: str, tenant: str, source: str) -> dict[str, Inventoried]:
        async with self.connection() as db:
            rows = await db.execute(
                """
                select uri, document_id::text, stamp, config_hash, status from documents
                where index_id = %s and tenant = %s and source = %s and status <> 'deleted'
                """,
                (index_id, tenant, source),
            )
            return {
                uri: Inventoried(document_id, change_token, config_hash, DocumentStatus(status))
                for uri, document_id, change_token, config_hash, status in await rows.fetchall()
            }

    async def recorded_sources(self, index_id: str) -> set[tuple[str, str]]:
        async with self.connection() as db:
            rows = await db.execute(
                "select distinct tenant, source from documents where index_id = %s and status <> 'deleted'", (index_id,)
            )
            return {(tenant, source) for tenant, source in await rows.fetchall()}

    async def counts(self, index_id: str, tenant: str, source: str, prefix: str = "") -> dict[str, int]:
        """Return status → number of documents of a source whose uri starts with ``prefix``."""
        async with self.connection() as db:
            rows = await db.execute(
                """
                select status, count(*) from documents where index_id = %s and tenant = %s and source = %s
                  and starts_with(uri, %s) group by status
                """,
                (index_id, tenant, source, prefix),
            )
            return dict(await rows.fetchall())


async def _document(
    cursor: AsyncCursor[dict[str, Any]], index_id: str, document_id: str, access: AccessFilter
) -> dict[str, Any] | None:
    await cursor.execute(
        f"select {_LISTED}, d.content_hash, d.cause from documents d where {_ALLOWED} and d.document_id = %(document)s::uuid",  # noqa: S608
        _parameters(index_id, access) | {"document": document_id},
    )
    return await cursor.fetchone()


def _parameters(index_id: str, access: AccessFilter) -> dict[str, Any]:
    return access_values(access) | {"index": index_id}
