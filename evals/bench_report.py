"""The report of the bench: one table of every figure beside its aim, with the load of the machine below it."""

from __future__ import annotations

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from evals.bench import Bench
from evals.figures import Figure, GroupResult

BUSY = 0.5  # load per core before a group, above which its timings are those of a busy machine


def show(bench: Bench, console: Console) -> None:
    """Print the table, then the notes, then the reasons for caution."""
    console.print(_table(bench))
    for result in bench.results:
        for each in result.figures:
            if each.note:
                console.print(f"[dim]{escape(each.name)}: {escape(each.note)}[/dim]", soft_wrap=True)
    for line in footer(bench):
        console.print(line, soft_wrap=True)


def footer(bench: Bench) -> list[str]:
    """Return the machine, its load, and what failed or was left out."""
    machine, options = bench.machine, bench.options
    lines = [
        f"{machine.cores} cores ({machine.processor}), Python {machine.python}, {bench.seconds / 60:.0f} minutes; load "
        f"{machine.load_before:.1f} before, {machine.load_after:.1f} after; pace of one thread {machine.pace_before:.1f} before, "
        f"{machine.pace_after:.1f} after"
    ]
    if options.is_small:
        lines.append("[yellow]a small pass only checks that the bench works: its timings mean nothing[/yellow]")
    if busy := [each for each in bench.results if each.load_before > BUSY * machine.cores]:
        loads = ", ".join(f"{each.group} {each.load_before:.1f}" for each in busy)
        lines.append(f"[yellow]the machine was busy before {loads}: only ratios within a group are reliable[/yellow]")
    aimed = [each for result in bench.results for each in result.figures if each.aim]
    lines.append(f"{sum(bool(each.is_reached) for each in aimed)} of {len(aimed)} aims reached")
    lines += [
        f"[yellow]SKIPPED {each.group}: {escape(each.skipped)}[/yellow]" for each in bench.results if each.skipped
    ]
    lines += [f"[red]FAILED {each.group}: {escape(each.failure)}[/red]" for each in bench.results if each.failure]
    return lines


def _table(bench: Bench) -> Table:
    table = Table(title="figures", title_justify="left")
    for column in ("group", "figure", "n", "measured", "aim", "÷ aim", ""):
        table.add_column(column)
    for result in bench.results:
        for number, each in enumerate(result.figures):
            table.add_row("" if number else _group(result), *_cells(each))
        if not result.figures:
            table.add_row(_group(result), escape(result.skipped or result.failure.splitlines()[0]), "", "", "", "", "")
    return table


def _group(result: GroupResult) -> str:
    return f"{result.group} ({result.seconds:.0f} s)" if result.seconds else result.group


def _cells(figure: Figure) -> tuple[str, ...]:
    aim = f"{figure.aim.sign} {figure.aim.limit:g}" if figure.aim else ""
    share = "" if figure.share_of_aim is None else f"{figure.share_of_aim:.2f}"
    reached = {None: "", True: "reached", False: "NOT REACHED"}[figure.is_reached]
    return figure.name, f"{figure.n:,}", f"{number(figure.value)} {figure.unit}".strip(), aim, share, reached


def number(value: float) -> str:
    """Return the value with three digits, or all digits of a whole number."""
    if value == int(value):
        return f"{int(value):,}"
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
