"""Warehouse tables through Snowflake's own connector: one short-lived connection per call, off the event loop."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from datetime import UTC, datetime
from typing import Any, TypeVar

from rag.errors import StaleStream, Unavailable
from rag.ports import Row

Result = TypeVar("Result")
# Snowflake's words, because it documents no number. A wrong match costs a comparison of all rows.
_STALE = re.compile(r"\bstale\b|time travel data is not available", re.IGNORECASE)


def key_expression(columns: Sequence[str]) -> str:
    """Return the SQL expression of a row's key, which gives the same text as ``rag.tables.row_key``."""
    if len(columns) == 1:
        return columns[0]
    escaped = (f"replace(replace(to_varchar({column}), '~', '~0'), '/', '~1')" for column in columns)
    return f"({' || chr(47) || '.join(escaped)})"  # null when one of them is null


def select_rows(table: str, key: str, changed: str) -> str:
    """Return the start of a query for the key, the time of change and the content of rows, in the order of ``Row``'s fields."""
    return f"select to_varchar({key}) as k, {changed} as c, to_json(object_construct(*)) as b from {table}"  # noqa: S608


def fill_statements(stream: str, outbox: str, key: str) -> tuple[str, str, str]:
    """Return the transaction that moves a stream's changes to the outbox. Reading a stream in DML advances it with the commit, over the
    rows that the condition leaves out too. An update is a DELETE and an INSERT, mostly of one key, which needs one entry."""
    insert = (
        f"insert into {outbox} (row_key, action, is_update)"  # noqa: S608
        f" select to_varchar({key}), max(metadata$action), boolor_agg(metadata$isupdate) from {stream}"
        f" where {key} is not null group by to_varchar({key})"
    )
    return "begin", insert, "commit"


def pending_statement(outbox: str, limit: int) -> str:
    return f"select seq, row_key from {outbox} order by seq limit {int(limit)}"  # noqa: S608


def forget_statement(outbox: str, numbers: Sequence[int]) -> str:
    return f"delete from {outbox} where seq in ({', '.join(str(int(number)) for number in numbers)})"  # noqa: S608


class SnowflakeWarehouse:
    """Warehouse and ChangedKeys of ``rag.ports``. ``parameters`` are those of ``snowflake.connector.connect``."""

    def __init__(self, parameters: Mapping[str, Any]) -> None:
        self._parameters = dict(parameters)

    async def changed(
        self, table: str, key: str, changed: str, *, since: datetime | None, after: Row | None, limit: int
    ) -> list[Row]:
        select = select_rows(table, key, changed)
        order = f"order by {changed}, to_varchar({key}) limit {int(limit)}"
        if after is not None:
            where = f"where {key} is not null and ({changed} > %s or ({changed} = %s and to_varchar({key}) > %s))"
            return await self._select(f"{select} {where} {order}", (after.changed, after.changed, after.key))
        if since is not None:
            return await self._select(f"{select} where {key} is not null and {changed} >= %s {order}", (since,))
        return await self._select(f"{select} where {key} is not null and {changed} is not null {order}", ())

    async def hashes(self, table: str, key: str) -> dict[str, str]:
        query = f"select to_varchar({key}), md5(to_json(object_construct(*))) from {table} where {key} is not null"  # noqa: S608
        return dict(await self._run(lambda cursor: cursor.execute(query).fetchall()))

    async def rows(self, table: str, key: str, changed: str, keys: Sequence[str]) -> list[Row]:
        select = select_rows(table, key, changed)
        marks = ", ".join(["%s"] * len(keys))
        return await self._select(f"{select} where to_varchar({key}) in ({marks})", tuple(keys)) if keys else []

    async def pending(self, outbox: str, limit: int) -> list[tuple[int, str]]:
        query = pending_statement(outbox, limit)
        return [(int(number), key) for number, key in await self._run(lambda cursor: cursor.execute(query).fetchall())]

    async def fill(self, stream: str, outbox: str, key: str) -> None:
        def move(cursor: Any) -> None:
            for statement in fill_statements(stream, outbox, key):
                cursor.execute(statement)  # after an error the connection is closed, which rolls back

        await self._run(move)

    async def forget(self, outbox: str, numbers: Sequence[int]) -> None:
        if numbers:
            await self._run(lambda cursor: cursor.execute(forget_statement(outbox, numbers)))

    async def _select(self, query: str, values: tuple[Any, ...]) -> list[Row]:
        rows = await self._run(lambda cursor: cursor.execute(query, values).fetchall())
        return [Row(key, _aware(changed), body) for key, changed, body in rows]

    async def _run(self, work: Callable[[Any], Result]) -> Result:
        def connect_and_run() -> Result:
            import snowflake.connector

            try:
                with closing(snowflake.connector.connect(**self._parameters)) as connection:
                    return work(connection.cursor())
            except snowflake.connector.errors.Error as error:
                if _STALE.search(str(error)):
                    raise StaleStream("the stream is stale: create it again") from error
                raise Unavailable(
                    f"Snowflake refuses or fails ({type(error).__name__} {error.errno}): check SNOWFLAKE_* and the table's rights"
                ) from error

        return await asyncio.to_thread(connect_and_run)


def _aware(moment: datetime | None) -> datetime:
    """Return the timestamp with a zone. One without a zone is UTC. A row without a timestamp gets the oldest; the diff finds it."""
    if moment is None:
        return datetime.fromtimestamp(0, UTC)
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)
