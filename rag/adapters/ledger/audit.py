"""The chains of the audit log. Triggers refuse every change of an entry; the chain shows the changes of those who disable them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any

from psycopg import AsyncConnection
from psycopg.errors import UniqueViolation
from psycopg.rows import dict_row
from psycopg.types.json import Jsonb

from rag.adapters.ledger.rows import LedgerPart
from rag.errors import Unavailable
from rag.ids import NO_LINK, link
from rag.models import AuditEntry, AuditEvent, AuditHead, AuditQuery

_COLUMNS = "number, previous, link, event_id::text, at, tenant, actor, action, objects, outcome, reason, details, seal"
# One value for all rows: the driver's work for it is a tenth of that for thirteen values a row, and it delays the queries.
_INSERT = """
    insert into audit_entries
        (tenant, number, previous, link, event_id, at, actor, action, objects, outcome, reason, details, seal)
    select tenant, number, previous, link, event_id, at, actor, action,
        array(select jsonb_array_elements_text(objects)), outcome, reason, details, seal
    from jsonb_to_recordset(%s::jsonb) as row(tenant text, number bigint, previous text, link text, event_id uuid, at timestamptz,
        actor text, action text, objects jsonb, outcome text, reason text, details jsonb, seal text)
"""


class AuditPart(LedgerPart):
    async def append_audit(self, events: Sequence[AuditEvent]) -> None:
        in_order = sorted(
            events, key=lambda event: event.tenant
        )  # of locks; stable, so the events of a tenant stay in order
        async with self.connection() as db:
            for tenant, group in groupby(in_order, key=lambda event: event.tenant):
                await _append(db, tenant, list(group))

    async def audit_entries(
        self, tenant: str, wanted: AuditQuery, *, after: int = 0, newest_first: bool = False, limit: int = 1000
    ) -> list[AuditEntry]:
        page = "(%(after)s = 0 or number < %(after)s)" if newest_first else "number > %(after)s"
        order = "desc" if newest_first else "asc"
        conditions, values = _conditions(wanted)
        statement = (
            f"select {_COLUMNS} from audit_entries where tenant = %(tenant)s and {page} {conditions}"  # noqa: S608  (no values)
            f" order by number {order} limit %(limit)s"
        )
        async with self.reading() as db, db.cursor(row_factory=dict_row) as cursor:
            rows = await cursor.execute(statement, {"tenant": tenant, "after": after, "limit": limit, **values})
            return [_entry(row) async for row in rows]

    async def audit_heads(self) -> dict[str, AuditHead]:
        async with self.reading() as db:
            rows = await db.execute("select tenant, number, link from audit_heads where number > 0")
            return {tenant: AuditHead(number, last) async for tenant, number, last in rows}


async def _append(db: AsyncConnection, tenant: str, events: Sequence[AuditEvent]) -> None:
    """Append events of one tenant. The lock on the head's row lets one writer at a time read and move it."""
    head = await _locked_head(db, tenant)
    known = await _known(db, [event.event_id for event in events])
    number, last = head.number, head.link
    rows: list[dict[str, Any]] = []
    for event in events:
        if event.event_id in known:
            continue
        known.add(event.event_id)
        fields = event.fields()
        previous, number = last, number + 1
        last = link(previous, fields)
        rows.append({**fields, "number": number, "previous": previous, "link": last})
    if not rows:
        return
    try:
        await db.execute(_INSERT, (Jsonb(rows),))
    except UniqueViolation:
        raise Unavailable(
            f"the audit log of tenant {tenant!r} has entries beyond its head {head.number}, so it was tampered with: verify it"
        ) from None
    await db.execute("update audit_heads set number = %s, link = %s where tenant = %s", (number, last, tenant))


async def _locked_head(db: AsyncConnection, tenant: str) -> AuditHead:
    """Lock the head of the chain until the end of the transaction, and return it. Make one for a new chain."""
    select = "select number, link from audit_heads where tenant = %s for update"
    found = await (await db.execute(select, (tenant,))).fetchone()
    if found is None:
        await db.execute(
            "insert into audit_heads (tenant, number, link) values (%s, 0, %s) on conflict do nothing",
            (tenant, NO_LINK),
        )
        found = await (await db.execute(select, (tenant,))).fetchone()
    return AuditHead(*found) if found else AuditHead(0, NO_LINK)


async def _known(db: AsyncConnection, event_ids: Sequence[str]) -> set[str]:
    rows = await db.execute(
        "select event_id::text from audit_entries where event_id = any(%s::uuid[])", (list(event_ids),)
    )
    return {each for (each,) in await rows.fetchall()}


def _conditions(wanted: AuditQuery) -> tuple[str, dict[str, Any]]:
    """Return the conditions of the fields that are not empty, and their values."""
    known = {
        "since": ("at >= %(since)s", wanted.since),
        "until": ("at < %(until)s", wanted.until),
        "actor": ("actor = %(actor)s", wanted.actor),
        "action": ("(action = %(action)s or starts_with(action, %(action)s || '.'))", wanted.action),
        "object": ("objects @> array[%(object)s]", wanted.object),
        "outcome": ("outcome = %(outcome)s", wanted.outcome),
    }
    given = {name: each for name, each in known.items() if each[1]}
    return "".join(f" and {condition}" for condition, _ in given.values()), {
        name: value for name, (_, value) in given.items()
    }


def _entry(row: Mapping[str, Any]) -> AuditEntry:
    event = AuditEvent(
        event_id=row["event_id"],
        at=row["at"],
        tenant=row["tenant"],
        actor=row["actor"],
        action=row["action"],
        objects=tuple(row["objects"]),
        outcome=row["outcome"],
        reason=row["reason"],
        details=row["details"],
        seal=row["seal"],
    )
    return AuditEntry(row["number"], row["previous"], row["link"], event)
