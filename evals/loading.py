"""Documents through a folder and a lane: the time until the last one is live, and the CPU of each process."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

from evals.process_cpu import Cpu, cpu, spent
from rag.errors import Unavailable
from rag.files import write_whole
from rag.models import DocumentStatus
from rag.wiring import Services

SOURCE = "folder"
STANDSTILL = 120.0  # seconds without progress until the run fails
LOOK = 0.1  # seconds between two looks at the number of live documents


@dataclass(frozen=True, slots=True)
class Loading:
    """Documents from the first file until the last one is live."""

    documents: int
    seconds: float
    cpu: Cpu


async def load(
    texts: Sequence[str], name: str, opened: Services, *, own: Mapping[str, psutil.Process] | None = None
) -> Loading:
    """Write the texts to a new folder ``name`` of the watched one, and wait until all are live. Raises Unavailable.

    ``own`` names processes whose CPU counts although the stack did not start them.
    """
    present = await live(opened)
    before, began = cpu(opened.settings, own), time.perf_counter()
    await asyncio.to_thread(write, texts, inbox(opened) / name)
    await until_live(present + len(texts), opened)
    seconds = time.perf_counter() - began
    return Loading(len(texts), seconds, spent(before, cpu(opened.settings, own)))


def inbox(opened: Services) -> Path:
    return Path(opened.settings.inbox_dir or "")


def write(texts: Sequence[str], folder: Path) -> None:
    folder.mkdir(parents=True)
    for number, text in enumerate(texts):
        write_whole(folder / f"{number}.md", text.encode(), durable=False)


async def live(opened: Services) -> int:
    return (await _counts(opened)).get(DocumentStatus.LIVE.value, 0)


async def until_live(number: int, opened: Services) -> None:
    """Wait for ``number`` live documents of the folder. Raises Unavailable at a standstill, and for a document that died."""
    found, progressed = -1, time.monotonic()
    while found < number:
        counts = await _counts(opened)
        if dead := counts.get(DocumentStatus.DEAD.value, 0):
            raise Unavailable(f"{dead} of the generated documents could not be indexed: read the lane's log")
        if (now := counts.get(DocumentStatus.LIVE.value, 0)) > found:
            found, progressed = now, time.monotonic()
        if time.monotonic() - progressed > STANDSTILL:
            raise Unavailable(f"{found} of {number} documents are live, and no other came for {STANDSTILL:.0f} s")
        await asyncio.sleep(LOOK)


async def _counts(opened: Services) -> Mapping[str, int]:
    source = opened.sources.named(SOURCE)
    return await opened.ledger.counts(opened.spec.index_id, source.tenant, source.name)
