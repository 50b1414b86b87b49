"""The streams of the configured sources."""

from __future__ import annotations

from typing import assert_never

from consumers.folder import FolderStream
from consumers.runner import Stream
from consumers.s3 import WAIT_SECONDS, S3Stream
from consumers.snowflake import SnowflakeStream
from rag.adapters.snowflake import SnowflakeWarehouse
from rag.ingest.warehouse_rows import Table
from rag.settings import SourceSettings, snowflake_parameters
from rag.wiring import Services, aws


def streams(chosen: SourceSettings, opened: Services) -> list[Stream]:
    """Make the streams of a configured source: one for each table of a warehouse, none for uploads, which the gateway announces."""
    settings, source = opened.settings, chosen.source()
    match chosen.kind:
        case "s3":
            if not chosen.queue_url:  # the reconciling listing still finds its changes
                return []
            return [S3Stream(source, aws(settings, "sqs", read_timeout=WAIT_SECONDS + 10), chosen.queue_url)]
        case "folder":
            return [
                FolderStream(source, opened.objects, opened.ledger, opened.spec.index_id, every=settings.poll_seconds)
            ]
        case "snowflake":
            return _table_streams(chosen, opened)
        case "uploads":
            return []
        case _ as unknown:
            assert_never(unknown)


def _table_streams(chosen: SourceSettings, opened: Services) -> list[Stream]:
    settings = opened.settings
    warehouse = SnowflakeWarehouse(snowflake_parameters(settings))
    return [
        SnowflakeStream(
            chosen.source(),
            table,
            warehouse,
            opened.objects,
            opened.ledger,
            every=settings.poll_seconds,
            diff_every=settings.reconcile_seconds,
            overlap=settings.overlap_seconds,
        )
        for table in tables(chosen)
    ]


def tables(chosen: SourceSettings) -> list[Table]:
    return [Table(each.table, each.key, each.changed, each.title, each.subjects) for each in chosen.tables]
