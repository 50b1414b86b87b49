"""Reports of the figures as tables on a terminal."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from evals.auditing import AuditCost
from evals.dagster_lane import CHUNKS, Figures
from evals.erasing import Erasing
from evals.latency import Latency
from evals.quality import CUTS, Quality


def quality(measured: Quality, console: Console) -> None:
    """Print the metrics of retrieval beside plain BM25, then those of the answers."""
    console.print(_retrieval(measured))
    if measured.unindexed:
        console.print(
            f"[yellow]{len(measured.unindexed)} gold documents are not in the index; questions about them count as misses:[/yellow] "
            + ", ".join(measured.unindexed[:3]),
            soft_wrap=True,
        )
    for name, estimate, direction in (
        ("gold quotes in the chunks that are read", measured.evidence, "higher is better"),
        ("abstained though answerable", measured.lost, "lower is better"),
        ("abstained on unanswerable", measured.refused, "higher is better"),
    ):
        if estimate:
            console.print(f"{name:<40} {estimate}  n {estimate.n}  {direction}", soft_wrap=True)
    if citations := measured.citations:
        console.print(f"{'quotes word for word in the source (ragas)':<42} {citations.aligned:.4f}, exactly at their span "
                      f"{citations.at_span:.4f}  n {citations.n}", soft_wrap=True)  # fmt: skip


def audit(cost: AuditCost, console: Console) -> None:
    """Print the cost of the audit log."""
    added = cost.late_with_p95 - cost.late_without_p95
    console.print(
        f"a query is noted in {cost.note_p50:.3f} ms p50, {cost.note_p95:.3f} p95 (aim: below 1)\n"
        f"the loop is late by {cost.late_with_p95:.3f} ms p95 while queries are noted and written, {cost.late_without_p95:.3f} "
        f"otherwise: {added:+.3f}\n"
        f"an action waits {cost.write_p50:.1f} ms p50, {cost.write_p95:.1f} p95 until its entry is written\n"
        f"{cost.verified:,.0f} entries a second are verified (of {cost.entries})",
        soft_wrap=True,
    )


def erasures(figures: Erasing, console: Console) -> None:
    """Print how soon erasures and rules hold, and how long a person's erasure takes."""
    console.print(
        f"accepted to not found by any search: {1000 * figures.hidden_p95:.0f} ms p95 (aim: 250)\n"
        f"revoked to not found: {1000 * figures.revoked_p95:.0f} ms p95, granted to found: {1000 * figures.granted_p95:.0f} (aim: 1000)\n"
        f"searches after a response that still showed the document: {figures.leaks} of {figures.searches} (aim: 0)\n"
        f"a person in {figures.found} of {figures.documents} documents ({figures.mentioning} mention the person): located in"
        f" {figures.dry_run:.1f} s, accepted in {figures.accepted:.1f} s, certified after {figures.certified:.1f} s, of which"
        f" {figures.settle:.0f} s are the settling time (aim: 10 s)",
        soft_wrap=True,
    )


def _retrieval(measured: Quality) -> Table:
    table = Table(
        title=f"{measured.dataset}: {measured.answerable} answerable questions, 95% bootstrap intervals",
        title_justify="left",
        show_lines=True,
    )
    table.add_column("", no_wrap=True)
    for column in (*(f"Recall@{cut}" for cut in CUTS), "MRR"):
        table.add_column(column, no_wrap=True)
    for name, each in (("Tidemark", measured.retrieval), ("plain BM25", measured.bm25), ("difference", measured.gain)):
        sign = "+" if name == "difference" else ""
        cells = (
            f"{estimate.mean:{sign}.3f}\n{estimate.low:{sign}.3f}..{estimate.high:{sign}.3f}"
            for estimate in (*each.recall.values(), each.mrr)
        )
        table.add_row(name, *cells)
    return table


def dagster(figures: Figures, console: Console) -> None:
    """Print all figures, and warnings about those that may be misleading."""
    console.print(_throughput(figures))
    console.print(_startup(figures), soft_wrap=True)
    console.print(_latencies(figures))
    quality(figures.quality, console)
    for warning in warnings(figures):
        console.print(f"[yellow]{warning}[/yellow]", soft_wrap=True)


def warnings(figures: Figures) -> list[str]:
    """Return the reasons why the figures may be misleading."""
    reasons, machine = [], figures.machine
    indexing, embedding = figures.indexing, figures.embedding
    if figures.small:
        reasons.append(
            "a small pass only checks that everything works: start-up takes longer than the work, so the ratio is meaningless"
        )
    elif indexing.chunks < CHUNKS:
        reasons.append(f"only {indexing.chunks} chunks, at least {CHUNKS} are needed")
    if machine.load_before > 0.25:
        reasons.append(
            f"the machine was busy before the start (load {machine.load_before:.2f} per core): only the ratios are reliable"
        )
    drift = machine.pace_after / machine.pace_before
    if not 0.85 < drift < 1.15:
        reasons.append(
            f"the embedder was {drift:.2f} times as fast at the end as at the start: the ratio may be wrong by that factor"
        )
    if embedding.fastest_slice > 1.25 * embedding.slowest_slice:
        reasons.append(
            f"the embedder alone varied from {embedding.slowest_slice:.1f} to {embedding.fastest_slice:.1f} chunks/s: the machine is noisy"
        )
    if indexing.embedded != indexing.chunks:
        reasons.append(
            f"{indexing.chunks - indexing.embedded} chunks were not embedded but cached; the rates include embedded chunks only"
        )
    if indexing.dead:
        reasons.append(f"{indexing.dead} documents could not be indexed")
    if indexing.failed_runs:
        reasons.append(f"{indexing.failed_runs} of {indexing.runs} runs did not succeed")
    cold, repeated = figures.latencies.answers_cold, figures.latencies.answers_cached
    if cold.cached or repeated.cached < repeated.n:
        reasons.append(
            f"{cold.cached} of the cold answers and {repeated.cached} of the {repeated.n} repeated answers came from the answer cache"
        )
    return reasons


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
    indexing = figures.indexing
    steps = ", ".join(f"{name} {seconds:.1f}" for name, seconds in indexing.steps.items())
    return (
        f"runs     {indexing.runs}: queued {indexing.queued:.1f} s (median), start-up {indexing.start_up:.1f} s (median; longest "
        f"{indexing.start_up_longest:.1f}); first step after {indexing.waited_for_first:.1f} s; uploads took {indexing.put:.1f} s\n"
        f"steps    {steps} (seconds, summed over runs, two of which run at a time)"
    )


def _latencies(figures: Figures) -> Table:
    machine, latencies = figures.machine, figures.latencies
    table = Table(title=f"through the gateway, one caller, {machine.cores} cores", title_justify="left")
    for column in ("", "n", "p50 ms", "p95 ms", "slowest ms"):
        table.add_column(column)
    rows: tuple[tuple[str, Latency], ...] = (
        ("search, a new question", latencies.search_cold),
        ("search, repeated", latencies.search_repeated),
        ("answers, a new question", latencies.answers_cold),
        ("answers, cached", latencies.answers_cached),
    )
    for name, each in rows:
        milliseconds = (f"{1000 * value:.1f}" for value in (each.p50, each.p95, each.slowest))
        table.add_row(name, str(each.n), *milliseconds)
    return table
