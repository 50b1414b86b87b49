"""``python -m consumers``: run every configured source until told to stop; ``reconcile``: one listing of each, now."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import signal
from collections.abc import Coroutine, Iterator
from typing import Any

import uvicorn
from prometheus_client import make_asgi_app
from starlette.applications import Starlette
from starlette.responses import JSONResponse
from starlette.routing import Mount, Route

from consumers.folder import FolderStream
from consumers.listing import MassDeletion, differences
from consumers.runner import Stream, run
from consumers.s3 import WAIT_SECONDS, S3Stream
from consumers.snowflake import SnowflakeStream, diff
from rag.adapters.snowflake import SnowflakeWarehouse
from rag.errors import Unavailable
from rag.ingest.announcements import publish
from rag.ingest.warehouse_rows import Table, notice, remember, write_rows
from rag.settings import Settings, SourceSettings, load, snowflake_parameters
from rag.sources import Source
from rag.telemetry import configure, flush, logger, span
from rag.wiring import Services, aws, services

_log = logger("consumers")
SLICE = 1000  # events published together


def streams(chosen: SourceSettings, made: Services) -> list[Stream]:
    """The streams of a configured source, one for each table of a warehouse; uploads announce themselves."""
    settings, source = made.settings, chosen.source()
    if chosen.kind == "s3" and chosen.queue_url:
        return [S3Stream(source, aws(settings, "sqs", read_timeout=WAIT_SECONDS + 10), chosen.queue_url)]
    if chosen.kind == "folder":
        return [FolderStream(source, made.objects, made.ledger, made.spec.index_id, every=settings.poll_seconds)]
    warehouse = SnowflakeWarehouse(snowflake_parameters(settings))
    return [
        SnowflakeStream(
            source,
            table,
            warehouse,
            made.objects,
            made.ledger,
            every=settings.poll_seconds,
            diff_every=settings.reconcile_seconds,
            overlap=settings.overlap_seconds,
        )
        for table in _tables(chosen)
    ]


Told = dict[str, tuple[bool, str | None]]
"""uri → what a listing last said of it: (is it a deletion, stamp)."""


async def reconcile(source: Source, made: Services, *, told: Told | None = None, confirmed: bool = False) -> int:
    """Announce what a listing finds changed, but for what ``told`` has; returns how many. A mass deletion is reported instead."""
    try:
        found = await differences(source, made.spec.index_id, made.objects, made.ledger, confirmed=confirmed)
    except MassDeletion as refused:
        _log.error("reconcile.refused", source=source.name, why=str(refused))
        found = refused.notices
    said = {} if told is None else told
    notices = [each for each in found if said.get(each.uri) != (each.is_deletion, each.version)]
    for start in range(0, len(notices), SLICE):
        with span("source.handle", source=source.name):
            await publish(notices[start : start + SLICE], source, made.ids, made.events)
    # Kept as long as it differs: what waits in the log need not be announced again, what was indexed may change again.
    said.clear()
    said.update({each.uri: (each.is_deletion, each.version) for each in found})
    _log.info("reconcile.done", source=source.name, announced=len(notices))
    return len(notices)


async def reconcile_for_ever(source: Source, made: Services, every: float) -> None:
    """At the start, then by the clock. Whatever goes wrong is said and tried again."""
    told: Told = {}
    while True:
        try:
            await reconcile(source, made, told=told)
        except Unavailable as error:
            _log.warning("reconcile.waits", source=source.name, why=str(error))
        except Exception as error:
            _log.error("reconcile.bug", source=source.name, error=type(error).__name__, exc_info=True)
        await asyncio.sleep(every)


async def main(settings: Settings) -> None:
    configure("consumers", otlp_endpoint=settings.otel_exporter_otlp_endpoint, level=settings.log_level)
    async with services(settings) as made:
        loops: list[Coroutine[Any, Any, None]] = [_serve(settings.metrics_host, settings.metrics_port)]
        for chosen in settings.configured_sources:
            loops += [run(each, made.ids, made.events) for each in streams(chosen, made)]
            if chosen.kind != "folder":  # which is listed all the time
                loops.append(reconcile_for_ever(chosen.source(), made, settings.reconcile_seconds))
        _log.info("consumers.started", sources=[chosen.name for chosen in settings.configured_sources])
        with contextlib.suppress(asyncio.CancelledError):
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(loop) for loop in loops]
                for number in (signal.SIGTERM, signal.SIGINT):
                    asyncio.get_running_loop().add_signal_handler(number, lambda: [task.cancel() for task in tasks])
    flush()


class _Server(uvicorn.Server):
    """Leaves signals to ``main``, which ends all loops at once."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


async def _serve(host: str, port: int) -> None:
    """/healthz and /metrics."""
    app = Starlette(
        routes=[Route("/healthz", lambda _: JSONResponse({"status": "ok"})), Mount("/metrics", make_asgi_app())]
    )
    await _Server(uvicorn.Config(app, host=host, port=port, log_config=None, access_log=False)).serve()


async def reconcile_all(settings: Settings, *, confirmed: bool) -> None:
    configure("consumers", level=settings.log_level)
    async with services(settings) as made:
        for chosen in settings.configured_sources:
            if chosen.kind == "snowflake":
                await _reconcile_rows(chosen, made, confirmed=confirmed)
            await reconcile(chosen.source(), made, confirmed=confirmed)


async def _reconcile_rows(chosen: SourceSettings, made: Services, *, confirmed: bool) -> None:
    """Bring the row objects in line with the tables."""
    source, warehouse = chosen.source(), SnowflakeWarehouse(snowflake_parameters(made.settings))
    for table in _tables(chosen):
        changes = await diff(table, source, warehouse, made.ledger, confirmed=confirmed)
        written = await write_rows(source, changes, made.objects)
        await publish([notice(source, change) for change in written], source, made.ids, made.events)
        await remember(source, changes, made.ledger)
        _log.info("reconcile.rows", source=source.name, table=table.name, announced=len(changes))


def _tables(chosen: SourceSettings) -> list[Table]:
    return [Table(each.table, each.key, each.changed, each.title, each.subjects) for each in chosen.tables]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m consumers", description=__doc__)
    parser.add_argument("verb", nargs="?", default="run", choices=["run", "reconcile"])
    parser.add_argument("--confirm", action="store_true", help="reconcile: believe a mass deletion")
    arguments = parser.parse_args()
    if arguments.verb == "run":
        asyncio.run(main(load()))
    else:
        asyncio.run(reconcile_all(load(), confirmed=arguments.confirm))
