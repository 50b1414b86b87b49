"""The group ``freshness``: the time from a change at the source until a search with a token shows it, or no longer shows it.

A change is due every half second, whether or not the one before was found. Each change is searched for until its effect is seen, so a
change that is never found is counted and not left out.
"""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from evals.figures import Aim, Figure
from evals.generated_texts import questions
from evals.local_stack import temporary_stack
from evals.metrics import percentile
from evals.options import Options, Say
from evals.own_process import free_port
from evals.postgres_rows import rows, sources
from evals.probe import Probe, key
from evals.searching import caller
from rag.errors import Unavailable
from rag.settings import load
from rag.wiring import aws

EVERY = 0.5  # seconds between two changes
DOCUMENTS = 20  # of each source that are changed in turn, so that each has settled before its next change
LOOK = 0.005  # seconds between two searches for one change
LONGEST = 60.0  # seconds after which a change counts as missed; it counts as so late in the percentiles
WARM_UP = 5  # changes that are not measured: pools and processes are cold
FIRST = 120.0  # seconds in which a source must have shown its first document

Change = Callable[[int], Coroutine[None, None, str]]
Condition = Callable[[str], Awaitable[bool]]


@dataclass(frozen=True, slots=True)
class Series:
    """One kind of change, ``count`` times from document ``start`` on. ``p50`` and ``p95`` are the aims in seconds."""

    name: str
    change: Change
    seen: Condition
    count: int
    start: int = 0
    p50: float | None = None
    p95: float | None = None


async def free_embedder(options: Options, say: Say) -> list[Figure]:
    """Measure every source with the hash embedder, which costs nothing."""
    port = free_port()
    with tempfile.TemporaryDirectory(prefix="tidemark-bench-") as name:
        dsn_file = Path(name) / "dsn"
        environment = {"EMBEDDER": "hash", "TIDEMARK_PORT_S3": str(port), "SOURCES": sources(dsn_file, port)}
        async with temporary_stack(keep=options.keep, lane="stream", settings=environment) as folder:
            settings = load(folder).model_copy(update={"embedder": "hash"})
            async with rows(settings, dsn_file) as table, caller(settings) as client:
                probe = Probe(settings, client, aws(settings, "s3"), table)
                await _warm_up(probe, (probe.put, probe.write, probe.upsert))
                one = await _search_seconds(probe)
                return [each for series in _series_of(probe, options) for each in await _measured(series, one, say)]


async def default_embedder(options: Options, say: Say) -> list[Figure]:
    """Measure objects in S3 with the default embedder."""
    async with temporary_stack(keep=options.keep, lane="stream", settings={"EMBEDDER": "minilm"}) as folder:
        settings = load(folder)
        async with caller(settings) as client:
            probe = Probe(settings, client, aws(settings, "s3"))
            await _warm_up(probe, (probe.put,))
            one = await _search_seconds(probe)
            series = Series("S3 edit → found, MiniLM", probe.put, probe.finds, options.changes, p95=0.3)
            return await _measured(series, one, say)


def _series_of(probe: Probe, options: Options) -> list[Series]:
    """Return the changes in the order in which they are made: the last ones take the documents away."""
    changes, half = options.changes, DOCUMENTS // 2
    return [
        Series("folder edit → found", probe.write, probe.finds, changes, p50=0.06, p95=0.12),
        Series("S3 edit → found", probe.put, probe.finds, changes, p95=0.15),
        Series("Postgres row edit → found", probe.upsert, probe.finds, changes, p95=0.3),
        Series("label closed → not found", probe.close_label, probe.misses, half // 2, p95=0.15),
        Series("revoked by rule → not found", probe.revoke, probe.misses, half - half // 2, half // 2, p95=0.15),
        Series("S3 delete → not found", probe.remove_object, probe.misses, half, half, p95=0.15),
        Series("folder delete → not found", probe.remove_file, probe.misses, half, p95=0.12),
        Series("Postgres row delete → not found", probe.remove_row, probe.misses, half, p95=0.3),
    ]


async def _warm_up(probe: Probe, changes: Sequence[Change]) -> None:
    """Create the documents, and wait for the first one of each source, which may have to connect first."""
    (Path(probe.settings.inbox_dir or "") / key(0)).parent.mkdir(parents=True, exist_ok=True)
    for change in changes:
        if await seconds_until(partial(probe.finds, await change(0)), FIRST) is None:
            raise Unavailable(f"no search found the first document of {change.__qualname__} in {FIRST:.0f} s")
        await measure(Series("warm-up", change, probe.finds, DOCUMENTS + WARM_UP))


async def _search_seconds(probe: Probe) -> float:
    """Return the median seconds of one search on the same stack, to which the figures are compared."""
    taken = []
    for question in questions(30):
        began = time.perf_counter()
        await probe.hits(question)
        taken.append(time.perf_counter() - began)
    return percentile(taken, 0.5)


async def _measured(series: Series, one: float, say: Say) -> list[Figure]:
    say(f"{series.name}: {series.count} changes, one every {EVERY} s")
    return figures(series, await measure(series), one)


async def measure(series: Series) -> list[float | None]:
    """Start a change every ``EVERY`` seconds, and wait until all are seen. Return the seconds of each, None for a missed one."""

    async def one(number: int) -> float | None:
        word = await series.change(number % DOCUMENTS)
        return await seconds_until(lambda: series.seen(word))

    tasks = []
    for number in range(series.start, series.start + series.count):
        tasks.append(asyncio.ensure_future(one(number)))
        await asyncio.sleep(EVERY)
    return list(await asyncio.gather(*tasks))


async def seconds_until(condition: Callable[[], Awaitable[bool]], longest: float | None = None) -> float | None:
    """Return the seconds until the condition holds, or None after ``longest`` seconds (``LONGEST``)."""
    began = time.perf_counter()
    while not await condition():
        if time.perf_counter() - began > (longest or LONGEST):
            return None
        await asyncio.sleep(LOOK)
    return time.perf_counter() - began


def figures(series: Series, seconds: Sequence[float | None], one_search: float) -> list[Figure]:
    """Return the percentiles, from the end of the change, and the number of changes whose effect was not seen."""
    late = [LONGEST if each is None else each for each in seconds]
    missed, n = sum(each is None for each in seconds), len(seconds)
    p50, p95 = percentile(late, 0.5), percentile(late, 0.95)
    note = f"{p50 / one_search:.1f} times one search ({1000 * one_search:.1f} ms); slowest {1000 * max(late):.0f} ms"
    return [
        Figure(f"{series.name}, p50", 1000 * p50, "ms", _aim(series.p50), n, note),
        Figure(f"{series.name}, p95", 1000 * p95, "ms", _aim(series.p95), n),
        Figure(f"{series.name}: never seen", missed, "", Aim("==", 0), n, is_required=True),
    ]


def _aim(seconds: float | None) -> Aim | None:
    return Aim("<=", 1000 * seconds) if seconds else None
