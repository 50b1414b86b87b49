"""A stack for one measurement: in a temporary folder, on free ports, gone afterwards whatever happens."""

from __future__ import annotations

import asyncio
import os
import shutil
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from evals.questions import ROOT
from rag.errors import Unavailable


@asynccontextmanager
async def temporary_stack(*, keep: bool = False) -> AsyncIterator[Path]:
    """The folder of a running stack without a rate limit, its settings in ``env``. ``keep`` leaves the folder, stopped."""
    folder = Path(tempfile.mkdtemp(prefix="tidemark-bench-"))
    # Should this process be killed, its finally is not reached: somebody else waits for its end.
    heir = await asyncio.create_subprocess_exec(
        *_command("clean", folder), "--after-pid", str(os.getpid()),
        cwd=ROOT, env=_environ(), start_new_session=True, stdout=asyncio.subprocess.DEVNULL,
    )  # fmt: skip
    try:
        await deploy("up", folder, "--free-ports")
        yield folder
    finally:
        heir.kill()
        await heir.wait()
        await deploy("down" if keep else "clean", folder)
        if not keep:
            shutil.rmtree(folder, ignore_errors=True)


async def deploy(verb: str, folder: Path, *arguments: str) -> None:
    """``python -m deploy.local VERB``. Raises Unavailable with what it printed."""
    process = await asyncio.create_subprocess_exec(
        *_command(verb, folder), *arguments, cwd=ROOT, env=_environ(),
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    printed, _ = await process.communicate()
    if process.returncode:
        raise Unavailable(f"the stack in {folder} does not go {verb}: {printed.decode(errors='replace')[-2000:]}")


def _command(verb: str, folder: Path) -> list[str]:
    return [sys.executable, "-m", "deploy.local", verb, "--dir", str(folder)]


def _environ() -> dict[str, str]:
    """A developer's own ports and folder stay out of it."""
    own = ("TIDEMARK_PORT_", "TIDEMARK_STACK", "TIDEMARK_DIR")
    return {key: value for key, value in os.environ.items() if not key.startswith(own)} | {"RATE_LIMIT": "0"}
