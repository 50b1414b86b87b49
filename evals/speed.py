"""Documents through the stream lane and searches over HTTP, with the CPU of each process.

The hash embedder costs nothing, so it shows the speed of everything else. Another embedder is also measured alone, on the same chunks.
Every search has a token, a filter and a ledger read, as those of callers have.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import psutil
from rich.console import Console

from evals.bench import chunk_inputs, measure_embedder
from evals.local_stack import temporary_stack
from evals.metrics import percentile
from rag.adapters.issuer import fetch_token
from rag.errors import Unavailable
from rag.files import write_whole
from rag.models import DocumentStatus
from rag.settings import Settings, load
from rag.wiring import Services, services

SEED = 9
WORDS = 4_000  # of the invented vocabulary, used as often as words of a language are: the nth word 1/n times
BYTES = 2_000  # of a document
CALLERS = 8
SEARCHES = 400  # of one caller, and of all callers together
WARM_UP = 50
STANDSTILL = 120.0  # seconds without progress until the run fails


@dataclass(frozen=True, slots=True)
class Loading:
    """Documents from the first file until the last one is live. ``cpu`` is process → seconds of CPU, with those of its children.

    ``alone`` is the seconds that the embedder alone takes for the same chunks, afterwards.
    """

    documents: int
    chunks: int
    seconds: float
    alone: float
    cpu: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Searching:
    """Searches of ``callers`` at once, each of whom sends one after the other. ``cpu`` is process → seconds of CPU for one search."""

    callers: int
    n: int
    p50: float
    p95: float
    per_second: float
    cpu: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Speed:
    loading: Loading
    searching: tuple[Searching, ...]


async def run(embedder: str, documents: int, console: Console, *, keep: bool = False) -> Speed:
    """Measure on a temporary stack with the stream lane and ``embedder``."""
    async with temporary_stack(keep=keep, lane="stream", settings={"EMBEDDER": embedder}) as folder:
        return await measure(folder, embedder, documents, console)


async def measure(folder: Path, embedder: str, documents: int, console: Console) -> Speed:
    settings = load(folder).model_copy(update={"embedder": embedder})
    words = random.Random(SEED)  # noqa: S311  (words, not secrets)
    texts = [_text(number, words) for number in range(documents)]
    async with services(settings) as opened:
        console.print(f"loading {documents} documents of {BYTES} bytes through a folder and the stream lane")
        loading = await _load(texts, opened)
    token = fetch_token(settings.oidc_issuer, settings.oidc_client_id, settings.oidc_client_secret)
    limits = httpx.Limits(max_connections=CALLERS)
    async with httpx.AsyncClient(
        base_url=settings.gateway_url, headers={"Authorization": f"Bearer {token}"}, timeout=60, limits=limits
    ) as client:
        await _search(client, [_question(words) for _ in range(WARM_UP)], 1, settings)
        searching = []
        for callers in (1, CALLERS):
            console.print(f"{SEARCHES} searches of {callers} callers")
            searching.append(await _search(client, [_question(words) for _ in range(SEARCHES)], callers, settings))
    return Speed(loading, tuple(searching))


async def _load(texts: Sequence[str], opened: Services) -> Loading:
    settings = opened.settings
    folder = Path(settings.inbox_dir or "") / "speed"
    before, began = _cpu(settings), time.perf_counter()
    await asyncio.to_thread(_write, texts, folder)
    await until_live(len(texts), opened)
    seconds, spent = time.perf_counter() - began, _spent(before, _cpu(settings))
    alone = await measure_embedder(*await chunk_inputs(opened), opened.pipeline.embedder)
    return Loading(len(texts), alone.chunks, seconds, alone.seconds, spent)


def _write(texts: Sequence[str], folder: Path) -> None:
    folder.mkdir(parents=True)
    for number, text in enumerate(texts):
        write_whole(folder / f"{number}.md", text.encode())


async def until_live(number: int, opened: Services) -> None:
    """Wait until the folder source has this number of live documents. Raises Unavailable when none comes any more."""
    source = opened.sources.named("folder")
    live, progressed = 0, time.monotonic()
    while live < number:
        counts = await opened.ledger.counts(opened.spec.index_id, source.tenant, source.name)
        if counts.get(DocumentStatus.LIVE.value, 0) > live:
            live, progressed = counts[DocumentStatus.LIVE.value], time.monotonic()
        if time.monotonic() - progressed > STANDSTILL:
            raise Unavailable(f"{live} of {number} documents are live, and no other came for {STANDSTILL:.0f} s")
        await asyncio.sleep(0.1)


async def _search(client: httpx.AsyncClient, questions: Sequence[str], callers: int, settings: Settings) -> Searching:
    seconds: list[float] = []
    waiting = iter(questions)

    async def call() -> None:
        for question in waiting:
            began = time.perf_counter()
            response = await client.post("/v1/search", json={"query": question, "top_k": 8})
            if not response.raise_for_status().json()["hits"]:
                raise Unavailable(f"a search for {question!r} found nothing: the index is not the one that was loaded")
            seconds.append(time.perf_counter() - began)

    before, began = _cpu(settings), time.perf_counter()
    await asyncio.gather(*(call() for _ in range(callers)))
    elapsed = time.perf_counter() - began
    cpu = {name: spent / len(questions) for name, spent in _spent(before, _cpu(settings)).items()}
    return Searching(
        callers, len(questions), percentile(seconds, 0.5), percentile(seconds, 0.95), len(questions) / elapsed, cpu
    )


def _text(number: int, words: random.Random) -> str:
    lines = [f"# Record {number}", ""]
    while sum(map(len, lines)) < BYTES:
        lines += [" ".join(_words(words, 12)).capitalize() + ".", ""]
    return "\n".join(lines)


def _question(words: random.Random) -> str:
    return " ".join(_words(words, 5))


def _words(words: random.Random, number: int) -> list[str]:
    return [f"w{min(WORDS, int(words.paretovariate(1.0)))}ord" for _ in range(number)]


def _cpu(settings: Settings) -> dict[str, float]:
    """Return process → seconds of CPU so far, of the processes of the stack that listen on the addresses of the settings."""
    ports = {
        settings.gateway_port: "gateway",
        settings.metrics_port: "consumers",
        settings.stream_metrics_port: "stream lane",
        urlsplit(settings.qdrant_url).port: "vector index",
        urlsplit(settings.database_url.get_secret_value()).port: "database",
        int(settings.kafka_bootstrap.rpartition(":")[2]): "Kafka",
        urlsplit(settings.s3_endpoint_url or "").port: "object store",
    }
    listening = {
        each.laddr[1]: each.pid
        for each in psutil.net_connections("tcp")
        if each.status == psutil.CONN_LISTEN and each.laddr
    }
    found = {name: listening[port] for port, name in ports.items() if port in listening}
    return {name: _seconds(psutil.Process(pid)) for name, pid in found.items() if pid} | {
        "this bench": time.process_time()
    }


def _seconds(process: psutil.Process) -> float:
    """Return the seconds of CPU of a process and of its children. Those of a child that has ended are its parent's."""
    try:
        times, children = process.cpu_times(), process.children()
    except psutil.NoSuchProcess:
        return 0.0
    return times.user + times.system + times.children_user + times.children_system + sum(map(_seconds, children))


def _spent(before: Mapping[str, float], after: Mapping[str, float]) -> dict[str, float]:
    return {name: after[name] - before[name] for name in after if name in before}
