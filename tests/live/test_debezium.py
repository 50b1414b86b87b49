"""A table in PostgreSQL, through Debezium, Kafka Connect and Kafka, to row objects."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import psycopg
import pytest

from consumers.debezium import DebeziumStream
from consumers.runner import step
from rag.adapters.kafka import CLIENT
from rag.adapters.kafka.topics import GroupReader
from rag.adapters.memory.events import MemoryEventLog
from rag.adapters.memory.ledger import MemoryLedger
from rag.adapters.memory.objects import MemoryObjects
from rag.ids import Ids
from rag.sources import Source
from rag.tables import Table
from schemas.datums import DatumDecoder
from schemas.registry import MemoryRegistry
from tests.live.connect import debezium

pytestmark = [pytest.mark.live, pytest.mark.timeout(400)]

SECONDS = 120.0
IDS = Ids(b"0123456789abcdef")
SOURCE = Source("crm", "acme", "s3://internal/crm", ("group:staff",))


class Rows:
    """The row objects that a stream keeps, until an expected state."""

    def __init__(self, reader: GroupReader, topic: str, table: Table, log: Path) -> None:
        self.objects, self.log, self.connect = MemoryObjects("s3://internal"), MemoryEventLog(), log
        decoder = DatumDecoder(MemoryRegistry())
        self.stream = DebeziumStream(SOURCE, {topic: table}, reader, decoder, self.objects, MemoryLedger())

    async def become(self, expected: Mapping[str, Mapping[str, Any]]) -> None:
        deadline = time.monotonic() + SECONDS
        while (rows := await self._rows()) != expected:
            assert time.monotonic() < deadline, f"{rows}\n{self.connect.read_text()[-3000:]}"
            await step(self.stream, IDS, self.log)

    async def _rows(self) -> dict[str, dict[str, Any]]:
        found = {}
        async for state in self.objects.list("s3://internal/crm/"):
            body = json.loads((await self.objects.get(state.uri)).content)
            found[body["key"]] = body["columns"]
        return found


@pytest.mark.parametrize("with_schema", [False, True])
async def test_changes_of_a_table_reach_its_row_objects(
    database_url: str, event_servers: Mapping[str, str], tmp_path: Path, with_schema: bool
) -> None:
    prefix = f"crm{uuid.uuid4().hex[:8]}"
    kafka = event_servers["KAFKA_BOOTSTRAP"]
    topic = f"{prefix}.{prefix}.notes"
    client = {"bootstrap.servers": kafka, **CLIENT, "topic.metadata.refresh.interval.ms": 500}
    reader = GroupReader(client, prefix, [topic])
    with psycopg.connect(database_url, autocommit=True) as db:
        db.execute(f"create schema {prefix}")
        db.execute(f"create table {prefix}.notes (id int primary key, note text, day date, body text)")
        db.execute(f"alter table {prefix}.notes alter body set storage external")
        db.execute(f"insert into {prefix}.notes values (1, 'a', '2026-03-01', repeat('long ', 1000))")  # noqa: S608
        day, body = ("2026-03-01" if with_schema else 20513), "long " * 1000
        tables = f"{prefix}.notes"
        with debezium(kafka, database_url, tmp_path, prefix=prefix, tables=tables, with_schema=with_schema) as log:
            rows = Rows(reader, topic, Table(tables, "ID", "AT"), log)
            try:
                await rows.become({"1": {"id": 1, "note": "a", "day": day, "body": body}})
                while not db.execute(
                    "select 1 from pg_replication_slots where slot_name = %s and active", (prefix,)
                ).fetchall():
                    await step(rows.stream, IDS, rows.log)
                db.execute(f"update {prefix}.notes set note = 'ü'")  # noqa: S608
                db.execute(f"insert into {prefix}.notes values (2, 'b'), (3, 'c')")  # noqa: S608
                db.execute(f"update {prefix}.notes set id = 4 where id = 2")  # noqa: S608
                db.execute(f"delete from {prefix}.notes where id = 3")  # noqa: S608
                await rows.become({"1": {"id": 1, "note": "ü", "day": day, "body": body}, "4": {"id": 4, "note": "b"}})
                db.execute(f"truncate {prefix}.notes")
                await rows.become({})
            finally:
                await reader.close()
