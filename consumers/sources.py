"""The streams of the configured sources."""

from __future__ import annotations

import asyncio
from typing import assert_never

from consumers.folder import FolderStream
from consumers.runner import Stream
from consumers.s3 import WAIT_SECONDS, S3Stream
from consumers.snowflake import SnowflakeStream
from rag.adapters.objects.watching import FolderWatcher
from rag.adapters.snowflake import SnowflakeWarehouse
from rag.ingest.warehouse_rows import Table
from rag.settings import SourceSettings, snowflake_parameters
from rag.sources import Source
from rag.wiring import Services, aws


def streams(chosen: SourceSettings, opened: Services) -> dict[str, Stream]:
    """Make the streams of a configured source by the names of their loops.

    A warehouse has one for each table. Uploads have none, because the gateway announces them.
    """
    settings, source = opened.settings, chosen.source()
    match chosen.kind:
        case "s3":
            if not chosen.queue_url:  # the reconciling listing still finds its changes
                return {}
            sqs = aws(settings, "sqs", read_timeout=WAIT_SECONDS + 10)
            return {chosen.name: S3Stream(source, sqs, chosen.queue_url)}
        case "folder":
            stream = FolderStream(
                source,
                opened.objects,
                opened.ledger,
                opened.spec.index_id,
                every=settings.poll_seconds,
                wait=FolderWatcher(settings.inbox_dir).wait if settings.inbox_dir else asyncio.sleep,
            )
            return {chosen.name: stream}
        case "snowflake":
            warehouse = SnowflakeWarehouse(snowflake_parameters(settings))
            return {
                f"{chosen.name}/{each.name}": _table_stream(source, each, warehouse, opened) for each in tables(chosen)
            }
        case "uploads":
            return {}
        case _ as unknown:
            assert_never(unknown)


def _table_stream(source: Source, table: Table, warehouse: SnowflakeWarehouse, opened: Services) -> SnowflakeStream:
    settings = opened.settings
    return SnowflakeStream(
        source,
        table,
        warehouse,
        opened.objects,
        opened.ledger,
        every=settings.poll_seconds,
        diff_every=settings.reconcile_seconds,
        overlap=settings.overlap_seconds,
    )


def tables(chosen: SourceSettings) -> list[Table]:
    return [Table(each.table, each.key, each.changed, each.title, each.subjects) for each in chosen.tables]
