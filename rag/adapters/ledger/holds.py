"""Legal holds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from psycopg import AsyncConnection
from psycopg.rows import dict_row

from rag.adapters.ledger.rows import LedgerPart
from rag.adapters.ledger.stores import lock_suppressions
from rag.errors import Conflict
from rag.models import Hold

_COLUMNS = """
    hold_id::text, tenant, scope, source, uri_prefix, coalesce(document_id::text, '') as document_id, actor, reason, placed_at
"""


class HoldsPart(LedgerPart):
    async def place(self, hold: Hold) -> Hold:
        async with self.connection() as db, db.cursor(row_factory=dict_row) as cursor:
            await lock_suppressions(db, hold.tenant)
            await cursor.execute(
                """
                insert into legal_holds (hold_id, tenant, scope, source, uri_prefix, document_id, actor, reason)
                values (%(hold_id)s, %(tenant)s, %(scope)s, %(source)s, %(uri_prefix)s, nullif(%(document_id)s, '')::uuid, %(actor)s,
                    %(reason)s)
                on conflict (hold_id) do nothing
                """,
                asdict(hold),
            )
            await cursor.execute(
                f"select {_COLUMNS} from legal_holds where hold_id = %s",  # noqa: S608  (a constant)
                (hold.hold_id,),
            )
            (row,) = await cursor.fetchall()
        return Hold(**row)

    async def holds(
        self, tenant: str, *, scopes: Sequence[str] | None = None, after: str = "", limit: int = 100
    ) -> list[Hold]:
        async with self.reading() as db:
            return await _read(db, tenant, scopes, after, limit)

    async def lift(self, tenant: str, hold_id: str) -> Hold | None:
        async with self.connection() as db, db.cursor(row_factory=dict_row) as cursor:
            await cursor.execute(
                f"delete from legal_holds where tenant = %s and hold_id = %s returning {_COLUMNS}",  # noqa: S608  (a constant)
                (tenant, hold_id),
            )
            row = await cursor.fetchone()
        return Hold(**row) if row else None


async def require_no_hold(db: AsyncConnection, tenant: str, scopes: Sequence[str]) -> None:
    """Raise Conflict when one of the scopes is under a legal hold. The transaction has called ``lock_suppressions``."""
    if scopes and (found := await _read(db, tenant, scopes, "", 1)):
        raise Conflict(found[0].refusal)


async def _read(db: AsyncConnection, tenant: str, scopes: Sequence[str] | None, after: str, limit: int) -> list[Hold]:
    values: dict[str, Any] = {
        "tenant": tenant, "scopes": None if scopes is None else list(scopes), "after": after or None, "limit": limit,
    }  # fmt: skip
    async with db.cursor(row_factory=dict_row) as cursor:
        await cursor.execute(
            f"""
            select {_COLUMNS} from legal_holds
            where tenant = %(tenant)s and (%(scopes)s::text[] is null or scope = any(%(scopes)s::text[]))
              and (%(after)s::uuid is null or hold_id > %(after)s::uuid)
            order by hold_id limit %(limit)s
            """,  # noqa: S608  (a constant)
            values,
        )
        return [Hold(**row) for row in await cursor.fetchall()]
