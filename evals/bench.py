"""One run of one stack: how fast documents become searchable beside the embedder alone, how fast answers come, and how good they are.

The stack is the project's own, started for the run: S3 → SQS → Kafka → Dagster's sensor → runs → Qdrant and ledger → gateway.
"""

from __future__ import annotations

import asyncio
import os
import platform
import statistics
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from rich.console import Console

from evals import corpora, latency
from evals.backends import ask_services
from evals.latency import Latencies
from evals.local_stack import deploy, temporary_stack
from evals.quality import Quality
from evals.questions import QuestionSet
from evals.questions import load as load_questions
from evals.runs import Run, counted, runs, step_seconds, union
from rag.errors import Unavailable
from rag.ids import object_uri
from rag.ingest.chunking import ChunkSettings
from rag.ports import Embedder, Tokenizer
from rag.settings import load as load_settings
from rag.wiring import Services, services
from schemas.topics import CHANGED

CHUNKS = 5000  # at least
MARGIN = 1.03  # the load is cut to size by chunks counted here; the pipeline is to end above CHUNKS, not just below
SMALL_DOCUMENTS, SMALL_QUESTIONS = 40, 40
QUESTIONS = 200  # whose latency is measured
SLICE = 512  # texts between two readings of the clock: one window of the embedder, so slicing changes no batch
STANDSTILL = 600.0  # seconds without any progress after which the run is given up
PREFIX = "enterprise"


@dataclass(frozen=True, slots=True)
class Machine:
    """``load_before``: load average of the last minute before anything was started, as a share of the cores. ``pace_before`` and
    ``pace_after``: texts per second of the embedder alone on the same few texts, before the documents were put and at the very end."""

    cores: int
    processor: str
    python: str
    load_before: float
    pace_before: float
    pace_after: float


@dataclass(frozen=True, slots=True)
class Indexing:
    """Seconds by the clock.

    ``wall``: first object put to last document visible. ``working``: the part of it in which at least one run was between the start of
    its first and the end of its last step. ``queued``: run created to process launched, ``start_up``: launched to first step (medians
    over runs). ``steps``: seconds by step, summed over runs.
    """

    documents: int
    formats: dict[str, int]
    chunks: int
    embedded: int
    dead: int
    runs: int
    failed_runs: int
    put: float
    wall: float
    working: float
    waited_for_first: float
    queued: float
    start_up: float
    start_up_longest: float
    steps: dict[str, float]


@dataclass(frozen=True, slots=True)
class Embedding:
    """The embedder alone on the inputs of the very same chunks, nothing else running. Rates in chunks per second."""

    chunks: int
    tokens: int
    seconds: float
    slowest_slice: float
    fastest_slice: float


@dataclass(frozen=True, slots=True)
class Rates:
    """Per second. ``ratio``: chunks while working / embedder alone; ``ratio_wall`` counts waiting and start-up as well."""

    documents_wall: float
    chunks_wall: float
    documents_working: float
    chunks_working: float
    chunks_embedder: float
    ratio: float
    ratio_wall: float


@dataclass(frozen=True, slots=True)
class Figures:
    small: bool
    machine: Machine
    indexing: Indexing
    embedding: Embedding
    rates: Rates
    latencies: Latencies
    quality: Quality


