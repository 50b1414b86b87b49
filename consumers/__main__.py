"""``python -m consumers``: run every configured source until a signal; ``documents``: run the stream lane; ``reconcile``: list each
source once, now."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import signal
from collections.abc import Coroutine
from contextlib import AsyncExitStack
from typing import Any

from tenacity import AsyncRetrying, retry_if_exception_type, wait_random_exponential

from consumers import erasures
from consumers.announcements import Announcements
from consumers.documents import Reports, StreamLane
from consumers.health import Loop, health_app, serve
from consumers.reconcile import RETRY_SECONDS, reconcile_all, reconcile_forever, withdraw_forever
from consumers.reports import LaneReports, NoReports
from consumers.runner import run
from consumers.sources import streams
from governance.admission import find_suppressed
from rag.adapters.dagster import DagsterReports
from rag.errors import Unavailable
from rag.ingest.lane import Lane
from rag.settings import Settings, load
from rag.telemetry import configure, flush, logger
from rag.wiring import Services, services

_log = logger("consumers")
Work = Coroutine[Any, Any, None]
FIRST_WAIT = 0.5  # seconds


async def main(settings: Settings) -> None:
    """Run the loops of all sources, and the health server, until SIGTERM or SIGINT."""
    configure("consumers", otlp_endpoint=settings.otel_exporter_otlp_endpoint, level=settings.log_level)
    async with services(settings) as opened:
        loops = source_loops(opened)
        app = health_app([loop for loop, _ in loops], settings.source_unhealthy_seconds)
        await declare_settings(opened)
        _log.info("consumers.started", loops=[loop.name for loop, _ in loops])
        await _run_until_signal(
            [serve(app, settings.metrics_host, settings.metrics_port), *(work for _, work in loops)]
        )
    flush()


async def stream(settings: Settings) -> None:
    """Run the stream lane, and its health server, until SIGTERM or SIGINT."""
    configure("stream", otlp_endpoint=settings.otel_exporter_otlp_endpoint, level=settings.log_level)
    loop = Loop("stream")
    async with services(settings) as opened, AsyncExitStack() as stack:
        lane = Lane(opened.pipeline, opened.events, opened.ledger, find_suppressed(opened.ledger))
        work: list[Work] = [
            serve(
                health_app([loop], settings.source_unhealthy_seconds),
                settings.metrics_host,
                settings.stream_metrics_port,
            )
        ]
        reports: Reports = NoReports()
        if settings.dagster_url:
            dagster = await stack.enter_async_context(DagsterReports.open(settings.dagster_url))
            reports = queued = LaneReports(dagster, opened.spec, opened.ledger, opened.vectors)
            work.append(queued.run())
        work.append(StreamLane(lane, opened.events, opened.ledger, reports).run(loop))
        await _run_until_signal(work)
    flush()


async def declare_settings(opened: Services) -> None:
    """Declare the settings of every source, so that a worker that was started with other ones changes no document any more.

    Listings begin after that: they find the documents that such a worker left.
    """
    digests = opened.sources.digests(opened.sources.by_name)
    async for attempt in AsyncRetrying(
        retry=retry_if_exception_type(Unavailable), wait=wait_random_exponential(multiplier=FIRST_WAIT, max=30)
    ):
        with attempt:
            await opened.ledger.declare_settings(digests)


def source_loops(opened: Services) -> list[tuple[Loop, Work]]:
    """Make the loops of every source: its streams, and its listing, which finds the changes that a stream or the lane missed."""
    settings = opened.settings
    every, again_after = settings.reconcile_seconds, settings.announce_again_seconds
    loops: list[tuple[Loop, Work]] = []
    for chosen in settings.configured_sources:
        announcements = Announcements(again_after)
        for name, stream in streams(chosen, opened).items():
            loop = Loop(name)
            loops.append((loop, run(stream, opened.ids, opened.events, loop, announcements, opened.ledger)))
        loop = Loop(f"{chosen.name}/listing", interval=2 * every + 60)
        # A folder's stream compares with the ledger when it starts; two comparisons at once would announce everything twice.
        delay = min(every, RETRY_SECONDS) if chosen.kind == "folder" else 0.0
        loops.append((loop, reconcile_forever(chosen.source(), opened, every, loop, announcements, delay=delay)))
    loop = Loop("erasures")
    loops.append((loop, erasures.run(opened, loop)))
    loop = Loop("retired", interval=2 * every + 60)
    loops.append((loop, withdraw_forever(opened, every, loop, Announcements(again_after))))
    return loops


async def _run_until_signal(work: list[Work]) -> None:
    with contextlib.suppress(asyncio.CancelledError):
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(each) for each in work]
            for number in (signal.SIGTERM, signal.SIGINT):
                asyncio.get_running_loop().add_signal_handler(number, lambda: [task.cancel() for task in tasks])


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m consumers", description=__doc__)
    parser.add_argument("verb", nargs="?", default="run", choices=["run", "documents", "reconcile"])
    parser.add_argument("--confirm", action="store_true", help="reconcile: believe a mass deletion")
    parser.add_argument("--dry-run", action="store_true", help="reconcile: print the events, and change nothing")
    arguments = parser.parse_args()
    if arguments.confirm and arguments.dry_run:
        parser.error("choose one of --confirm and --dry-run: a dry run logs the deletions that wait for a confirmation")
    if arguments.verb == "run":
        asyncio.run(main(load()))
    elif arguments.verb == "documents":
        asyncio.run(stream(load()))
    else:
        asyncio.run(reconcile_all(load(), confirmed=arguments.confirm, is_dry=arguments.dry_run))
