"""Reconcile each source with the ledger by a full listing, which finds the changes that notifications missed."""

from __future__ import annotations

import asyncio

from consumers.health import Loop
from consumers.listing import MassDeletion, differences
from consumers.snowflake import diff
from consumers.sources import tables
from rag.adapters.snowflake import SnowflakeWarehouse
from rag.errors import Unavailable
from rag.ingest.change_events import publish_changes
from rag.ingest.warehouse_rows import object_change, record_hashes, write_rows
from rag.settings import Settings, SourceSettings, snowflake_parameters
from rag.sources import Source
from rag.telemetry import SOURCE_ERRORS, configure, logger, span
from rag.wiring import Services, services

_log = logger("consumers")
SLICE = 1000  # events published together
RETRY_SECONDS = 30.0  # after a failed listing: a recovered source is seen as healthy again soon

Announced = dict[str, tuple[bool, str | None]]
"""uri → (is it a deletion, change token) as a listing last announced it."""


async def reconcile(
    source: Source, opened: Services, *, announced: Announced | None = None, confirmed: bool = False
) -> int:
    """Publish the changes that a listing finds and that ``announced`` does not have. Return their number.

    A mass deletion is logged and not published, unless ``confirmed``.
    """
    try:
        listed = await differences(source, opened.spec.index_id, opened.objects, opened.ledger, confirmed=confirmed)
    except MassDeletion as refused:
        _log.error("reconcile.refused", source=source.name, why=str(refused))
        listed = refused.changes
    announced = {} if announced is None else announced
    changes = [each for each in listed if announced.get(each.uri) != (each.is_deletion, each.version)]
    for start in range(0, len(changes), SLICE):
        with span("source.handle", source=source.name):
            await publish_changes(changes[start : start + SLICE], source, opened.ids, opened.events)
    # A difference stays here for as long as a listing finds it, so a change that waits in the log is not announced again. The
    # entry of an indexed object goes, because the object may change again.
    announced.clear()
    announced.update({each.uri: (each.is_deletion, each.version) for each in listed})
    _log.info("reconcile.done", source=source.name, announced=len(changes))
    return len(changes)


async def reconcile_forever(source: Source, opened: Services, every: float, loop: Loop) -> None:
    """Reconcile at the start and then every ``every`` seconds, and record each turn in ``loop``. Log a failure and try again soon."""
    announced: Announced = {}
    while True:
        try:
            await reconcile(source, opened, announced=announced)
            loop.succeed()
        except Unavailable as error:
            loop.fail(str(error))
            _log.warning("reconcile.waits", source=source.name, why=str(error))
        except Exception as error:
            loop.fail(f"bug: {type(error).__name__}, see reconcile.bug in the log")
            SOURCE_ERRORS.labels(source.name, "bug").inc()
            _log.error("reconcile.bug", source=source.name, error=type(error).__name__, exc_info=True)
        await asyncio.sleep(every if loop.state == "working" else min(every, RETRY_SECONDS))


async def reconcile_all(settings: Settings, *, confirmed: bool) -> None:
    """Reconcile every configured source once. ``confirmed`` accepts mass deletions."""
    configure("consumers", level=settings.log_level)
    async with services(settings) as opened:
        for chosen in settings.configured_sources:
            if chosen.kind == "snowflake":
                await _reconcile_rows(chosen, opened, confirmed=confirmed)
            await reconcile(chosen.source(), opened, confirmed=confirmed)


async def _reconcile_rows(chosen: SourceSettings, opened: Services, *, confirmed: bool) -> None:
    """Bring the row objects in line with the tables."""
    source, warehouse = chosen.source(), SnowflakeWarehouse(snowflake_parameters(opened.settings))
    for table in tables(chosen):
        changes = await diff(table, source, warehouse, opened.objects, opened.ledger, confirmed=confirmed)
        written = await write_rows(source, changes, opened.objects)
        await publish_changes([object_change(source, change) for change in written], source, opened.ids, opened.events)
        await record_hashes(source, changes, opened.ledger)
        _log.info("reconcile.rows", source=source.name, table=table.name, announced=len(changes))
