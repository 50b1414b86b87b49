"""The Dagster lane: one run of one stack that measures its throughput beside the embedder's alone, latency and quality.

The stack is a local one, started for the run: S3 → SQS → Kafka → Dagster's sensor → runs → Qdrant and ledger → gateway.
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

from evals import corpora, latency
from evals.backends import evaluate_services
from evals.embedder_alone import EmbeddingFigures, chunk_inputs, embedder_pace, measure_embedder
from evals.latency import Latencies
from evals.local_stack import deploy, temporary_stack
from evals.options import Say
from evals.quality import Quality
from evals.questions import QuestionSet
from evals.questions import load as load_questions
from evals.runs import DagsterRun, covered_seconds, fetch_runs, metadata_total, step_seconds
from rag.errors import Unavailable
from rag.ids import object_uri
from rag.ingest.chunking import ChunkSettings
from rag.ports import Tokenizer
from rag.settings import load as load_settings
from rag.wiring import Services, services
from schemas.topics import CHANGED

CHUNKS = 5000  # at least
MARGIN = 1.03  # of the load over CHUNKS, because the pipeline may make a few chunks fewer than are counted here
SMALL_DOCUMENTS, SMALL_QUESTIONS = 40, 40
QUESTIONS = 200  # for the latency
STANDSTILL = 600.0  # seconds without any progress until the run fails
PREFIX = "enterprise"


@dataclass(frozen=True, slots=True)
class Machine:
    """The machine of the run, and its load.

    ``load_before`` is the load average of the minute before the start, per core. ``pace_before`` and ``pace_after`` are texts per
    second of the embedder alone on the same few texts, before the upload of the documents and at the end of the run.
    """

    cores: int
    processor: str
    python: str
    load_before: float
    pace_before: float
    pace_after: float


@dataclass(frozen=True, slots=True)
class Indexing:
    """Counts and durations of the indexing. Durations are seconds of wall-clock time.

    ``wall`` is from the first upload to the last visible document. ``working`` is the part of it in which at least one run was between
    the start of its first step and the end of its last step. ``queued`` is from the creation of a run to the launch of its process,
    and ``start_up`` from the launch to the first step (medians over runs). ``steps`` has the seconds by step, summed over runs.
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
class Rates:
    """Rates per second. ``ratio`` is chunks while working / embedder alone; ``ratio_wall`` includes waiting and start-up."""

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
    embedding: EmbeddingFigures
    rates: Rates
    latencies: Latencies
    quality: Quality


async def run(*, small: bool, keep: bool, say: Say) -> Figures:
    """Run the bench on a temporary stack. ``small`` only checks that it works; ``keep`` keeps the folder of the stack."""
    load_before = os.getloadavg()[0] / (os.cpu_count() or 1)
    question_set = load_questions("enterprise")
    say("starting a temporary stack")
    async with temporary_stack(keep=keep) as folder:
        settings = load_settings(folder)
        async with services(settings) as backend:
            documents, question_set = corpus(question_set, small, backend.pipeline.tokenizer, backend.pipeline.chunking)
            pace_before = await embedder_pace(backend.pipeline.embedder)
            say(f"uploading {len(documents)} documents to S3, for Kafka and Dagster")
            began = time.time()
            put = await put_documents(documents, backend)
            await wait_until_indexed(len(documents), backend)
            runs = await wait_for_runs(settings.dagster_url, began)
            indexing = await indexing_figures(documents, runs, began, put, backend)
            inputs, tokens = await chunk_inputs(backend)
            say("measuring the latency of the gateway")
            texts = [each.text for each in question_set.questions]
            measured, warm_up = texts[: SMALL_QUESTIONS if small else QUESTIONS], texts[-latency.WARM_UP :]
            latencies = await asyncio.to_thread(latency.measure, settings, measured, warm_up)
            say(f"evaluating {len(texts)} questions with known answers")
            quality = await evaluate_services(question_set, backend, prefix=PREFIX)
            embedder = backend.pipeline.embedder
        say(f"measuring the embedder alone on the same {len(inputs)} chunks, with the stack stopped")
        await deploy("down", folder)
        embedding = await measure_embedder(inputs, tokens, embedder)
        machine = Machine(
            cores=os.cpu_count() or 1,
            processor=platform.processor() or platform.machine(),
            python=platform.python_version(),
            load_before=load_before,
            pace_before=pace_before,
            pace_after=await embedder_pace(embedder),
        )
    return Figures(small, machine, indexing, embedding, rates(indexing, embedding), latencies, quality)


