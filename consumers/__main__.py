"""``python -m consumers``: run every configured source until told to stop; ``reconcile``: one listing of each, now."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import signal
from collections.abc import Coroutine
from typing import Any

from consumers.health import serve
from consumers.reconcile import reconcile_all, reconcile_forever
from consumers.runner import run
from consumers.sources import streams
from rag.settings import Settings, load
from rag.telemetry import configure, flush, logger
from rag.wiring import services

_log = logger("consumers")


async def main(settings: Settings) -> None:
    configure("consumers", otlp_endpoint=settings.otel_exporter_otlp_endpoint, level=settings.log_level)
    async with services(settings) as opened:
        loops: list[Coroutine[Any, Any, None]] = [serve(settings.metrics_host, settings.metrics_port)]
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


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m consumers", description=__doc__)
    parser.add_argument("verb", nargs="?", default="run", choices=["run", "reconcile"])
    parser.add_argument("--confirm", action="store_true", help="reconcile: believe a mass deletion")
    arguments = parser.parse_args()
    if arguments.verb == "run":
        asyncio.run(main(load()))
    else:
        asyncio.run(reconcile_all(load(), confirmed=arguments.confirm))
