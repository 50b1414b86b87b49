"""``python -m consumers``: run every configured source until told to stop; ``reconcile``: one listing of each, now."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import signal
from collections.abc import Coroutine
from typing import Any

import boto3
import uvicorn
from botocore.config import Config
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
from rag.announcements import publish
from rag.errors import Unavailable
from rag.rows import Table, notice, remember, write_rows
from rag.settings import Settings, SourceSettings, load, snowflake_parameters
from rag.sources import Source
from rag.telemetry import configure, flush, logger, span
from rag.wiring import Services, services

_log = logger("consumers")


def stream(chosen: SourceSettings, made: Services) -> Stream | None:
    """The stream of a configured source; uploads announce themselves."""
    settings, source = made.settings, chosen.source()
    if chosen.kind == "s3" and chosen.queue_url:
        return S3Stream(source, _sqs(settings), chosen.queue_url)
    if chosen.kind == "folder":
        return FolderStream(source, made.objects, made.ledger, made.spec.index_id, every=settings.poll_seconds)
    if chosen.kind == "snowflake":
        return SnowflakeStream(
            source,
            _tables(chosen),
            SnowflakeWarehouse(snowflake_parameters(settings)),
            made.objects,
            made.ledger,
            every=settings.poll_seconds,
            diff_every=settings.reconcile_seconds,
            overlap=settings.overlap_seconds,
        )
    return None


async def reconcile(source: Source, made: Services, *, confirmed: bool = False) -> int:
    """Announce what a listing finds changed; returns how many. A mass deletion is reported and not announced."""
    try:
        notices = await differences(source, made.spec.index_id, made.objects, made.ledger, confirmed=confirmed)
    except MassDeletion as refused:
        _log.error("reconcile.refused", source=source.name, why=str(refused))
        notices = refused.notices
    if notices:
        with span("source.handle", source=source.name, notices=len(notices)):
            await publish(notices, source, made.ids, made.events)
    _log.info("reconcile.done", source=source.name, announced=len(notices))
    return len(notices)


async def reconcile_for_ever(source: Source, made: Services, every: float) -> None:
    """At the start, then by the clock."""
    while True:
        try:
            await reconcile(source, made)
        except Unavailable as error:
            _log.warning("reconcile.waits", source=source.name, why=str(error))
        await asyncio.sleep(every)


async def main(settings: Settings) -> None:
    configure("consumers", otlp_endpoint=settings.otel_exporter_otlp_endpoint, level=settings.log_level)
    async with services(settings) as made:
        loops: list[Coroutine[Any, Any, None]] = [_serve(settings.metrics_port)]
        for chosen in settings.configured_sources:
            found = stream(chosen, made)
            if found:
                loops.append(run(found, made.ids, made.events))
            if chosen.kind != "folder":  # which is listed all the time
                loops.append(reconcile_for_ever(chosen.source(), made, settings.reconcile_seconds))
        _log.info("consumers.started", sources=[chosen.name for chosen in settings.configured_sources])
        with contextlib.suppress(asyncio.CancelledError):
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(loop) for loop in loops]
                for number in (signal.SIGTERM, signal.SIGINT):
                    asyncio.get_running_loop().add_signal_handler(number, lambda: [task.cancel() for task in tasks])
    flush()


async def _serve(port: int) -> None:
    """/healthz and /metrics on the loopback or pod interface."""
    app = Starlette(
        routes=[Route("/healthz", lambda _: JSONResponse({"status": "ok"})), Mount("/metrics", make_asgi_app())]
    )
    server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=port, log_config=None, access_log=False))
    server.install_signal_handlers = lambda: None  # type: ignore[attr-defined]
    await server.serve()


def _sqs(settings: Settings) -> Any:
    def plain(secret: Any) -> str | None:
        return secret.get_secret_value() if secret else None

    return boto3.client(
        "sqs",
        endpoint_url=settings.s3_endpoint_url,
        region_name=settings.aws_region,
        aws_access_key_id=plain(settings.aws_access_key_id),
        aws_secret_access_key=plain(settings.aws_secret_access_key),
        config=Config(read_timeout=WAIT_SECONDS + 10, connect_timeout=5, retries={"max_attempts": 1}),
    )


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
        await write_rows(source, changes, made.objects)
        await publish([notice(source, change) for change in changes], source, made.ids, made.events)
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
