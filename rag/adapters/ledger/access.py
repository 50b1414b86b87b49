"""The access rules of administrators, and the condition that every read of documents obeys."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from psycopg import AsyncConnection
from psycopg.rows import dict_row

from rag.adapters.ledger.rows import LedgerPart
from rag.models import AccessFilter, AccessRule, Effect, RuledScopes

_NAMED = """
    array(select r.scope from access_rules r
          where r.tenant = %(tenant)s and r.principal = any(%(principals)s::text[]) and r.effect = '{}')
"""
# Of the documents ``d``. The lists of scopes are read once per statement, because they do not depend on the document.
ALLOWED = f"""
    d.tenant = %(tenant)s
    and (d.principals && %(principals)s::text[] or d.scopes && {_NAMED.format("grant")})
    and not d.scopes && {_NAMED.format("revoke")}
"""
_COLUMNS = """
    rule_id::text, tenant, scope, principal, effect, source, uri_prefix, coalesce(document_id::text, '') as document_id, actor,
    reason, decided_at
"""


def access_values(access: AccessFilter) -> dict[str, Any]:
    """Return the values of ``ALLOWED``."""
    return {"tenant": access.tenant, "principals": list(access.principals)}


class AccessPart(LedgerPart):
    async def ruled_scopes(self, access: AccessFilter) -> RuledScopes:
        async with self.reading() as db:
            rows = await db.execute(
                "select effect, scope from access_rules where tenant = %(tenant)s and principal = any(%(principals)s::text[])",
                access_values(access),
            )
            named = await rows.fetchall()
        return RuledScopes(
            *(tuple(sorted({scope for effect, scope in named if effect == each})) for each in ("grant", "revoke"))
        )

    async def ruled(self, tenant: str, scopes: Sequence[str]) -> set[str]:
        async with self.reading() as db:
            rows = await db.execute(
                "select distinct scope from access_rules where tenant = %s and scope = any(%s)", (tenant, list(scopes))
            )
            return {scope for (scope,) in await rows.fetchall()}

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
        async with self.reading() as db, db.cursor(row_factory=dict_row) as cursor:
            await cursor.execute(
                f"""
                select {_COLUMNS} from access_rules
                where tenant = %(tenant)s and %(source)s in ('', source) 
                  and (%(principals)s::text[] is null or principal = any(%(principals)s::text[]))
                  and (%(scopes)s::text[] is null or scope = any(%(scopes)s::text[]))
                  and (%(after)s::uuid is null or rule_id > %(after)s::uuid)
                order by rule_id limit %(limit)s
                """,  # noqa: S608  (a constant)
                {
                    "tenant": tenant,
                    "source": source,
                    "principals": None if principals is None else list(principals),
                    "scopes": None if scopes is None else list(scopes),
                    "after": after or None,
                    "limit": limit,
                },
            )
            return [_rule(row) for row in await cursor.fetchall()]

    async def decide(self, rule: AccessRule) -> AccessRule:
        async with self.connection() as db, db.cursor(row_factory=dict_row) as cursor:
            await cursor.execute(
                f"""
                insert into access_rules
                    (rule_id, tenant, scope, principal, effect, source, uri_prefix, document_id, actor, reason)
                values (%(rule_id)s, %(tenant)s, %(scope)s, %(principal)s, %(effect)s, %(source)s, %(uri_prefix)s,
                    nullif(%(document_id)s, '')::uuid, %(actor)s, %(reason)s)
                on conflict (rule_id) do update set effect = excluded.effect, source = excluded.source, actor = excluded.actor,
                    reason = excluded.reason, decided_at = now()
                returning {_COLUMNS}
                """,  # noqa: S608  (a constant)
                asdict(rule) | {"effect": rule.effect.value},
            )
            (row,) = await cursor.fetchall()
            await _count_change(db, rule.tenant)
        return _rule(row)

    async def withdraw(self, tenant: str, rule_id: str) -> AccessRule | None:
        async with self.connection() as db, db.cursor(row_factory=dict_row) as cursor:
            await cursor.execute(
                f"delete from access_rules where tenant = %s and rule_id = %s returning {_COLUMNS}",  # noqa: S608  (a constant)
                (tenant, rule_id),
            )
            row = await cursor.fetchone()
            if row is not None:
                await _count_change(db, tenant)
        return _rule(row) if row else None


async def _count_change(db: AsyncConnection, tenant: str) -> None:
    """Begin a new revision of every index for the tenant, so that no answer is taken from the cache that others saw documents for."""
    await db.execute("update revisions set revision = revision + 1 where tenant = %s", (tenant,))


def _rule(row: dict[str, Any]) -> AccessRule:
    return AccessRule(**row | {"effect": Effect(row["effect"])})
