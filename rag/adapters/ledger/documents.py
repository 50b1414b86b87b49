"""The recorded documents, which change only by one way: lock the rows, compare the revisions, swap the state."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from psycopg import AsyncConnection, AsyncCursor
from psycopg.rows import dict_row
from psycopg.types.json import Jsonb

from rag.adapters.ledger.access import ALLOWED, access_values
from rag.adapters.ledger.deletions import forget_deletions, hold_deletions
from rag.adapters.ledger.rows import DOCUMENT_COLUMNS, LedgerPart, cause, cause_json, recorded
from rag.adapters.ledger.stores import add_to_outbox, move_position
from rag.models import (
    AccessFilter,
    DocumentRecord,
    DocumentStatus,
    IndexSpec,
    OffsetRange,
    Parking,
    Placement,
    Provenance,
)
from rag.ports import Delta, EventsOf, FreshVectors, SwapResult
from rag.sources import require_settings

_SUPPRESSED = """
    exists (select 1 from suppressions s
            where s.tenant = d.tenant and s.id = any(d.subjects || d.document_id::text) offset 0)
"""

# Every search runs this: a contract test checks that its cost does not grow with the tables. ``offset 0`` fixes the order of the look-ups.
# Until PostgreSQL has analyzed the tables of a new index, it would rather read every document of the tenant.
VISIBLE = f"""
    select c.point_id::text, c.chunk_id::text, c.ordinal, c.start_char as start, c.end_char as "end", c.page,
        d.document_id::text, d.revision, d.uri, d.title, d.version as source_version, d.cause, d.source, d.language,
        d.media_type, d.status = 'parked' as is_stale
    from unnest(%(points)s::uuid[]) as wanted (point_id)
    cross join lateral (
        select * from chunks where chunks.index_id = %(index)s and chunks.point_id = wanted.point_id offset 0
    ) c
    cross join lateral (
        select * from documents where documents.index_id = %(index)s and documents.document_id = c.document_id offset 0
    ) d
    where d.status in ('live', 'parked') and {ALLOWED} and not {_SUPPRESSED}
