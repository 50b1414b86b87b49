"""A mapped Snowflake table in Dagster: an external asset that a sensor observes, a check of its rows, a job that announces rows again."""

import asyncio
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import dagster as dg
from dagster_snowflake import SnowflakeResource

from assets.policy import RUN_RETRIES
from assets.resources import OpenServices, open_for_run
from assets.sources import OBSERVE_SECONDS, Metadata, changes_since, table_key
from governance.admission import admitted_rows
from rag.adapters.snowflake import key_expression, select_rows
from rag.ingest.change_events import publish_changes
from rag.ingest.warehouse_rows import RowChange, object_change, record_hashes, table_uri, write_rows
from rag.ports import Row
from rag.sources import Source
from rag.tables import Table
from rag.wiring import Services

CHECK = "rows_are_indexed"


@dataclass(frozen=True, slots=True)
class MappedTable:
    """A table and the source that it belongs to."""

    source: Source
    table: Table

    @property
    def key(self) -> dg.AssetKey:
        return table_key(self.source.name, self.table.name)


@dataclass(frozen=True, slots=True)
class Observed:
    """The rows that a table has now, and the documents that the index has of it, by status."""

    mapped: MappedTable
    rows: int
    newest: datetime | None
    documents: Mapping[str, int]

    @property
    def metadata(self) -> Metadata:
        return {"rows": self.rows, "newest change": str(self.newest), **self._documents}

    @property
    def evaluation(self) -> dg.AssetCheckEvaluation:
        indexed = self.documents.get("live", 0) + self.documents.get("dead", 0)
        return dg.AssetCheckEvaluation(
            self.mapped.key,
            CHECK,
            passed=self.rows == indexed,
            severity=dg.AssetCheckSeverity.WARN,  # a row that changed a second ago is on its way
            metadata={"rows": self.rows, **self._documents},
        )

    @property
    def _documents(self) -> dict[str, int]:
        return {f"{status} documents": self.documents.get(status, 0) for status in ("live", "dead")}


def table_spec(mapped: MappedTable) -> dg.AssetSpec:
    table = mapped.table
    return dg.AssetSpec(
        mapped.key,
        description=f"Rows of the Snowflake table `{table.name}`. Each row becomes one document. The consumers poll the table for "
        f"rows whose `{table.changed}` moved, and compare all rows by hash from time to time.",
        group_name="snowflake",
        kinds={"snowflake", "table"},
        metadata={
            "table": table.name,
            "key column": ", ".join(table.key_columns),
            "row objects": table_uri(mapped.source, table),
        },
    )


async def observe(mapped: MappedTable, snowflake: SnowflakeResource, services: Services) -> Observed:
    rows, newest = await asyncio.to_thread(_summary, snowflake, mapped.table)
    prefix = table_uri(mapped.source, mapped.table)
    source = mapped.source
    counts = await services.ledger.counts(services.spec.index_id, source.tenant, source.name, prefix)
    return Observed(mapped, rows, newest, counts)


def indexed_check(mapped: MappedTable) -> dg.AssetChecksDefinition:
    """Return the check that every row is a document of the index."""

    @dg.asset_check(  # type: ignore[arg-type]  # its types do not know that a check may be a coroutine
        asset=mapped.key,
        name=CHECK,
        description="The index has one document, live or dead, for each row. A difference right after a change is normal.",
    )
    async def rows_are_indexed(
        context: dg.AssetCheckExecutionContext, snowflake: SnowflakeResource, tidemark: dg.ResourceParam[OpenServices]
    ) -> dg.AssetCheckResult:
        async with open_for_run(context, tidemark) as services:
            evaluation = (await observe(mapped, snowflake, services)).evaluation
        return dg.AssetCheckResult(
            passed=evaluation.passed, severity=evaluation.severity, metadata=dict(evaluation.metadata)
        )

    return rows_are_indexed


def observing_sensor(tables: Sequence[MappedTable]) -> dg.SensorDefinition:
    """Return the sensor that observes the tables inside its tick, because a run would cost seconds of imports."""

    @dg.sensor(
        minimum_interval_seconds=OBSERVE_SECONDS,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Counts the rows of each mapped table, checks that the index has all of them, and starts no run.",
    )
    def observed_tables(
        context: dg.SensorEvaluationContext, snowflake: SnowflakeResource, tidemark: dg.ResourceParam[OpenServices]
    ) -> dg.SensorResult:
        async def look() -> list[Observed]:
            async with tidemark() as services:
                return [await observe(each, snowflake, services) for each in tables]

        observed = asyncio.run(look())
        events, cursor = changes_since(context.cursor, {each.mapped.key: each.metadata for each in observed})
        return dg.SensorResult(asset_events=[*events, *(each.evaluation for each in observed)], cursor=cursor)

    return observed_tables


def announcing_job(tables: Sequence[MappedTable]) -> dg.JobDefinition:
    """Return the job that announces rows again, so that the index reads them as if they had just changed."""
    by_name = {each.table.name: each for each in tables}

    class Sample(dg.Config):
        """The table, and the number of its rows to announce: all of them when ``rows`` is 0."""

        table: str = next(iter(by_name))
        rows: int = 0
        seed: int = 0

    @dg.op
    async def announce_rows(
        context: dg.OpExecutionContext,
        config: Sample,
        snowflake: SnowflakeResource,
        tidemark: dg.ResourceParam[OpenServices],
    ) -> int:
        """Write row objects and publish a change event for each. Return the number of events."""
        mapped = by_name.get(config.table)
        if mapped is None:
            raise dg.Failure(f"{config.table!r} is not a mapped table: choose one of {', '.join(by_name)}")
        rows = await asyncio.to_thread(_rows, snowflake, mapped.table)
        if config.rows and config.rows < len(rows):
            rows = random.Random(config.seed).sample(rows, config.rows)  # noqa: S311  (a sample, not a secret)
        async with open_for_run(context, tidemark) as services:
            announced = await _announce(mapped, rows, services)
        context.log.info(f"announced {announced} rows of {config.table}")
        return announced

    @dg.job(
        executor_def=dg.in_process_executor,
        tags=RUN_RETRIES,
        description="Announce rows of a table again. The index then reads them as if they had just changed.",
    )
    def announce_rows_again() -> None:
        announce_rows()

    return announce_rows_again


async def _announce(mapped: MappedTable, rows: Sequence[Row], services: Services) -> int:
    source, changes = mapped.source, [RowChange(mapped.table, row.key, row, "sampler") for row in rows]
    admitted = await admitted_rows(changes, source, services.ids, services.ledger)
    written = await write_rows(source, admitted, services.objects)
    events = [object_change(source, change) for change in written]
    await publish_changes(events, source, services.ids, services.events)
    await record_hashes(source, changes, services.ledger)
    return len(written)


def _summary(snowflake: SnowflakeResource, table: Table) -> tuple[int, datetime | None]:
    with snowflake.get_connection() as connection:
        cursor: Any = connection.cursor()
        count, newest = cursor.execute(f"select count(*), max({table.changed}) from {table.name}").fetchone()  # noqa: S608
    return int(count), newest


def _rows(snowflake: SnowflakeResource, table: Table) -> list[Row]:
    key = key_expression(table.key_columns)
    query = (
        f"{select_rows(table.name, key, table.changed)} "
        f"where {key} is not null and {table.changed} is not null order by 1"
    )
    with snowflake.get_connection() as connection:
        cursor: Any = connection.cursor()
        return [Row(*columns) for columns in cursor.execute(query).fetchall()]
