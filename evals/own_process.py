"""A process of the platform that a bench starts itself, with settings that differ from those of its stack."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import httpx
import psutil

from evals.questions import ROOT
from rag.errors import Unavailable

STACK_PROCESS = "TIDEMARK_STACK_PROCESS"  # marks the processes that end with the stack of a folder
READY_SECONDS = 90.0
END_SECONDS = 20.0


@asynccontextmanager
async def own_process(
    stack: Path, module: str, *arguments: str, ready: str, settings: Mapping[str, str] | None = None
) -> AsyncIterator[psutil.Process]:
    """Run ``python -m MODULE`` for the time of the block, ready when the url ``ready`` answers 200. Raises Unavailable.

    ``settings`` come before those of the stack's env file.
    """
    log = stack / "logs" / f"bench-{module}-{time.time_ns()}.log"
    marks = {"TIDEMARK_STACK": str(stack), STACK_PROCESS: str(stack)}
    with log.open("wb") as output:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", module, *arguments, cwd=ROOT, stdout=output, stderr=output,
            env={**os.environ, "RATE_LIMIT": "0", **marks, **(settings or {})},
        )  # fmt: skip
    try:
        await _wait_until_ready(process, ready, log)
        yield psutil.Process(process.pid)
    finally:
        await _end(process)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


async def _wait_until_ready(process: asyncio.subprocess.Process, url: str, log: Path) -> None:
    deadline = time.monotonic() + READY_SECONDS
    async with httpx.AsyncClient(timeout=2) as client:
        while time.monotonic() < deadline and process.returncode is None:
            with suppress(httpx.HTTPError):
                if (await client.get(url)).is_success:
                    return
            await asyncio.sleep(0.2)
    end = await asyncio.to_thread(log.read_text, errors="replace")
    raise Unavailable(f"a process does not answer on {url}; the end of its log: {end[-1500:]}")


async def _end(process: asyncio.subprocess.Process) -> None:
    if process.returncode is None:
        process.send_signal(signal.SIGTERM)
        try:
            await asyncio.wait_for(process.wait(), END_SECONDS)
        except TimeoutError:
            process.kill()
            await process.wait()
