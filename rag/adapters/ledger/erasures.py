"""Accepted erasures, and the deletion of all that the ledger holds of erased documents."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime

from psycopg.types.json import Jsonb
from pydantic import TypeAdapter

from rag.adapters.ledger.documents import read_recorded
from rag.adapters.ledger.holds import require_no_hold
from rag.adapters.ledger.rows import LedgerPart
from rag.adapters.ledger.stores import add_suppressions, add_to_outbox, lock_suppressions
from rag.errors import Conflict
from rag.models import ERASED, DocumentRecord, Erasure
from rag.ports import OutboxEvent

_ERASURE = TypeAdapter(Erasure)
FIRST_ID = "00000000-0000-0000-0000-000000000000"


class ErasuresPart(LedgerPart):
    async def located(
        self, tenant: str, *, document_id: str = "", uri_prefix: str = "", subject_ids: Sequence[str] = ()
    ) -> list[DocumentRecord]:
        condition = """
            d.tenant = %(tenant)s and d.reason <> %(erased)s and (
                d.document_id = %(document)s::uuid or (%(prefix)s <> '' and starts_with(d.uri, %(prefix)s))
                or d.subjects && %(subjects)s::text[])
        """
        values = {
            "tenant": tenant,
            "erased": ERASED,
            "document": document_id or None,
            "prefix": uri_prefix,
            "subjects": list(subject_ids),
        }
        async with self.connection() as db:
            rows = await db.execute(
                f"""
                select distinct on (d.document_id) d.document_id::text, d.index_id from documents d
                join indexes using (index_id) where {condition}
                order by d.document_id, indexes.created_at desc
                """,  # noqa: S608  (a constant)
                values,
            )
            by_index: dict[str, list[str]] = {}
            for found, index_id in await rows.fetchall():
                by_index.setdefault(index_id, []).append(found)
            records = [
                record
                for index_id, ids in by_index.items()
                for record in await read_recorded(db, index_id, "document_id = any(%s::uuid[])", [ids])
            ]
        return sorted(records, key=lambda record: record.document_id)

    async def accept(self, erasure: Erasure, events: Sequence[OutboxEvent], *, scopes: Sequence[str] = ()) -> None:
        async with self.connection() as db:
            await lock_suppressions(db, erasure.tenant)
            await require_no_hold(db, erasure.tenant, scopes)
            suppressed = [*erasure.document_ids, *erasure.subject_ids]
            await add_suppressions(db, erasure.tenant, suppressed, reason=f"erasure {erasure.erasure_id}")
            await db.execute(
                """
                insert into erased_people (tenant, subject_id, length) select %s, unnest(%s::text[]), unnest(%s::integer[])
                on conflict do nothing
                """,
                (erasure.tenant, list(erasure.subject_ids), list(erasure.subject_lengths)),
            )
            await db.execute(
                """
                insert into spared_documents (tenant, subject_id, document_id)
                select %s, person, document from unnest(%s::text[]) person, unnest(%s::uuid[]) document on conflict do nothing
                """,
                (erasure.tenant, list(erasure.subject_ids), list(erasure.spared)),
            )
            await db.execute(
                """
                insert into erasures (erasure_id, tenant, next_at, body) values (%s, %s, %s, %s)
                on conflict (erasure_id) do nothing
                """,
                (erasure.erasure_id, erasure.tenant, erasure.next_at, _body(erasure)),
            )
            await add_to_outbox(db, events)

    async def erasures(self, tenant: str, *, after: str = "", limit: int = 100) -> list[Erasure]:
        async with self.reading() as db:
            rows = await db.execute(
                "select body from erasures where tenant = %s and erasure_id > %s::uuid order by erasure_id limit %s",
                (tenant, after or FIRST_ID, limit),
            )
            return [_ERASURE.validate_python(body) for (body,) in await rows.fetchall()]

    async def erasure(self, tenant: str, erasure_id: str) -> Erasure | None:
        async with self.reading() as db:
            rows = await db.execute(
                "select body from erasures where tenant = %s and erasure_id = %s::uuid", (tenant, erasure_id)
            )
            row = await rows.fetchone()
        return _ERASURE.validate_python(row[0]) if row else None

    async def due_erasures(self, now: datetime, *, limit: int = 10) -> list[Erasure]:
        async with self.reading() as db:
            rows = await db.execute(
                "select body from erasures where next_at <= %s order by next_at, erasure_id limit %s", (now, limit)
            )
            return [_ERASURE.validate_python(body) for (body,) in await rows.fetchall()]

    async def open_deadlines(self) -> list[datetime]:
        async with self.reading() as db:
            rows = await db.execute(
                "select (body ->> 'deadline')::timestamptz from erasures where next_at is not null and body ->> 'state' <> 'certified'"
            )
            return [deadline for (deadline,) in await rows.fetchall()]

    async def progress(self, erasure: Erasure, events: Sequence[OutboxEvent] = ()) -> Erasure:
        recorded = replace(erasure, revision=erasure.revision + 1)
        async with self.connection() as db:
            done = await db.execute(
                """
                update erasures set next_at = %s, body = %s
                where erasure_id = %s::uuid and (body ->> 'revision')::bigint = %s
                """,
                (recorded.next_at, _body(recorded), erasure.erasure_id, erasure.revision),
            )
            if not done.rowcount:
                raise Conflict(f"another worker went on with erasure {erasure.erasure_id}: leave it to that one")
            await add_to_outbox(db, events)
        return recorded

    async def forget(self, tenant: str, document_ids: Sequence[str]) -> None:
        values = {"tenant": tenant, "documents": list(document_ids), "erased": ERASED}
        async with self.connection() as db:
            await db.execute(
                """
                select 1 from documents where tenant = %(tenant)s and document_id = any(%(documents)s::uuid[])
                order by index_id, document_id for update
                """,
                values,
            )
            await db.execute(
                """
                with gone as (
                    delete from chunks c using documents d
                    where d.tenant = %(tenant)s and d.document_id = any(%(documents)s::uuid[])
                      and c.document_id = d.document_id and c.index_id = d.index_id
                    returning c.index_id, c.point_id)
                insert into garbage (index_id, point_id) select index_id, point_id from gone on conflict do nothing
                """,
                values,
            )
            await db.execute(
                """
                update documents set revision = revision + 1, status = 'suppressed', reason = %(erased)s, uri = '', title = '',
                    version = '', stamp = '', content_hash = '', principals = '{}', scopes = '{}', subjects = '{}',
                    media_type = '', language = '', artifacts = '{}', updated_at = now()
                where tenant = %(tenant)s and document_id = any(%(documents)s::uuid[])
                  and (reason <> %(erased)s or uri <> '')
                """,
                values,
            )
            for table in ("parked", "held_deletions", "embeddings"):
                await db.execute(f"delete from {table} where document_id = any(%(documents)s::uuid[])", values)  # noqa: S608  (constants)

    async def remembered(self, tenant: str, document_ids: Sequence[str]) -> set[str]:
        async with self.reading() as db:
            rows = await db.execute(
                """
                select document_id::text from documents
                where tenant = %(tenant)s and document_id = any(%(documents)s::uuid[]) and (uri <> '' or title <> '')
                union select document_id::text from chunks where document_id = any(%(documents)s::uuid[])
                union select document_id::text from embeddings where document_id = any(%(documents)s::uuid[])
                """,
                {"tenant": tenant, "documents": list(document_ids)},
            )
            return {document_id for (document_id,) in await rows.fetchall()}

    async def index_ids(self) -> list[str]:
        async with self.reading() as db:
            rows = await db.execute("select index_id from indexes order by created_at, index_id")
            return [index_id for (index_id,) in await rows.fetchall()]


def _body(erasure: Erasure) -> Jsonb:
    return Jsonb(_ERASURE.dump_python(erasure, mode="json"))