"""  # noqa: S608  (constants)


CHUNKS_OF = """
    select document_id::text, chunk_id::text, point_id::text, payload_hash, ordinal, start_char as start, end_char as "end", page
    from chunks where index_id = %s and document_id = any(%s::uuid[])
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
            found = await read_recorded(db, index_id, "document_id = any(%s::uuid[])", [ids])
        return {each: DocumentRecord(each) for each in ids} | {row.document_id: row for row in found}

    async def record_intent(self, index_id: str, deltas: Sequence[Delta]) -> None:
        async with self.connection() as db:
            await db.execute(
                "insert into garbage (index_id, point_id, is_intent) select %s, unnest(%s::uuid[]), true",
                (index_id, [point for delta in deltas for point in delta.new_points]),
            )

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
        async with self.connection() as db:
            await _hold_conditions(db, deltas)
            await _require_settings(db, settings or {})
            result = await _compare(db, index_id, deltas)
            if result.accepted:
                await _record(db, index_id, result.accepted)
                await _cache_vectors(db, vectors or {}, {delta.record.document_id for delta in result.accepted})
            if events:
                await add_to_outbox(db, events(result))
            if done and not result.lost:
                await move_position(db, index_id, done)
        return result

    async def declare_settings(self, digests: Mapping[str, str]) -> None:
        async with self.connection() as db:
            await db.execute("select pg_advisory_xact_lock(hashtextextended('settings', 0))")
            await db.execute("update source_settings set digest = '' where source <> all(%s)", (list(digests),))
            async with db.cursor() as cursor:
                await cursor.executemany(
                    """
                    insert into source_settings (source, digest) values (%s, %s)
                    on conflict (source) do update set digest = excluded.digest, declared_at = now()
                    where source_settings.digest <> excluded.digest
                    """,
                    sorted(digests.items()),
                )

    async def condemn(
        self, index_id: str, *, point_ids: Sequence[str] | None = None, older_than: float = 0.0, limit: int = 1000
    ) -> list[str]:
        chosen = None if point_ids is None else list(point_ids)
        async with self.connection() as db:
            rows = await db.execute(
                """
                update garbage set is_intent = false where index_id = %(index)s and point_id in (
                    select point_id from garbage
                    where index_id = %(index)s and noted_at <= now() - make_interval(secs => %(age)s)
                      and (%(points)s::uuid[] is null or point_id = any(%(points)s::uuid[]))
                    order by point_id limit %(limit)s for update)
                returning point_id::text
                """,
                {"index": index_id, "age": older_than, "points": chosen, "limit": limit},
            )
            return [point for (point,) in await rows.fetchall()]

    async def forget_points(self, index_id: str, point_ids: Sequence[str]) -> None:
        async with self.connection() as db:
            await db.execute(
                "delete from garbage where index_id = %s and point_id = any(%s::uuid[])", (index_id, list(point_ids))
            )

    async def unknown_points(self, index_id: str, point_ids: Sequence[str]) -> set[str]:
        async with self.connection() as db:
            rows = await db.execute(
                """
                select point::text from unnest(%(points)s::uuid[]) as point
                where not exists (select 1 from chunks c where c.index_id = %(index)s and c.point_id = point)
                  and not exists (select 1 from garbage g where g.index_id = %(index)s and g.point_id = point)
                """,
                {"index": index_id, "points": list(point_ids)},
            )
            return {point for (point,) in await rows.fetchall()}

    async def has_points(self, index_id: str) -> bool:
        async with self.connection() as db:
            rows = await db.execute(
                """
                select exists (select 1 from documents d join chunks c using (index_id, document_id) where d.index_id = %s)
                """,
                (index_id,),
            )
            row = await rows.fetchone()
        return bool(row and row[0])

    async def index_revision(self, index_id: str, tenant: str) -> int:
        async with self.reading() as db:
            rows = await db.execute(
                "select revision from revisions where index_id = %s and tenant = %s", (index_id, tenant)
            )
            row = await rows.fetchone()
        return row[0] if row else 0

    async def visible(self, index_id: str, point_ids: Sequence[str], access: AccessFilter) -> dict[str, Provenance]:
        async with self.reading() as db, db.cursor(row_factory=dict_row) as cursor:
            await cursor.execute(VISIBLE, access_values(access) | {"index": index_id, "points": list(point_ids)})
            rows = await cursor.fetchall()
        return {row.pop("point_id"): Provenance(**row | {"cause": cause(row["cause"])}) for row in rows}


async def read_recorded(db: AsyncConnection, index_id: str, where: str, values: list[Any]) -> list[DocumentRecord]:
    """Read the documents ``where`` (a constant of this package) with their current chunks."""
    async with db.cursor(row_factory=dict_row) as cursor:
        await cursor.execute(
            f"select {DOCUMENT_COLUMNS} from documents where index_id = %s and {where} order by document_id",  # noqa: S608
            [index_id, *values],
        )
        rows = await cursor.fetchall()
        await cursor.execute(CHUNKS_OF, [index_id, [row["document_id"] for row in rows]])
        chunks: dict[str, dict[str, Placement]] = defaultdict(dict)
        for row in await cursor.fetchall():
            document_id, chunk_id = row.pop("document_id"), row.pop("chunk_id")
            chunks[document_id][chunk_id] = Placement(**row)
        await cursor.execute(
            "select document_id::text, attempts, since, next_try from parked where index_id = %s and document_id = any(%s::uuid[])",
            [index_id, [row["document_id"] for row in rows if row["status"] == DocumentStatus.PARKED]],
        )
        parking = {row.pop("document_id"): Parking(**row) for row in await cursor.fetchall()}
    return [replace(recorded(row, chunks[each := row["document_id"]]), parking=parking.get(each)) for row in rows]


async def _hold_conditions(db: AsyncConnection, deltas: Sequence[Delta]) -> None:
    """Keep the suppressions of the deltas' tenants, and the declared settings, as they are until the transaction ends.

    A suppression and a declaration take these locks alone, so they come before this transaction, or after it and see its rows.
    """
    tenants = sorted({delta.record.tenant for delta in deltas})
    await db.execute(
        "select pg_advisory_xact_lock_shared(hashtextextended(key, 0)) from unnest(%s::text[]) as key",
        (["settings", *(f"suppressions:{tenant}" for tenant in tenants)],),
    )