def corpus(
    question_set: QuestionSet, small: bool, tokenizer: Tokenizer, settings: ChunkSettings
) -> tuple[list[corpora.Document], QuestionSet]:
    """Return the documents and the questions that they answer. The caller of the questions may see only their own corpus."""
    names = question_set.documents()
    if small:
        # Evenly over the three companies, and so over the formats as well.
        names = names[:: max(1, len(names) // SMALL_DOCUMENTS)][:SMALL_DOCUMENTS]
        about = question_set.about(names)
        return corpora.read_files(question_set.folder, names, PREFIX), QuestionSet(
            about.name, about.folder, about.questions[: 2 * SMALL_QUESTIONS]
        )
    northwind = load_questions("northwind")
    originals = corpora.read_files(question_set.folder, names, PREFIX)
    others = corpora.read_files(northwind.folder, northwind.documents(), "northwind", hidden=True)
    parsed = corpora.parse_all(originals)
    existing = sum(corpora.count_chunks(each, tokenizer, settings) for each in (*parsed, *corpora.parse_all(others)))
    load = corpora.generate_load(parsed, int(MARGIN * CHUNKS) - existing, tokenizer, settings)
    return [*originals, *others, *load], question_set


async def put_documents(documents: Sequence[corpora.Document], backend: Services) -> float:
    """Upload the documents to the watched bucket, eight at a time. Return the duration in seconds."""
    began, slots = time.perf_counter(), asyncio.Semaphore(8)

    async def put(document: corpora.Document) -> None:
        async with slots:
            uri = object_uri(f"s3://{backend.settings.s3_bucket}", document.key)
            await backend.objects.put(uri, document.content, labels=document.labels)

    await asyncio.gather(*map(put, documents))
    return time.perf_counter() - began


async def wait_until_indexed(documents: int, backend: Services) -> None:
    """Wait until every document is live or dead and every event is handled. Raises Unavailable at a standstill."""
    changed, last = time.monotonic(), (-1, -1, -1)
    while True:
        state = await backend.events.describe(CHANGED)
        positions = await backend.ledger.positions(backend.spec.index_id, CHANGED, state.epoch)
        counts = await backend.ledger.counts(backend.spec.index_id, backend.settings.default_tenant, "s3")
        events, handled = sum(end for _, end in state.bounds.values()), sum(positions.values())
        settled = counts.get("live", 0) + counts.get("dead", 0)
        if settled >= documents and handled >= events:
            return
        if (events, handled, settled) != last:
            changed, last = time.monotonic(), (events, handled, settled)
        if time.monotonic() - changed > STANDSTILL:
            raise Unavailable(
                f"no progress for {STANDSTILL:.0f} s at {settled} of {documents} documents and {handled} of {events} events: "
                "run again with --keep and read the logs of the stack"
            )
        await asyncio.sleep(1)


async def wait_for_runs(dagster_url: str, since: float) -> list[DagsterRun]:
    """Wait until all runs have ended, because a position advances shortly before its run ends. Return the runs."""
    for _ in range(120):
        runs = await fetch_runs(dagster_url, since)
        if all(run.has_ended for run in runs):
            return runs
        await asyncio.sleep(1)
    raise Unavailable("runs have not ended two minutes after every document was indexed: read Dagster's log")


async def indexing_figures(
    documents: Sequence[corpora.Document], runs: Sequence[DagsterRun], began: float, put: float, backend: Services
) -> Indexing:
    """Compute the figures of the indexing that began at ``began`` (seconds since 1970) and whose upload took ``put`` seconds."""
    worked = [run for run in runs if run.steps]
    if not worked:
        raise Unavailable("no run of Dagster indexed anything: stop the stream lane, if one is working in its place")
    counts = await backend.ledger.counts(backend.spec.index_id, backend.settings.default_tenant, "s3")
    return Indexing(
        documents=len(documents),
        formats=dict(Counter(each.key.rsplit(".", 1)[-1] for each in documents)),
        chunks=await backend.vectors.count(backend.spec.index_id),
        embedded=metadata_total(runs, "embeddings", "embedded"),
        dead=counts.get("dead", 0),
        runs=len(runs),
        failed_runs=sum(run.status != "SUCCESS" for run in runs),
        put=put,
        wall=max(run.ended for run in worked) - began,
        working=covered_seconds((run.began, run.ended) for run in worked),
        waited_for_first=min(run.began for run in worked) - began,
        queued=statistics.median(run.launched - run.created for run in worked),
        start_up=statistics.median(run.began - run.launched for run in worked),
        start_up_longest=max(run.began - run.launched for run in worked),
        steps=step_seconds(worked),
    )


def rates(indexing: Indexing, embedding: EmbeddingFigures) -> Rates:
    """Compute the rates from the embedded chunks. Cached chunks cost nothing, so they would flatter the ratio."""
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