async def run(*, small: bool, keep: bool, console: Console) -> Figures:
    load_before = os.getloadavg()[0] / (os.cpu_count() or 1)
    asked_for = load_questions("enterprise")
    _say(console, "starting a stack of its own")
    async with temporary_stack(keep=keep) as folder:
        settings = load_settings(folder)
        async with services(settings) as backend:
            documents, asked_for = corpus(asked_for, small, backend.pipeline.tokenizer, backend.pipeline.chunking)
            pace_before = await pace(backend.pipeline.embedder)
            _say(console, f"{len(documents)} documents into S3, through Kafka and Dagster")
            began = time.time()
            put = await put_documents(documents, backend)
            await arrived(len(documents), backend)
            done = await finished(settings.dagster_url, began)
            indexing = await measured(documents, done, began, put, backend)
            inputs, tokens = await chunk_inputs(backend)
            _say(console, "asking through the gateway")
            texts = [each.text for each in asked_for.questions]
            asked, warm_up = texts[: SMALL_QUESTIONS if small else QUESTIONS], texts[-latency.WARM_UP :]
            latencies = await asyncio.to_thread(latency.measure, settings, asked, warm_up)
            _say(console, f"asking {len(texts)} questions with known answers")
            quality = await ask_services(asked_for, backend, prefix=PREFIX)
            embedder = backend.pipeline.embedder
        _say(console, f"the embedder alone on the same {len(inputs)} chunks, the stack stopped")
        await deploy("down", folder)
        embedding = await alone(inputs, tokens, embedder)
        machine = Machine(
            cores=os.cpu_count() or 1,
            processor=platform.processor() or platform.machine(),
            python=platform.python_version(),
            load_before=load_before,
            pace_before=pace_before,
            pace_after=await pace(embedder),
        )
    return Figures(small, machine, indexing, embedding, rates(indexing, embedding), latencies, quality)


