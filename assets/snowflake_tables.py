"""A mapped Snowflake table as Dagster sees it: what it holds now, a sampler that announces its rows again, a check of its rows."""

import asyncio
import random
from collections.abc import Sequence
from typing import Any

import dagster as dg
from dagster_snowflake import SnowflakeResource

from assets.resources import OpenServices
from rag.ingest.change_events import publish_changes
from rag.ingest.warehouse_rows import RowChange, Table, object_change, record_hashes, table_uri, write_rows
from rag.ports import Row
from rag.sources import Source

COMMON: dict[str, Any] = {"group_name": "snowflake", "owners": ["team:data-platform"], "kinds": {"snowflake"}}


class Sample(dg.Config):
    """How many rows to announce again: all when ``rows`` is 0."""

    rows: int = 0
    seed: int = 0


def table_assets(source: Source, table: Table) -> list[dg.AssetsDefinition]:
    """``snowflake/<table>`` observes; ``snowflake/<table>_announced`` announces rows again, the index works on them as usual."""
    name = table.name.lower().replace(".", "__").replace("$", "_")
    key = dg.AssetKey(["snowflake", name])

    @dg.asset(**COMMON, key=key, check_specs=[dg.AssetCheckSpec("rows_are_indexed", asset=key)])
    async def observed(snowflake: SnowflakeResource, tidemark: dg.ResourceParam[OpenServices]) -> dg.MaterializeResult:
        count, newest = await asyncio.to_thread(_summary, snowflake, table)
        async with tidemark() as services:
            prefix = table_uri(source, table)
            counted = await services.ledger.counts(services.spec.index_id, source.name, prefix)
        indexed = counted.get("live", 0) + counted.get("dead", 0)
        return dg.MaterializeResult(
            metadata={"rows": count, "newest change": str(newest), "dead": counted.get("dead", 0)},
            check_results=[
                dg.AssetCheckResult(
                    passed=count == indexed,
                    check_name="rows_are_indexed",
                    asset_key=key,
                    severity=dg.AssetCheckSeverity.WARN,  # a row that changed a second ago is on its way
                    metadata={"rows": count, "documents": indexed},
                )
            ],
        )

    @dg.asset(**COMMON, key=dg.AssetKey(["snowflake", f"{name}_announced"]), deps=[key])
    async def announced(
        config: Sample, snowflake: SnowflakeResource, tidemark: dg.ResourceParam[OpenServices]
    ) -> dg.MaterializeResult:
        rows = await asyncio.to_thread(_rows, snowflake, table)
        if config.rows and config.rows < len(rows):
            rows = random.Random(config.seed).sample(rows, config.rows)  # noqa: S311  (a sample, no secret)
        changes = [RowChange(table, row.key, row, "sampler") for row in rows]
        async with tidemark() as services:
            changes = await write_rows(source, changes, services.objects)
            await publish_changes(
                [object_change(source, change) for change in changes], source, services.ids, services.events
            )
            await record_hashes(source, changes, services.ledger)
        return dg.MaterializeResult(metadata={"announced": len(changes)})

    return [observed, announced]


def _summary(snowflake: SnowflakeResource, table: Table) -> Sequence[Any]:
    with snowflake.get_connection() as connection:
        cursor: Any = connection.cursor()
        found: Sequence[Any] = cursor.execute(f"select count(*), max({table.changed}) from {table.name}").fetchone()  # noqa: S608
    return found


def _rows(snowflake: SnowflakeResource, table: Table) -> list[Row]:
    query = (
        f"select to_varchar({table.key}), {table.changed}, to_json(object_construct(*)) from {table.name} "  # noqa: S608
        f"where {table.key} is not null and {table.changed} is not null order by 1"
    )
    with snowflake.get_connection() as connection:
        cursor: Any = connection.cursor()
        return [Row(*found) for found in cursor.execute(query).fetchall()]
