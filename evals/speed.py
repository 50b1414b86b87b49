"""The groups ``speed`` and ``lane``: documents through the stream lane, and searches of what they hold.

The hash embedder costs nothing, so ``speed`` shows everything else. ``lane`` compares the default embedder's lane with the embedder alone.
"""

from __future__ import annotations

from pathlib import Path

from evals import process_cpu, step_shares
from evals.embedder_alone import chunk_inputs, measure_embedder
from evals.figures import Aim, Figure
from evals.generated_texts import BYTES, questions, texts
from evals.loading import Loading, load
from evals.local_stack import temporary_stack
from evals.options import Options, Say
from evals.searching import CALLERS, WARM_UP, Searching, caller, search
from rag.settings import Settings
from rag.settings import load as load_settings
from rag.wiring import services

AIM_DOCUMENTS = 2_000  # the number that the aim for the CPU names
WARM = 20  # documents that are not measured: processes and pools of the lane are cold


async def speed(options: Options, say: Say) -> list[Figure]:
    """Measure documents a second and searches with the free embedder."""
    async with temporary_stack(keep=options.keep, lane="stream", settings={"EMBEDDER": "hash"}) as folder:
        settings = _settings(folder, "hash")
        async with services(settings) as opened:
            await load(texts(WARM, seed=1), "warm-up", opened)
            say(f"loading {options.documents} documents of {BYTES} bytes through a folder and the stream lane")
            before = step_shares.read(settings)
            loading = await load(texts(options.documents), "speed", opened)
            steps = step_shares.shares(before, step_shares.read(settings))
        return [*loading_figures(loading, steps), *await searches(settings, options, say)]


async def lane(options: Options, say: Say) -> list[Figure]:
    """Measure the lane with the default embedder, and then the embedder alone on the same chunks."""
    async with temporary_stack(keep=options.keep, lane="stream", settings={"EMBEDDER": "minilm"}) as folder:
        settings = _settings(folder, "minilm")
        async with services(settings) as opened:
            await load(texts(3, seed=1), "warm-up", opened)
            say(f"loading {options.model_documents} documents with the default embedder")
            before = step_shares.read(settings)
            loading = await load(texts(options.model_documents), "lane", opened)
            steps = step_shares.shares(before, step_shares.read(settings))
            say("measuring the embedder alone on the same chunks")
            inputs, tokens = await chunk_inputs(opened)
            alone = await measure_embedder(inputs, tokens, opened.pipeline.embedder)
    note = f"{loading.seconds:.1f} s for {alone.chunks} chunks, alone {alone.seconds:.1f} s; steps: {steps}"
    cpu_note = f"CPU seconds: {process_cpu.shares(loading.cpu)}"
    return [
        Figure("indexing / embedder alone", alone.seconds / loading.seconds, "", Aim(">=", 0.9), alone.chunks, note),
        Figure("cores in use while indexing", process_cpu.of_stack(loading.cpu) / loading.seconds,
               "", note=cpu_note),
    ]  # fmt: skip


async def searches(settings: Settings, options: Options, say: Say) -> list[Figure]:
    """Measure searches of one caller and of eight."""
    asked = questions(WARM_UP + 2 * options.searches)
    async with caller(settings) as client:
        await search(client, asked[:WARM_UP], 1, settings)
        say(f"{options.searches} searches of one caller, then of {CALLERS}")
        one = await search(client, asked[WARM_UP : WARM_UP + options.searches], 1, settings)
        many = await search(client, asked[WARM_UP + options.searches :], CALLERS, settings)
    return searching_figures(one, many)


def loading_figures(loading: Loading, steps: str) -> list[Figure]:
    used = process_cpu.of_stack(loading.cpu)
    each = loading.documents
    return [
        Figure("documents of 2 KB a second, free embedder", each / loading.seconds, "/s", Aim(">=", 257), each, f"steps: {steps}"),
        Figure(f"CPU of all processes for {AIM_DOCUMENTS} of them", used / each * AIM_DOCUMENTS, "s", Aim("<=", 12), each,
               process_cpu.shares({name: cpu / each * AIM_DOCUMENTS for name, cpu in loading.cpu.items()})),
    ]  # fmt: skip


def searching_figures(one: Searching, many: Searching, per_second: float = 160) -> list[Figure]:
    """Return the figures of one caller and of many. The CPU of a search is that of the servers that answer it."""
    answering = {name: one.cpu[name] for name in ("gateway", "vector index", "database") if name in one.cpu}
    return [
        Figure("search, one caller, p50", 1000 * one.p50, "ms", Aim("<=", 8), one.n),
        Figure("search, one caller, p95", 1000 * one.p95, "ms", Aim("<=", 15), one.n),
        Figure(f"searches of {many.callers} callers", many.per_second, "/s", Aim(">=", per_second), many.n,
               f"p50 {1000 * many.p50:.1f} ms, p95 {1000 * many.p95:.1f} ms; CPU ms: {process_cpu.shares(many.cpu, 1000)}"),
        Figure("CPU of one search", 1000 * sum(answering.values()), "ms", Aim("<=", 10), one.n,
               process_cpu.shares(answering, 1000)),
    ]  # fmt: skip


def _settings(folder: Path, embedder: str) -> Settings:
    """Return the settings of the stack. Its env file does not have the embedder, which its processes take from their environment."""
    return load_settings(folder).model_copy(update={"embedder": embedder})