def corpus(
    asked_for: QuestionSet, small: bool, tokenizer: Tokenizer, settings: ChunkSettings
) -> tuple[list[corpora.Document], QuestionSet]:
    """The documents, and the questions that they answer. Only the questions' own corpus can be seen by who asks."""
    names = asked_for.documents()
    if small:
        # Evenly over the three companies, so over the formats as well.
        names = names[:: max(1, len(names) // SMALL_DOCUMENTS)][:SMALL_DOCUMENTS]
        about = asked_for.about(names)
        return corpora.files(asked_for.folder, names, PREFIX), QuestionSet(
            about.name, about.folder, about.questions[: 2 * SMALL_QUESTIONS]
        )
    northwind = load_questions("northwind")
    originals = corpora.files(asked_for.folder, names, PREFIX)
    others = corpora.files(northwind.folder, northwind.documents(), "northwind", hidden=True)
    texts = corpora.parsed(originals)
    have = sum(corpora.count(each, tokenizer, settings) for each in (*texts, *corpora.parsed(others)))
    made = corpora.load(texts, int(MARGIN * CHUNKS) - have, tokenizer, settings)
    return [*originals, *others, *made], asked_for


async def put_documents(documents: Sequence[corpora.Document], backend: Services) -> float:
    """Into the watched bucket, eight at a time; returns the seconds it took."""
    began, slots = time.perf_counter(), asyncio.Semaphore(8)

    async def put(document: corpora.Document) -> None:
        async with slots:
            uri = object_uri(f"s3://{backend.settings.s3_bucket}", document.key)
            await backend.objects.put(uri, document.content, labels=document.labels)

    await asyncio.gather(*map(put, documents))
    return time.perf_counter() - began


async def arrived(wanted: int, backend: Services) -> None:
    """Returns when every document is live or dead, and every event handled. Raises Unavailable at a standstill."""
    moved, last = time.monotonic(), (-1, -1, -1)
    while True:
        state = await backend.events.describe(CHANGED)
        positions = await backend.ledger.positions(backend.spec.index_id, CHANGED, state.epoch)
        counts = await backend.ledger.counts(backend.spec.index_id, "s3")
        events, handled = sum(end for _, end in state.bounds.values()), sum(positions.values())
        settled = counts.get("live", 0) + counts.get("dead", 0)
        if settled >= wanted and handled >= events:
            return
        if (events, handled, settled) != last:
            moved, last = time.monotonic(), (events, handled, settled)
        if time.monotonic() - moved > STANDSTILL:
            raise Unavailable(
                f"nothing has moved for {STANDSTILL:.0f} s at {settled} of {wanted} documents and {handled} of {events} events: "
                "run again with --keep and see its logs"
            )
        await asyncio.sleep(1)


async def finished(dagster_url: str, since: float) -> list[Run]:
    """The runs, when none is in flight any more: a position moves shortly before its run ends."""
    for _ in range(120):
        done = await runs(dagster_url, since)
        if all(run.has_ended for run in done):
            return done
        await asyncio.sleep(1)
    raise Unavailable("runs are still in flight two minutes after every document was indexed: see Dagster's log")


async def measured(
    documents: Sequence[corpora.Document], done: Sequence[Run], began: float, put: float, backend: Services
) -> Indexing:
    worked = [run for run in done if run.steps]
    if not worked:
        raise Unavailable("no run of Dagster indexed anything: is a stream lane working in its place?")
    counts = await backend.ledger.counts(backend.spec.index_id, "s3")
    return Indexing(
        documents=len(documents),
        formats=dict(Counter(each.key.rsplit(".", 1)[-1] for each in documents)),
        chunks=await backend.vectors.count(backend.spec.index_id),
        embedded=counted(done, "embeddings", "embedded"),
        dead=counts.get("dead", 0),
        runs=len(done),
        failed_runs=sum(run.status != "SUCCESS" for run in done),
        put=put,
        wall=max(run.ended for run in worked) - began,
        working=union((run.began, run.ended) for run in worked),
        waited_for_first=min(run.began for run in worked) - began,
        queued=statistics.median(run.launched - run.created for run in worked),
        start_up=statistics.median(run.began - run.launched for run in worked),
        start_up_longest=max(run.began - run.launched for run in worked),
        steps=step_seconds(worked),
    )


async def chunk_inputs(backend: Services) -> tuple[list[str], int]:
    """What the embedder was given for the index, in the order of the partitions; and its tokens."""
    inputs, tokens = [], 0
    for partition in range(backend.settings.kafka_partitions):
        for work in (await backend.pipeline.live_batch(partition)).tasks:
            if work.chunked:
                chunks = await backend.pipeline.artifacts.chunks(work.chunked)
                inputs += [chunk.input for chunk in chunks]
                tokens += sum(chunk.tokens for chunk in chunks)
    return list(dict.fromkeys(inputs)), tokens


async def pace(embedder: Embedder) -> float:
    """How fast the machine is now, told by always the same texts."""
    questions = [each.text for each in load_questions("enterprise").questions]
    texts = [" ".join(questions[first : first + 5]) for first in range(0, len(questions), 5)]
    await embedder.embed(texts[:16])  # the first call pays for memory
    began = time.perf_counter()
    await embedder.embed(texts)
    return len(texts) / (time.perf_counter() - began)


async def alone(inputs: Sequence[str], tokens: int, embedder: Embedder) -> Embedding:
    await embedder.embed(inputs[:16])  # the first call pays for memory
    rates, total = [], 0.0
    for start in range(0, len(inputs), SLICE):
        texts = inputs[start : start + SLICE]
        began = time.perf_counter()
        await embedder.embed(texts)
        seconds = time.perf_counter() - began
        rates.append(len(texts) / seconds)
        total += seconds
    return Embedding(len(inputs), tokens, total, min(rates), max(rates))


def rates(indexing: Indexing, embedding: Embedding) -> Rates:
    """Embedded chunks count: one that the cache had cost nothing and would flatter the ratio."""
    limit = embedding.chunks / embedding.seconds
    return Rates(
        documents_wall=indexing.documents / indexing.wall,
        chunks_wall=indexing.embedded / indexing.wall,
        documents_working=indexing.documents / indexing.working,
        chunks_working=indexing.embedded / indexing.working,
        chunks_embedder=limit,
        ratio=indexing.embedded / indexing.working / limit,
        ratio_wall=indexing.embedded / indexing.wall / limit,
    )


def _say(console: Console, text: str) -> None:
    console.print(f"[dim]{time.strftime('%H:%M:%S')}[/dim] {text}", soft_wrap=True)
