"""``python -m consumers``: run every configured source until told to stop; ``reconcile``: one listing of each, now."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import signal
from collections.abc import Coroutine, Iterator
from typing import Any, assert_never

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
from rag.ingest.change_events import publish_changes
from rag.ingest.warehouse_rows import Table, object_change, record_hashes, write_rows
from rag.settings import Settings, SourceSettings, load, snowflake_parameters
from rag.sources import Source
from rag.telemetry import configure, flush, logger, span
from rag.wiring import Services, aws, services

_log = logger("consumers")
SLICE = 1000  # events published together


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
        for table in _tables(chosen)
    ]


Announced = dict[str, tuple[bool, str | None]]
"""uri → (is it a deletion, change token) as a listing last announced it."""


async def reconcile(
    source: Source, opened: Services, *, announced: Announced | None = None, confirmed: bool = False
) -> int:
    """Publish the changes that a listing finds and that ``announced`` does not have. Return their number.

    A mass deletion is logged and not published, unless ``confirmed``.
    """
    try:
        found = await differences(source, opened.spec.index_id, opened.objects, opened.ledger, confirmed=confirmed)
    except MassDeletion as refused:
        _log.error("reconcile.refused", source=source.name, why=str(refused))
        found = refused.changes
    announced = {} if announced is None else announced
    changes = [each for each in found if announced.get(each.uri) != (each.is_deletion, each.version)]
    for start in range(0, len(changes), SLICE):
        with span("source.handle", source=source.name):
            await publish_changes(changes[start : start + SLICE], source, opened.ids, opened.events)
    # Kept as long as it differs: a change that waits in the log is not announced again, an indexed object may change again.
    announced.clear()
    announced.update({each.uri: (each.is_deletion, each.version) for each in found})
    _log.info("reconcile.done", source=source.name, announced=len(changes))
    return len(changes)


async def reconcile_forever(source: Source, opened: Services, every: float) -> None:
    """Reconcile at the start and then every ``every`` seconds. Log any failure and try again."""
    announced: Announced = {}
    while True:
        try:
            await reconcile(source, opened, announced=announced)
        except Unavailable as error:
            _log.warning("reconcile.waits", source=source.name, why=str(error))
        except Exception as error:
            _log.error("reconcile.bug", source=source.name, error=type(error).__name__, exc_info=True)
        await asyncio.sleep(every)


async def main(settings: Settings) -> None:
    configure("consumers", otlp_endpoint=settings.otel_exporter_otlp_endpoint, level=settings.log_level)
    async with services(settings) as opened:
        loops: list[Coroutine[Any, Any, None]] = [_serve(settings.metrics_host, settings.metrics_port)]
        for chosen in settings.configured_sources:
            loops += [run(each, opened.ids, opened.events) for each in streams(chosen, opened)]
            if chosen.kind != "folder":  # which is listed all the time
                loops.append(reconcile_forever(chosen.source(), opened, settings.reconcile_seconds))
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
    async with services(settings) as opened:
        for chosen in settings.configured_sources:
            if chosen.kind == "snowflake":
                await _reconcile_rows(chosen, opened, confirmed=confirmed)
            await reconcile(chosen.source(), opened, confirmed=confirmed)


async def _reconcile_rows(chosen: SourceSettings, opened: Services, *, confirmed: bool) -> None:
    """Bring the row objects in line with the tables."""
    source, warehouse = chosen.source(), SnowflakeWarehouse(snowflake_parameters(opened.settings))
    for table in _tables(chosen):
        changes = await diff(table, source, warehouse, opened.ledger, confirmed=confirmed)
        written = await write_rows(source, changes, opened.objects)
        await publish_changes([object_change(source, change) for change in written], source, opened.ids, opened.events)
        await record_hashes(source, changes, opened.ledger)
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
