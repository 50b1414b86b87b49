"""The group ``dagster``: the figures of the Dagster lane's bench, of its answers and of the quality of its hits."""

from __future__ import annotations

from rich.console import Console

from evals import report
from evals.dagster_lane import Figures, run
from evals.figures import Aim, Figure
from evals.options import Options, Say


async def dagster(options: Options, say: Say) -> list[Figure]:
    """Measure the Dagster lane, and print its own tables with the warnings about misleading figures."""
    measured = await run(small=options.is_small, keep=options.keep, say=say)
    report.dagster(measured, Console(highlight=False))
    return figures(measured)


def figures(measured: Figures) -> list[Figure]:
    indexing, latencies, quality = measured.indexing, measured.latencies, measured.quality
    steps = ", ".join(f"{name} {seconds:.0f}" for name, seconds in indexing.steps.items())
    recall = quality.retrieval.recall
    cut = max(recall)
    return [
        Figure("Dagster lane / embedder alone, while a run works", measured.rates.ratio, "", Aim(">=", 0.9), indexing.chunks,
               f"seconds by step, two runs at a time: {steps}"),
        Figure("answer to a new question, p50", 1000 * latencies.answers_cold.p50, "ms", None, latencies.answers_cold.n,
               f"p95 {1000 * latencies.answers_cold.p95:.0f} ms; cached p50 {1000 * latencies.answers_cached.p50:.1f} ms"),
        Figure(f"Recall@{cut}", recall[cut].mean, "", None, recall[cut].n,
               f"plain BM25 {quality.bm25.recall[cut].mean:.3f}; MRR {quality.retrieval.mrr.mean:.3f}, BM25 {quality.bm25.mrr.mean:.3f}"),
    ]  # fmt: skip
