"""python -m evals quality | bench | audit | erasures"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import Progress

from evals import report
from evals.options import sizes
from evals.questions import NAMES, ROOT, load
from rag.errors import TidemarkError

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Measure the quality and the speed of the platform.",
)
console = Console(highlight=False)
WIDTH = 130  # columns of the table of the bench, also in a file

Stack = Annotated[Path, typer.Option("--dir", envvar="TIDEMARK_DIR", help="folder of a running local stack")]
JsonFile = Annotated[Path | None, typer.Option("--json", help="also write the figures to this file")]


@app.command()
def quality(
    dataset: Annotated[str, typer.Argument(help=" | ".join(NAMES))] = "sample",
    dir: Stack = ROOT / ".stack",
    offline: Annotated[bool, typer.Option("--offline", help="index the corpus in memory, without a stack")] = False,
    prefix: Annotated[str, typer.Option(help="prefix of the corpus in the bucket")] = "",
    answers: Annotated[bool, typer.Option(help="also measure answers: abstention and citations")] = True,
    json_file: JsonFile = None,
) -> None:
    """Measure recall, MRR, abstention and citations on a question set, by the functions of the gateway."""
    from evals.backends import evaluate_in_memory, evaluate_on_stack

    question_set = load(dataset)
    with Progress(console=console, transient=True) as progress:
        task = progress.add_task(dataset, total=len(question_set.questions))
        step = lambda: progress.advance(task)  # noqa: E731
        run = evaluate_in_memory(question_set, answers=answers, progress=step) if offline else evaluate_on_stack(
            question_set, dir, prefix=prefix, answers=answers, progress=step
        )  # fmt: skip
        measured = asyncio.run(run)
    report.quality(measured, console)
    if json_file:
        json_file.write_text(json.dumps(asdict(measured), indent=2) + "\n")


@app.command()
def bench(
    groups: Annotated[list[str] | None, typer.Argument(help="groups to measure; without one, all")] = None,
    small: Annotated[
        bool, typer.Option("--small", help="a quick pass with few documents, to check that the bench works")
    ] = False,
    events: Annotated[int | None, typer.Option(help="events of the group events")] = None,
    chunks: Annotated[int | None, typer.Option(help="chunks of the large index of the group growth")] = None,
    documents: Annotated[int | None, typer.Option(help="documents of the groups speed, workers and embeddings")] = None,
    json_file: Annotated[Path, typer.Option("--json", help="file for the figures")] = ROOT / ".stack" / "bench.json",
    keep: Annotated[bool, typer.Option("--keep", help="keep the stacks' folders, with their logs")] = False,
    show_groups: Annotated[bool, typer.Option("--groups", help="list the groups")] = False,
) -> None:
    """Measure every figure on temporary stacks, group by group, each beside its aim."""
    from evals import bench_report
    from evals.bench import run, write_json
    from evals.groups import GROUPS

    if show_groups:
        for name, group in GROUPS.items():
            console.print(f"{name:<16} {group.about}", soft_wrap=True)
        return
    options = sizes(small=small, keep=keep, events=events, chunks=chunks, documents=documents)
    say = lambda text: console.print(f"[dim]{time.strftime('%H:%M:%S')}[/dim] {escape(text)}", soft_wrap=True)  # noqa: E731
    finished = asyncio.run(run(groups or (), options, say, lambda so_far: write_json(so_far, json_file)))
    bench_report.show(finished, Console(highlight=False, width=max(console.width, WIDTH)))
    console.print(f"written to {json_file}", soft_wrap=True)
    if not finished.is_right:
        sys.exit(1)


@app.command()
def audit() -> None:
    """Measure the cost of the audit log to a query and to an erasure, on a PostgreSQL of its own."""
    from evals.auditing import run

    report.audit(asyncio.run(run()), console)


@app.command()
def erasures(
    documents: Annotated[int, typer.Option(help="documents of 2 KB to load")] = 2000,
    mentioning: Annotated[int, typer.Option(help="documents that mention the person")] = 20,
    json_file: Annotated[Path, typer.Option("--json", help="file for the figures")] = ROOT / ".stack" / "erasures.json",
    keep: Annotated[bool, typer.Option("--keep", help="keep the stack's folder, with its logs")] = False,
) -> None:
    """Measure how long an erasure takes to hide, revoked access to hold, and a person to be erased and certified."""
    from evals.erasing import run

    figures = asyncio.run(run(documents, mentioning, console, keep=keep))
    report.erasures(figures, console)
    json_file.parent.mkdir(parents=True, exist_ok=True)
    json_file.write_text(json.dumps(asdict(figures), indent=2) + "\n")
    console.print(f"written to {json_file}", soft_wrap=True)


def main() -> None:
    try:
        app()
    except TidemarkError as error:
        Console(stderr=True, highlight=False).print(str(error), style="red", markup=False, soft_wrap=True)
        sys.exit(1)


if __name__ == "__main__":
    main()