async def _require_settings(db: AsyncConnection, settings: Mapping[str, str]) -> None:
    if settings:
        rows = await db.execute("select source, digest from source_settings where source = any(%s)", (list(settings),))
        require_settings(dict(await rows.fetchall()), settings)


async def _compare(db: AsyncConnection, index_id: str, deltas: Sequence[Delta]) -> SwapResult:
    """Lock in one order (documents, intents) and compare."""
    current = await _lock_documents(db, index_id, sorted({delta.record.document_id for delta in deltas}))
    intended = await _lock_intents(db, index_id, [point for delta in deltas for point in delta.new_points])
    suppressed = await _suppressed(db, deltas)
    people = await _erased_people(db, sorted({delta.record.tenant for delta in deltas}))
    accepted: list[Delta] = []
    lost: list[Delta] = []
    for delta in deltas:
        record = delta.record
        is_refused = record.status in {DocumentStatus.LIVE, DocumentStatus.PARKED} and not suppressed.isdisjoint(
            {(record.tenant, each) for each in (record.document_id, *record.subjects)}
        )
        is_unsearched = record.status is DocumentStatus.LIVE and delta.erased_people != people.get(record.tenant, 0)
        is_current = current[record.document_id][0] == record.revision and intended.issuperset(delta.new_points)
        (accepted if is_current and not is_refused and not is_unsearched else lost).append(delta)
    live = {
        document_id
        for document_id, (_, status) in current.items()
        if status in {DocumentStatus.LIVE, DocumentStatus.PARKED}
    }
    held = await hold_deletions(db, index_id, [each for each in accepted if each.record.document_id in live])
    return SwapResult(tuple(each for each in accepted if each not in held), tuple(lost), tuple(held))


async def _lock_documents(
    db: AsyncConnection, index_id: str, document_ids: Sequence[str]
) -> dict[str, tuple[int, str]]:
    """Return document id → (revision, status)."""
    await db.execute(
        "insert into documents (index_id, document_id) select %s, unnest(%s::uuid[]) on conflict do nothing",
        (index_id, document_ids),
    )
    rows = await db.execute(
        """
        select document_id::text, revision, status from documents
        where index_id = %s and document_id = any(%s::uuid[]) order by document_id for update
        """,
        (index_id, document_ids),
    )
    return {document_id: (revision, status) for document_id, revision, status in await rows.fetchall()}


async def _lock_intents(db: AsyncConnection, index_id: str, point_ids: Sequence[str]) -> set[str]:
    """Return the points whose intent was not condemned. A write of a condemned point could leave unrecorded garbage."""
    rows = await db.execute(
        """
        select point_id::text from garbage
        where index_id = %s and point_id = any(%s::uuid[]) and is_intent order by point_id for update
        """,
        (index_id, list(point_ids)),
    )
    return {point for (point,) in await rows.fetchall()}


async def _suppressed(db: AsyncConnection, deltas: Sequence[Delta]) -> set[tuple[str, str]]:
    ids = {(d.record.tenant, each) for d in deltas for each in (d.record.document_id, *d.record.subjects)}
    rows = await db.execute(
        """
        select tenant, id from suppressions
        join unnest(%s::text[], %s::text[]) as wanted (tenant, id) using (tenant, id)
        """,
        ([tenant for tenant, _ in ids], [each for _, each in ids]),
    )
    return {(tenant, each) for tenant, each in await rows.fetchall()}


async def _erased_people(db: AsyncConnection, tenants: Sequence[str]) -> dict[str, int]:
    """Return tenant → number of erased people. It only grows, so an equal number means the same people."""
    rows = await db.execute(
        "select tenant, count(*) from erased_people where tenant = any(%s) group by tenant", (list(tenants),)
    )
    return dict(await rows.fetchall())


