"""Small tables beside the documents: positions, embedding cache, suppressions, batches, cursors, row hashes, measurements."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
from psycopg import AsyncConnection
from psycopg.types.json import Jsonb
from pydantic import TypeAdapter

from rag.adapters.ledger.rows import LedgerPart
from rag.ingest.tasks import windows
from rag.models import Batch, ErasedPeople, OffsetRange, Vector
from rag.ports import OutboxEvent
from schemas.topics import TOPICS

_BATCH = TypeAdapter(Batch)
_RELAY = 7_246_332  # advisory lock: two relays at once could publish two revisions of a document in the wrong order
TASKS_OF_ROW = 1000  # about 1 MB of JSON
Label = tuple[tuple[str, str], ...]


class StoresPart(LedgerPart):
    async def positions(self, index_id: str, topic: str, epoch: str) -> dict[int, int]:
        async with self.connection() as db:
            rows = await db.execute(
                "select partition, next_offset from positions where index_id = %s and topic = %s and epoch = %s",
                (index_id, topic, epoch),
            )
            return dict(await rows.fetchall())

    async def advance(self, index_id: str, done: OffsetRange) -> None:
        async with self.connection() as db:
            await move_position(db, index_id, done)

    @asynccontextmanager
    async def unpublished(self, *, limit: int = 1000) -> AsyncIterator[Sequence[OutboxEvent]]:
        async with self.connection() as db:
            await db.execute("select pg_advisory_xact_lock(%s)", (_RELAY,))
            rows = await db.execute("select id, topic, key, event from outbox order by id limit %s", (limit,))
            entries = await rows.fetchall()
            yield [OutboxEvent(topic, key, _event(topic, body)) for _, topic, key, body in entries]
            await db.execute("delete from outbox where id = any(%s)", ([entry[0] for entry in entries],))

    async def epochs(self, index_id: str, topic: str) -> list[str]:
        async with self.connection() as db:
            rows = await db.execute(
                "select epoch from positions where index_id = %s and topic = %s group by epoch order by min(updated_at)",
                (index_id, topic),
            )
            return [epoch for (epoch,) in await rows.fetchall()]

    async def lookup(self, fingerprint: str, tenant: str, keys: Iterable[bytes]) -> dict[bytes, Vector]:
        async with self.connection() as db:
            rows = await db.execute(
                """
                select distinct on (key) key, vector from embeddings
                where fingerprint = %s and tenant = %s and key = any(%s)
                """,
                (fingerprint, tenant, list(keys)),
                binary=True,
            )
            return {bytes(key): np.frombuffer(vector, dtype="<f4") for key, vector in await rows.fetchall()}

    async def prune(self, *, max_rows: int, max_age_days: float) -> int:
        async with self.connection() as db:
            old = await db.execute(
                "delete from embeddings where used_at < now() - make_interval(secs => %s)", (max_age_days * 86400,)
            )
            many = await db.execute(
                """
                delete from embeddings where ctid in (
                    select ctid from embeddings order by used_at desc offset %s)
                """,
                (max_rows,),
            )
            return old.rowcount + many.rowcount

    async def suppressed(self, tenant: str, ids: Sequence[str]) -> set[str]:
        async with self.connection() as db:
            rows = await db.execute(
                "select id from suppressions where tenant = %s and id = any(%s)", (tenant, list(ids))
            )
            return {each for (each,) in await rows.fetchall()}

    async def erased_people(self, tenant: str, document_ids: Sequence[str]) -> ErasedPeople:
        async with self.connection() as db:
            rows = await db.execute(
                """
                select p.subject_id, p.length, array(
                    select s.document_id::text from spared_documents s
                    where s.tenant = p.tenant and s.subject_id = p.subject_id and s.document_id = any(%s::uuid[]))
                from erased_people p where p.tenant = %s
                """,
                (list(document_ids), tenant),
            )
            people = await rows.fetchall()
        spared = {(document, person) for person, _, documents in people for document in documents}
        return ErasedPeople({person: length for person, length, _ in people}, frozenset(spared))

    async def suppress(
        self, tenant: str, ids: Sequence[str], *, reason: str, events: Sequence[OutboxEvent] = ()
    ) -> None:
        async with self.connection() as db:
            await add_suppressions(db, tenant, ids, reason=reason)
            await add_to_outbox(db, events)

    async def save(self, run_id: str, step: str, batch: Batch) -> None:
        async with self.connection() as db:
            await db.execute(
                """
                delete from batches
                where saved_at < now() - interval '1 day' or (run_id = %s and step = %s and partition = %s)
                """,
                (run_id, step, batch.partition),
            )
            for part, tasks in enumerate(list(windows(batch.tasks, TASKS_OF_ROW)) or [()]):
                letters = batch.dead_letters if part == 0 else ()
                body = _BATCH.dump_python(replace(batch, tasks=tuple(tasks), dead_letters=letters), mode="json")
                await db.execute(
                    """
                    insert into batches (run_id, step, partition, part, body) values (%s, %s, %s, %s, %s)
                    on conflict (run_id, step, partition, part) do update set body = excluded.body, saved_at = now()
                    """,
                    (run_id, step, batch.partition, part, Jsonb(body)),
                )

    async def load(self, run_id: str, step: str, partition: int) -> Batch | None:
        async with self.connection() as db:
            rows = await db.execute(
                "select body from batches where run_id = %s and step = %s and partition = %s order by part",
                (run_id, step, partition),
            )
            parts = [_BATCH.validate_python(body) async for (body,) in rows]
        return replace(parts[0], tasks=tuple(task for part in parts for task in part.tasks)) if parts else None

    async def add(self, values: Mapping[tuple[str, Label], float]) -> None:
        async with self.connection() as db, db.cursor() as cursor:
            await cursor.executemany(
                """
                insert into measurements (name, labels, value) values (%s, %s, %s)
                on conflict (name, labels) do update set value = measurements.value + excluded.value
                """,
                [(name, Jsonb(dict(labels)), value) for (name, labels), value in sorted(values.items())],
            )

    async def totals(self) -> dict[tuple[str, Label], float]:
        async with self.connection() as db:
            rows = await db.execute("select name, labels, value from measurements")
            return {(name, tuple(sorted(labels.items()))): value for name, labels, value in await rows.fetchall()}

    async def cursor(self, name: str) -> dict[str, Any]:
        async with self.connection() as db:
            rows = await db.execute("select value from cursors where name = %s", (name,))
            row = await rows.fetchone()
        return row[0] if row else {}

    async def set_cursor(self, name: str, value: Mapping[str, Any]) -> None:
        async with self.connection() as db:
            await db.execute(
                """
                insert into cursors (name, value) values (%s, %s)
                on conflict (name) do update set value = excluded.value, updated_at = now()
                """,
                (name, Jsonb(dict(value))),
            )

    async def row_hashes(self, source: str, table: str, keys: Sequence[str] | None = None) -> dict[str, str]:
        listed = None if keys is None else list(keys)
        async with self.connection() as db:
            rows = await db.execute(
                """
                select key, hash from row_hashes
                where source = %s and table_name = %s and (%s::text[] is null or key = any(%s::text[]))
                """,
                (source, table, listed, listed),
            )
            return dict(await rows.fetchall())

    async def set_row_hashes(
        self, source: str, table: str, hashes: Mapping[str, str], gone: Sequence[str] = ()
    ) -> None:
        async with self.connection() as db:
            await db.execute(
                """
                insert into row_hashes (source, table_name, key, hash) select %s, %s, * from unnest(%s::text[], %s::text[])
                on conflict (source, table_name, key) do update set hash = excluded.hash
                """,
                (source, table, list(hashes.keys()), list(hashes.values())),
            )
            await db.execute(
                "delete from row_hashes where source = %s and table_name = %s and key = any(%s::text[])",
                (source, table, list(gone)),
            )


async def move_position(db: AsyncConnection, index_id: str, done: OffsetRange) -> None:
    await db.execute(
        """
        insert into positions (index_id, topic, epoch, partition, next_offset) values (%s, %s, %s, %s, %s)
        on conflict (index_id, topic, epoch, partition) do update
        set next_offset = greatest(positions.next_offset, excluded.next_offset), updated_at = now()
        """,
        (index_id, done.topic, done.epoch, done.partition, done.end),
    )


async def lock_suppressions(db: AsyncConnection, tenant: str) -> None:
    """Wait until no swap, acceptance or new hold of the tenant runs, and keep later ones waiting until the transaction ends."""
    await db.execute("select pg_advisory_xact_lock(hashtextextended('suppressions:' || %s, 0))", (tenant,))


async def add_suppressions(db: AsyncConnection, tenant: str, ids: Sequence[str], *, reason: str) -> None:
    """Suppress the ids, alone: a swap that runs ends first, and a later one sees the suppressions."""
    await lock_suppressions(db, tenant)
    await db.execute(
        "insert into suppressions (tenant, id, reason) select %s, unnest(%s::text[]), %s on conflict do nothing",
        (tenant, list(ids), reason),
    )


async def add_to_outbox(db: AsyncConnection, events: Sequence[OutboxEvent]) -> None:
    bodies = [_body(event) for event in events]
    await db.execute(
        "insert into outbox (topic, key, event) select * from unnest(%s::text[], %s::text[], %s::jsonb[])",
        ([event.topic for event in events], [event.key for event in events], bodies),
    )


def _body(event: OutboxEvent) -> Jsonb | None:
    return None if event.value is None else Jsonb(_adapter(event.topic).dump_python(event.value, mode="json"))


def _event(topic: str, body: Any) -> Any:
    return None if body is None else _adapter(topic).validate_python(body)


@cache
def _adapter(topic: str) -> TypeAdapter[Any]:
    return TypeAdapter(TOPICS[topic].event)
