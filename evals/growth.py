"""The group ``growth``: the cost of a document in a large index, compared with its cost in a small one.

The index grows by documents of many chunks, so that a hundred thousand chunks take minutes. The measured documents are the same small
ones in both: a fifth of a batch each, several times, of which the median counts.
"""

from __future__ import annotations

import asyncio
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import psutil

from evals.figures import Aim, Figure
from evals.generated_texts import BYTES, texts
from evals.lane_workers import STACK, lane_workers
from evals.loading import Loading, load
from evals.local_stack import temporary_stack
from evals.options import Options, Say
from evals.process_cpu import of_stack
from rag.settings import load as load_settings
from rag.wiring import Services, services

SMALL_CHUNKS = 1_000
PORTIONS = 5  # of the measured documents at each size
FILLER_BYTES = 100_000  # of a document that makes the index grow, about a hundred chunks
CHUNK_BYTES = 950  # of a generated text
AT_ONCE = 40  # documents of a portion
ENOUGH = 0.98
SETTLE_SECONDS = 5.0  # in which the vector index ends what the growth has left to it
ENVIRONMENT = {"EMBEDDER": "hash"}


@dataclass(frozen=True, slots=True)
class Cost:
    """Of one document, in an index of ``chunks``: seconds of CPU of all processes, and seconds of wall-clock time."""

    chunks: int
    cpu: float
    wall: float


async def growth(options: Options, say: Say) -> list[Figure]:
    """Measure the cost of a document at 1,000 chunks and at ``options.chunks``."""
    async with temporary_stack(keep=options.keep, only=STACK, settings=ENVIRONMENT) as folder:
        settings = load_settings(folder).model_copy(update={"embedder": "hash"})
        async with services(settings) as opened, lane_workers(1, folder, opened, ENVIRONMENT) as lanes:
            await load(texts(20, seed=1), "warm-up", opened)
            await _grow(SMALL_CHUNKS, 3, opened, say)
            small = await _cost(options.probe_documents, 100, opened, lanes)
            await _grow(options.chunks, 4, opened, say)
            large = await _cost(options.probe_documents, 200, opened, lanes)
    return figures(small, large, options.probe_documents)


def figures(small: Cost, large: Cost, documents: int) -> list[Figure]:
    """Return the ratios. The CPU is the cost that other work on the machine changes least, so the aim is for it."""
    sizes = f"{large.chunks:,} chunks / {small.chunks:,}"
    return [
        Figure(f"CPU of a document at {sizes}", large.cpu / small.cpu, "", Aim("<=", 1.1), documents,
               f"{1000 * large.cpu:.1f} / {1000 * small.cpu:.1f} ms of CPU of all processes"),
        Figure(f"time of a document at {sizes}", large.wall / small.wall, "", Aim("<=", 1.1), documents,
               f"{1000 * large.wall:.1f} / {1000 * small.wall:.1f} ms"),
    ]  # fmt: skip


async def _cost(documents: int, seed: int, opened: Services, lanes: Mapping[str, psutil.Process]) -> Cost:
    await asyncio.sleep(SETTLE_SECONDS)
    chunks = await opened.vectors.count(opened.spec.index_id)
    portions = [
        await load(texts(documents // PORTIONS, seed=seed + number), f"probe-{seed}-{number}", opened, own=lanes)
        for number in range(PORTIONS)
    ]
    return median_cost(chunks, portions)


def median_cost(chunks: int, portions: Sequence[Loading]) -> Cost:
    return Cost(
        chunks,
        statistics.median(of_stack(each.cpu) / each.documents for each in portions),
        statistics.median(each.seconds / each.documents for each in portions),
    )


async def _grow(chunks: int, seed: int, opened: Services, say: Say) -> None:
    """Add large documents, portion by portion, until the index has at least 98 of 100 ``chunks``."""
    portion, said = 0, 0
    while (present := await opened.vectors.count(opened.spec.index_id)) < ENOUGH * chunks:
        if present >= said:
            say(f"{present:,} of {chunks:,} chunks")
            said = present + chunks // 10
        number, size = filler(chunks - present)
        await load(texts(number, seed=10_000 * seed + portion, size=size), f"filler-{seed}-{portion}", opened)
        portion += 1


def filler(missing: int) -> tuple[int, int]:
    """Return the number of the next documents and their size in bytes, for ``missing`` chunks or fewer."""
    whole = missing * CHUNK_BYTES // FILLER_BYTES
    return (min(AT_ONCE, whole), FILLER_BYTES) if whole else (1, max(BYTES, missing * CHUNK_BYTES))
