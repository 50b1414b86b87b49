"""Figures as people read them: tables on a terminal."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from evals.bench import CHUNKS, Figures
from evals.latency import Latency
from evals.quality import CUTS, Quality


def quality(found: Quality, console: Console) -> None:
    """What was found beside plain BM25, then what was answered."""
    console.print(_retrieval(found))
    if found.unindexed:
        console.print(
            f"[yellow]{len(found.unindexed)} gold documents are not in the index; questions about them count as misses:[/yellow] "
            + ", ".join(found.unindexed[:3]),
            soft_wrap=True,
        )
    for name, estimate, wanted in (
        ("gold quotes in the chunks that are read", found.evidence, "higher is better"),
        ("abstained though answerable", found.lost, "lower is better"),
        ("abstained on unanswerable", found.refused, "higher is better"),
    ):
        if estimate:
            console.print(f"{name:<40} {estimate}  n {estimate.n}  {wanted}", soft_wrap=True)
    if cited := found.citations:
        console.print(f"{'quotes word for word in the source (ragas)':<42} {cited.aligned:.4f}, exactly at their span "
                      f"{cited.at_span:.4f}  n {cited.n}", soft_wrap=True)  # fmt: skip


def _retrieval(found: Quality) -> Table:
    table = Table(
        title=f"{found.dataset}: {found.answerable} answerable questions, 95% bootstrap intervals",
        title_justify="left",
        show_lines=True,
    )
    table.add_column("", no_wrap=True)
    for column in (*(f"Recall@{cut}" for cut in CUTS), "MRR"):
        table.add_column(column, no_wrap=True)
    for name, each in (("Tidemark", found.retrieval), ("plain BM25", found.bm25), ("difference", found.gain)):
        sign = "+" if name == "difference" else ""
        cells = (
            f"{one.mean:{sign}.3f}\n{one.low:{sign}.3f}..{one.high:{sign}.3f}"
            for one in (*each.recall.values(), each.mrr)
        )
        table.add_row(name, *cells)
    return table


def bench(figures: Figures, console: Console) -> None:
    """Everything side by side, with what is needed to doubt it."""
    console.print(_throughput(figures))
    console.print(_startup(figures), soft_wrap=True)
    console.print(_latencies(figures))
    quality(figures.quality, console)
    for warning in warnings(figures):
        console.print(f"[yellow]{warning}[/yellow]", soft_wrap=True)


def warnings(figures: Figures) -> list[str]:
    """Why the figures may not be what they seem."""
    found, machine = [], figures.machine
    indexing, embedding = figures.indexing, figures.embedding
    if figures.small:
        found.append(
            "a small pass: it shows that everything works; start-up outweighs the work, so its ratio says nothing"
        )
    elif indexing.chunks < CHUNKS:
        found.append(f"only {indexing.chunks} chunks, {CHUNKS} are wanted")
    if machine.load_before > 0.25:
        found.append(
            f"the machine was busy before the start (load {machine.load_before:.2f} per core): trust ratios, not seconds"
        )
    drift = machine.pace_after / machine.pace_before
    if not 0.85 < drift < 1.15:
        found.append(
            f"the embedder ran {drift:.2f} times as fast at the end as before the documents came: the ratio may be off by as much"
        )
    if embedding.fastest_slice > 1.25 * embedding.slowest_slice:
        found.append(
            f"the embedder alone varied from {embedding.slowest_slice:.1f} to {embedding.fastest_slice:.1f} chunks/s: the machine is noisy"
        )
    if indexing.embedded != indexing.chunks:
        found.append(
            f"{indexing.chunks - indexing.embedded} chunks cost no embedding; rates count the embedded ones only"
        )
    if indexing.dead:
        found.append(f"{indexing.dead} documents could not be indexed")
    if indexing.failed_runs:
        found.append(f"{indexing.failed_runs} of {indexing.runs} runs did not succeed")
    cached = figures.latencies
    if cached.answers_cold.cached or cached.answers_cached.cached < cached.answers_cached.n:
        found.append(
            f"the answer cache gave {cached.answers_cold.cached} of the cold and {cached.answers_cached.cached} of the "
            f"{cached.answers_cached.n} cached answers"
        )
    return found


def _throughput(figures: Figures) -> Table:
    indexing, embedding, rates = figures.indexing, figures.embedding, figures.rates
    formats = ", ".join(f"{count} {name}" for name, count in sorted(indexing.formats.items()))
    table = Table(
        title=f"{indexing.documents} documents ({formats}), {indexing.chunks} chunks, {embedding.tokens} tokens",
        title_justify="left",
    )
    for column in ("", "seconds", "documents/s", "chunks/s", "of the limit"):
        table.add_column(column)
    table.add_row("S3 to searchable, all", f"{indexing.wall:.1f}", f"{rates.documents_wall:.2f}",
                  f"{rates.chunks_wall:.2f}", f"{rates.ratio_wall:.2f}")  # fmt: skip
    table.add_row("while a run works", f"{indexing.working:.1f}", f"{rates.documents_working:.2f}",
                  f"{rates.chunks_working:.2f}", f"{rates.ratio:.2f}  (aim 0.90)")  # fmt: skip
    table.add_row("embedder alone (limit)", f"{embedding.seconds:.1f}", "", f"{rates.chunks_embedder:.2f}", "1.00")
    return table


def _startup(figures: Figures) -> str:
    found = figures.indexing
    steps = ", ".join(f"{name} {seconds:.1f}" for name, seconds in found.steps.items())
    return (
        f"apart    {found.runs} runs: start-up {found.start_up:.1f} s (median; longest {found.start_up_longest:.1f}), queued before it "
        f"{found.queued:.1f} s (median); first step after {found.waited_for_first:.1f} s; objects put in {found.put:.1f} s\n"
        f"steps    {steps} (seconds, summed over runs, two of which run at a time)"
    )


def _latencies(figures: Figures) -> Table:
    machine, found = figures.machine, figures.latencies
    table = Table(title=f"through the gateway, one caller, {machine.cores} cores", title_justify="left")
    for column in ("", "n", "p50 ms", "p95 ms", "slowest ms"):
        table.add_column(column)
    rows: tuple[tuple[str, Latency], ...] = (
        ("search, a new question", found.search_cold),
        ("search, repeated", found.search_repeated),
        ("answers, a new question", found.answers_cold),
        ("answers, cached", found.answers_cached),
    )
    for name, each in rows:
        milliseconds = (f"{1000 * value:.1f}" for value in (each.p50, each.p95, each.slowest))
        table.add_row(name, str(each.n), *milliseconds)
    return table
