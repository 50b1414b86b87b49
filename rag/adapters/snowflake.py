"""Warehouse tables through Snowflake's own connector: one short-lived connection per call, off the event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from datetime import UTC, datetime
from typing import Any, TypeVar

from rag.errors import Unavailable
from rag.ports import Row

Result = TypeVar("Result")


def key_expression(columns: Sequence[str]) -> str:
    """Return the SQL expression of a row's key, which gives the same text as ``rag.tables.row_key``."""
    if len(columns) == 1:
        return columns[0]
    escaped = (f"replace(replace(to_varchar({column}), '~', '~0'), '/', '~1')" for column in columns)
    return f"({' || chr(47) || '.join(escaped)})"  # null when one of them is null


def select_rows(table: str, key: str, changed: str) -> str:
    """Return the start of a query for the key, the time of change and the content of rows, in the order of ``Row``'s fields."""
    return f"select to_varchar({key}) as k, {changed} as c, to_json(object_construct(*)) as b from {table}"  # noqa: S608


class SnowflakeWarehouse:
    """Warehouse of ``rag.ports``. ``parameters`` are those of ``snowflake.connector.connect``."""

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
                raise Unavailable(
                    f"Snowflake refuses or fails ({type(error).__name__} {error.errno}): check SNOWFLAKE_* and the table's rights"
                ) from error

        return await asyncio.to_thread(connect_and_run)


def _aware(moment: datetime | None) -> datetime:
    """Return the timestamp with a zone. One without a zone is UTC. A row without a timestamp gets the oldest; the diff finds it."""
    if moment is None:
        return datetime.fromtimestamp(0, UTC)
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)
