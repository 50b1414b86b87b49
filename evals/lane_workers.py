"""Stream lanes that a bench starts itself, so that it decides how many work and when."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path

import psutil

from evals.own_process import free_port, own_process
from rag.errors import Unavailable
from rag.ingest.positions import consumer_group
from rag.wiring import Services

# Without Dagster's daemon, which would take over while no lane works. Its webserver takes the reports of the lane, as always.
STACK = "gateway,consumers,dagster"
JOIN_SECONDS = 60.0


@asynccontextmanager
async def lane_workers(
    number: int, stack: Path, opened: Services, settings: Mapping[str, str]
) -> AsyncIterator[dict[str, psutil.Process]]:
    """Run ``number`` stream lanes for the time of the block. Yield their processes by name when all are members of the group."""
    async with AsyncExitStack() as running:
        lanes = {}
        for each in range(1, number + 1):
            port = free_port()
            lanes[f"stream lane {each}"] = await running.enter_async_context(
                own_process(
                    stack, "consumers", "documents", ready=f"http://127.0.0.1:{port}/healthz",
                    settings={**settings, "STREAM_METRICS_PORT": str(port)},
                )
            )  # fmt: skip
        await _wait_for_members(number, opened)
        yield lanes


async def _wait_for_members(number: int, opened: Services) -> None:
    group = consumer_group(opened.spec.index_id)
    for _ in range(int(JOIN_SECONDS)):
        with suppress(Unavailable):  # Kafka is still choosing the coordinator of a new group
            if await opened.events.members(group) >= number:
                return
        await asyncio.sleep(1)
    raise Unavailable(f"{number} stream lanes are not members of {group} after {JOIN_SECONDS:.0f} s: read their logs")
