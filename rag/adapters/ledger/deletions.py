"""Deletions that wait for a confirmation, and the count of the recent ones."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from psycopg import AsyncConnection

from rag.adapters.ledger.rows import LedgerPart
from rag.ingest.deletions import MASS, WAVE_SECONDS, is_mass
from rag.models import DocumentStatus
from rag.ports import Delta


class DeletionsPart(LedgerPart):
    async def held_deletions(self, index_id: str, tenant: str, source: str) -> dict[str, bool]:
        async with self.connection() as db:
            rows = await db.execute(
                "select document_id::text, is_confirmed from held_deletions where index_id = %s and tenant = %s and source = %s",
                (index_id, tenant, source),
            )
            return dict(await rows.fetchall())

    async def confirm_deletions(
        self, index_id: str, tenant: str, source: str, document_ids: Sequence[str], *, restart_count: bool = False
    ) -> None:
        async with self.connection() as db:
            await db.execute(
                """
                insert into held_deletions (index_id, document_id, tenant, source, is_confirmed)
                select %s, document_id, %s, %s, true from unnest(%s::uuid[]) as document_id order by document_id
                on conflict (index_id, document_id) do update set is_confirmed = true
                """,
                (index_id, tenant, source, list(document_ids)),
            )
            if restart_count:
                await db.execute(
                    "delete from deletions where index_id = %s and tenant = %s and source = %s",
                    (index_id, tenant, source),
                )

    async def release_deletions(self, index_id: str, document_ids: Sequence[str]) -> None:
        async with self.connection() as db:
            await forget_deletions(db, index_id, document_ids)


async def forget_deletions(db: AsyncConnection, index_id: str, document_ids: Sequence[str]) -> None:
    """Delete the entries of held and confirmed deletions, locked in the order in which a confirmation writes them."""
    await db.execute(
        """
        delete from held_deletions where index_id = %(index)s and document_id in (
            select document_id from held_deletions
            where index_id = %(index)s and document_id = any(%(documents)s::uuid[]) order by document_id for update)
        """,
        {"index": index_id, "documents": list(document_ids)},
    )


async def hold_deletions(db: AsyncConnection, index_id: str, deltas: Sequence[Delta]) -> list[Delta]:
    """Record and return those of the deltas of live documents that are deletions and need a confirmation. Count the other deletions."""
    deletions = [delta for delta in deltas if delta.record.status is DocumentStatus.DELETED]
    if not deletions:
        return []
    confirmed = await _confirmed(db, index_id, [delta.record.document_id for delta in deletions])
    held: list[Delta] = []
    waves: dict[tuple[str, str], list[Delta]] = defaultdict(list)
    for delta in deletions:
        if delta.record.document_id in confirmed:
            continue
        if delta.needs_confirmation:
            held.append(delta)
        else:
            waves[delta.record.tenant, delta.record.source].append(delta)
    for (tenant, source), wave in sorted(waves.items(), key=lambda item: item[0]):
        if not await _is_believed(db, index_id, tenant, source, len(wave)):
            held += wave
    await _record(db, index_id, held)
    return held


async def _confirmed(db: AsyncConnection, index_id: str, document_ids: Sequence[str]) -> set[str]:
    rows = await db.execute(
        """
        select document_id::text from held_deletions
        where index_id = %s and document_id = any(%s::uuid[]) and is_confirmed
        """,
        (index_id, list(document_ids)),
    )
    return {document_id for (document_id,) in await rows.fetchall()}


async def _is_believed(db: AsyncConnection, index_id: str, tenant: str, source: str, number: int) -> bool:
    """Count the deletions and return True, unless they and the recent ones would delete most of the source."""
    key = (index_id, tenant, source)
    # One swap at a time: two that count at once could each find room for their deletions.
    await db.execute(
        "select pg_advisory_xact_lock(hashtextextended('deletions:' || %s || '/' || %s || '/' || %s, 0))", key
    )
    await db.execute(
        """
        delete from deletions where index_id = %s and tenant = %s and source = %s
          and deleted_at <= now() - make_interval(secs => %s)
        """,
        (*key, WAVE_SECONDS),
    )
    recent = await _number(
        db, "select coalesce(sum(number), 0) from deletions where index_id = %s and tenant = %s and source = %s", key
    )
    if recent + number > MASS:  # fewer are always believed, so the documents need not be counted
        live = await _number(
            db,
            "select count(*) from documents where index_id = %s and tenant = %s and source = %s and status in ('live', 'parked')"
            " and status <> 'deleted'",  # the condition of the index
            key,
        )
        if is_mass(recent + number, recent + live):
            return False
    await db.execute("insert into deletions (index_id, tenant, source, number) values (%s, %s, %s, %s)", (*key, number))
    return True


async def _number(db: AsyncConnection, query: str, values: tuple[str, str, str]) -> int:
    row = await (await db.execute(query, values)).fetchone()  # a constant of this module
    return int(row[0]) if row else 0


async def _record(db: AsyncConnection, index_id: str, held: Sequence[Delta]) -> None:
    records = sorted((delta.record for delta in held), key=lambda record: record.document_id)
    await db.execute(
        """
        insert into held_deletions (index_id, document_id, tenant, source)
        select %s, * from unnest(%s::uuid[], %s::text[], %s::text[]) on conflict do nothing
        """,
        (
            index_id,
            [record.document_id for record in records],
            [record.tenant for record in records],
            [record.source for record in records],
        ),
    )
