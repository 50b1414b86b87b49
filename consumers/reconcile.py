"""Reconcile each source with the ledger by a full listing, which finds the changes that notifications missed."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace

from consumers.announcements import SLICE, Announcements
from consumers.health import Loop
from consumers.listing import differences
from consumers.preview import read_only_parts
from consumers.retired import withdraw_retired
from consumers.snowflake import diff, tables
from governance.admission import admitted_rows, announceable
from governance.audit import OPERATOR, event
from rag.adapters.snowflake import SnowflakeWarehouse
from rag.errors import Unavailable
from rag.ingest.change_events import publish_changes
from rag.ingest.deletions import REMEDY
from rag.ingest.warehouse_rows import object_change, record_hashes, write_rows
from rag.settings import Settings, SourceSettings, snowflake_parameters
from rag.sources import Source
from rag.telemetry import HELD_DELETIONS, SOURCE_ERRORS, configure, logger, span
from rag.wiring import Services, services
from schemas.topics import CHANGED

_log = logger("consumers")
RETRY_SECONDS = 30.0  # after a failed listing: a recovered source is seen as healthy again soon


async def reconcile(
    source: Source, opened: Services, *, announcements: Announcements | None = None, confirmed: bool = False
) -> int:
    """Publish the differences between the source and the ledger that are not announced already. Return their number.

    Deletions of most of the source are logged and not published, unless ``confirmed``.
    """
    index_id = opened.spec.index_id
    announcements = announcements or Announcements(0)
    started = announcements.clock()
    # Before the ledger is compared: an event before a position shows in the ledger then.
    log = await opened.events.describe(CHANGED)
    positions = await opened.ledger.positions(index_id, CHANGED, log.epoch)
    found = await differences(source, index_id, opened.objects, opened.ledger, confirmed=confirmed)
    signatures = {each.uri: (each.is_deletion, each.version) for each in found.changes}
    due = announcements.due(signatures, log, positions, started)
    changes = [each for each in found.changes if each.uri in due]
    changes = await announceable(changes, source, opened.ids, opened.ledger)
    for start in range(0, len(changes), SLICE):
        with span("source.handle", source=source.name):
            await publish_changes(changes[start : start + SLICE], source, opened.ids, opened.events)
    if changes:
        log = await opened.events.describe(CHANGED)
        announcements.note_differences({uri: signatures[uri] for uri in due}, log)
    if found.held:
        _log.error("reconcile.held", source=source.name, deletions=found.held, remedy=REMEDY)
    HELD_DELETIONS.labels(source.name).set(found.held)
    _log.info("reconcile.done", source=source.name, announced=len(changes), differences=len(found.changes))
    return len(changes)


async def reconcile_forever(
    source: Source, opened: Services, every: float, loop: Loop, announcements: Announcements, *, delay: float = 0.0
) -> None:
    """Reconcile the source after ``delay`` seconds, and then again and again."""

    async def turn() -> float:
        await reconcile(source, opened, announcements=announcements)
        return every

    if delay:
        await asyncio.sleep(delay)
    await _forever(turn, source.name, every, loop)


async def withdraw_forever(opened: Services, every: float, loop: Loop, announcements: Announcements) -> None:
    """Withdraw retired documents again and again, and soon again while some wait for their new source."""

    async def turn() -> float:
        moving = await withdraw_retired(opened, announcements=announcements)
        return min(every, RETRY_SECONDS) if moving else every

    await _forever(turn, "retired", every, loop)


async def _forever(turn: Callable[[], Awaitable[float]], name: str, every: float, loop: Loop) -> None:
    """Take turns, each of which returns the seconds to wait, and record them in ``loop``. Log a failure and try again soon."""
    while True:
        wait = min(every, RETRY_SECONDS)
        try:
            wait = await turn()
            loop.succeed()
        except Unavailable as error:
            loop.fail(str(error))
            _log.warning("reconcile.waits", source=name, why=str(error))
        except Exception as error:
            loop.fail(f"bug: {type(error).__name__}, see reconcile.bug in the log")
            SOURCE_ERRORS.labels(name, "bug").inc()
            _log.error("reconcile.bug", source=name, error=type(error).__name__, exc_info=True)
        await asyncio.sleep(wait)


async def reconcile_all(settings: Settings, *, confirmed: bool = False, is_dry: bool = False) -> None:
    """Reconcile every configured source once. ``confirmed`` accepts mass deletions. A dry run prints the events and changes nothing."""
    configure("consumers", level=settings.log_level)
    async with services(settings) as opened:
        if is_dry:
            opened = replace(opened, **read_only_parts(opened, print))
        elif confirmed:
            await record_confirmation(opened)
        for chosen in settings.configured_sources:
            if chosen.kind == "snowflake":
                await _reconcile_rows(chosen, opened, confirmed=confirmed)
            await reconcile(chosen.source(), opened, confirmed=confirmed)
        await withdraw_retired(opened, confirmed=confirmed)


async def record_confirmation(opened: Services) -> None:
    """Record in the audit log that a person confirms the deletions of every source. Raises Unavailable before any of them happens."""
    sources = sorted((each.tenant, each.name) for each in opened.settings.configured_sources)
    await opened.ledger.append_audit(
        [
            event("deletions.confirm", tenant=tenant, actor=OPERATOR, ids=opened.ids, objects=[f"source:{name}"], outcome="started")
            for tenant, name in sources
        ]
    )  # fmt: skip


async def _reconcile_rows(chosen: SourceSettings, opened: Services, *, confirmed: bool) -> None:
    """Bring the row objects in line with the tables."""
    source, warehouse = chosen.source(), SnowflakeWarehouse(snowflake_parameters(opened.settings))
    for table in tables(chosen):
        changes = await diff(table, source, warehouse, opened.objects, opened.ledger, confirmed=confirmed)
        admitted = await admitted_rows(changes, source, opened.ids, opened.ledger)
        written = await write_rows(source, admitted, opened.objects)
        await publish_changes([object_change(source, change) for change in written], source, opened.ids, opened.events)
        await record_hashes(source, changes, opened.ledger)
        _log.info("reconcile.rows", source=source.name, table=table.name, announced=len(changes))