async def _record(db: AsyncConnection, index_id: str, deltas: Sequence[Delta]) -> None:
    async with db.cursor() as cursor:
        await cursor.executemany(
            """
            update documents set revision = revision + 1, status = %s, tenant = %s, source = %s, uri = %s, partition = %s,
                version = %s, stamp = %s, content_hash = %s, principals = %s, scopes = %s, subjects = %s, title = %s,
                media_type = %s, language = %s, reason = %s, config_hash = %s, artifacts = %s, cause = %s, updated_at = now()
            where index_id = %s and document_id = %s
            """,
            [_row(index_id, delta) for delta in deltas],
        )
        await forget_deletions(db, index_id, [delta.record.document_id for delta in deltas])
        await _record_chunks(cursor, index_id, deltas)
        await _record_parking(cursor, index_id, [delta.record for delta in deltas])
        tenants = sorted({delta.record.tenant for delta in deltas if delta.is_visible})
        await cursor.execute(
            """
            insert into revisions (index_id, tenant, revision) select %s, unnest(%s::text[]), 1
            on conflict (index_id, tenant) do update set revision = revisions.revision + 1
            """,
            (index_id, tenants),
        )


async def _record_chunks(cursor: AsyncCursor[Any], index_id: str, deltas: Sequence[Delta]) -> None:
    retired = [point for delta in deltas for point in delta.retired]
    await cursor.execute("delete from chunks where index_id = %s and point_id = any(%s::uuid[])", (index_id, retired))
    await cursor.execute(
        "insert into garbage (index_id, point_id) select %s, unnest(%s::uuid[]) on conflict do nothing",
        (index_id, retired),
    )
    await cursor.execute(
        "delete from garbage where index_id = %s and point_id = any(%s::uuid[])",
        (index_id, [point for delta in deltas for point in delta.new_points]),
    )
    rows = [
        (
            each.point_id,
            chunk_id,
            delta.record.document_id,
            each.payload_hash,
            each.ordinal,
            each.start,
            each.end,
            each.page,
        )
        for delta in deltas
        for chunk_id, each in delta.record.chunks.items()
    ]
    columns = [list(column) for column in zip(*rows, strict=True)] if rows else [[]] * 8
    await cursor.execute(
        """
        insert into chunks (index_id, point_id, chunk_id, document_id, payload_hash, ordinal, start_char, end_char, page)
        select %s, * from unnest(%s::uuid[], %s::uuid[], %s::uuid[], %s::text[], %s::int[], %s::int[], %s::int[], %s::int[])
        on conflict (index_id, point_id) do update
        set ordinal = excluded.ordinal, start_char = excluded.start_char, end_char = excluded.end_char, page = excluded.page
        where (chunks.ordinal, chunks.start_char, chunks.end_char, chunks.page)
            is distinct from (excluded.ordinal, excluded.start_char, excluded.end_char, excluded.page)
        """,
        (index_id, *columns),
    )


async def _record_parking(cursor: AsyncCursor[Any], index_id: str, records: Sequence[DocumentRecord]) -> None:
    await cursor.execute(
        "delete from parked where index_id = %s and document_id = any(%s::uuid[])",
        (index_id, [record.document_id for record in records]),
    )
    await cursor.executemany(
        "insert into parked (index_id, document_id, attempts, since, next_try) values (%s, %s, %s, %s, %s)",
        [
            (index_id, record.document_id, parking.attempts, parking.since, parking.next_try)
            for record in records
            if (parking := record.parking)
        ],
    )


def _row(index_id: str, delta: Delta) -> tuple[Any, ...]:
    record = delta.record
    return (
        record.status.value, record.tenant, record.source, record.uri, record.partition, record.version, record.change_token,
        record.content_hash, list(record.principals), list(record.scopes), list(record.subjects), record.title,
        record.media_type, record.language, record.reason, record.config_hash, list(record.artifacts), Jsonb(cause_json(record.cause)),
        index_id, record.document_id,
    )  # fmt: skip


async def _cache_vectors(db: AsyncConnection, vectors: FreshVectors, document_ids: set[str]) -> None:
    rows = [
        (fingerprint, tenant, key, document_id, vector.astype("<f4").tobytes())
        for (fingerprint, tenant, key), (document_id, vector) in vectors.items()
        if document_id in document_ids
    ]
    rows.sort(key=lambda row: row[:4])  # one order, so that two transactions cannot deadlock over shared inputs
    columns = list(zip(*rows, strict=True)) if rows else [(), (), (), (), ()]
    await db.execute(
        """
        insert into embeddings (fingerprint, tenant, key, document_id, vector)
        select * from unnest(%s::text[], %s::text[], %s::bytea[], %s::uuid[], %s::bytea[]) on conflict do nothing
        """,
        [list(column) for column in columns],
    )
