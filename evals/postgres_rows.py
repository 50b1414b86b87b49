"""A table in the stack's PostgreSQL whose rows are documents, by logical decoding."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg

from rag.settings import Settings

NAME = "bench"
_TABLE = f"{NAME}.notes"


@dataclass(frozen=True, slots=True)
class Rows:
    """The table, over a connection that commits each statement."""

    connection: psycopg.AsyncConnection[Any]

    async def upsert(self, number: int, note: str) -> None:
        await self.connection.execute(
            f"insert into {_TABLE} values (%s, %s) on conflict (id) do update set note = excluded.note",  # noqa: S608
            (number, note),
        )

    async def delete(self, number: int) -> None:
        await self.connection.execute(f"delete from {_TABLE} where id = %s", (number,))  # noqa: S608


def sources(dsn_file: Path, queue_port: int) -> str:
    """Return SOURCES: the built-in bucket and folder, and the table. ``queue_port`` is that of the S3 and SQS server."""
    common: Mapping[str, object] = {"tenant": "acme", "principals": ["group:staff"]}
    queue = f"http://127.0.0.1:{queue_port}/123456789012/tidemark-documents"
    table = {"table": _TABLE, "key": "id", "text": "{note}"}
    options = {"dsn_file": str(dsn_file), "publication": NAME, "slot": NAME}
    return json.dumps([
        {"name": "s3", "kind": "s3", "base_uri": "s3://tidemark-documents", "queue_url": queue, **common},
        {"name": "folder", "kind": "folder", "base_uri": "folder://inbox", **common},
        {"name": "uploads", "kind": "uploads", "base_uri": "s3://tidemark-internal/uploads", **common},
        {"name": "row", "kind": "postgres", "base_uri": "s3://tidemark-internal/bench", "tables": [table], "options": options, **common},
    ])  # fmt: skip


@asynccontextmanager
async def rows(settings: Settings, dsn_file: Path) -> AsyncIterator[Rows]:
    """Create and publish the table, and then write ``dsn_file``, for which the source waits."""
    url = settings.database_url.get_secret_value()
    async with await psycopg.AsyncConnection.connect(url, autocommit=True) as connection:
        await connection.execute(f"create schema {NAME}")
        await connection.execute(f"create table {_TABLE} (id int primary key, note text)")
        await connection.execute(f"create publication {NAME} for table {_TABLE}")
        await asyncio.to_thread(dsn_file.write_text, url)
        yield Rows(connection)
