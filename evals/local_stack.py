"""A stack for one measurement, in a temporary folder and on free ports. It is always removed afterwards."""

from __future__ import annotations

import asyncio
import os
import shutil
import sys
import tempfile
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

from evals.questions import ROOT
from rag.errors import Unavailable


@asynccontextmanager
async def temporary_stack(
    *, keep: bool = False, lane: str = "dagster", only: str = "", settings: Mapping[str, str] | None = None
) -> AsyncIterator[Path]:
    """Start a stack without a rate limit and yield its folder, which has the settings in ``env``. ``settings`` add to the environment.

    ``only`` names the processes to start, comma-separated, instead of all.

    On exit, stop the stack and delete the folder, unless ``keep`` is set.
    """
    folder = Path(tempfile.mkdtemp(prefix="tidemark-bench-"))
    # If this process is killed, its finally clause does not run: another process waits for its end and cleans up.
    cleaner = await asyncio.create_subprocess_exec(
        *_command("clean", folder), "--after-pid", str(os.getpid()),
        cwd=ROOT, env=_environ(), start_new_session=True, stdout=asyncio.subprocess.DEVNULL,
    )  # fmt: skip
    try:
        arguments = ("--only", only) if only else ()
        await deploy("up", folder, "--free-ports", "--lane", lane, *arguments, settings=settings)
        yield folder
    finally:
        cleaner.kill()
        await cleaner.wait()
        await deploy("down" if keep else "clean", folder)
        if not keep:
            shutil.rmtree(folder, ignore_errors=True)


async def deploy(verb: str, folder: Path, *arguments: str, settings: Mapping[str, str] | None = None) -> None:
    """Run ``python -m deploy.local VERB``. Raises Unavailable with the end of its output."""
    process = await asyncio.create_subprocess_exec(
        *_command(verb, folder), *arguments, cwd=ROOT, env=_environ() | dict(settings or {}),
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    output, _ = await process.communicate()
    if process.returncode:
        raise Unavailable(f"`{verb}` of the stack in {folder} failed: {output.decode(errors='replace')[-2000:]}")


def _command(verb: str, folder: Path) -> list[str]:
    return [sys.executable, "-m", "deploy.local", verb, "--dir", str(folder)]


def _environ() -> dict[str, str]:
    """Return the environment without the developer's own ports and folder, and without a rate limit."""
    excluded = ("TIDEMARK_PORT_", "TIDEMARK_STACK", "TIDEMARK_DIR")
    return {key: value for key, value in os.environ.items() if not key.startswith(excluded)} | {"RATE_LIMIT": "0"}
