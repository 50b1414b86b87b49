"""python -m evals quality | bench"""

from __future__ import annotations

import asyncio
import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import Progress

from evals import report
from evals.questions import NAMES, ROOT, load
from rag.errors import TidemarkError

app = typer.Typer(
    no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, help="What the answers are worth."
)
console = Console(highlight=False)

Stack = Annotated[Path, typer.Option("--dir", envvar="TIDEMARK_DIR", help="folder of a running local stack")]
Written = Annotated[Path | None, typer.Option("--json", help="write the figures here as well")]


@app.command()
def quality(
    dataset: Annotated[str, typer.Argument(help=" | ".join(NAMES))] = "sample",
    dir: Stack = ROOT / ".stack",
    offline: Annotated[bool, typer.Option("--offline", help="index the corpus in memory, without a stack")] = False,
    prefix: Annotated[str, typer.Option(help="where in the bucket the corpus lies")] = "",
    answers: Annotated[bool, typer.Option(help="also answer: abstention and citations")] = True,
    written: Written = None,
) -> None:
    """Recall, MRR, abstention and citations on a question set, by the functions of the gateway."""
    from evals.backends import in_memory, on_stack

    asked_for = load(dataset)
    with Progress(console=console, transient=True) as progress:
        task = progress.add_task(dataset, total=len(asked_for.questions))
        step = lambda: progress.advance(task)  # noqa: E731
        run = in_memory(asked_for, answers=answers, progress=step) if offline else on_stack(
            asked_for, dir, prefix=prefix, answers=answers, progress=step
        )  # fmt: skip
        found = asyncio.run(run)
    report.quality(found, console)
    if written:
        written.write_text(json.dumps(asdict(found), indent=2) + "\n")


@app.command()
def bench(
    small: Annotated[
        bool, typer.Option("--small", help="a quick pass over 40 documents: shows that it works, not how fast")
    ] = False,
    written: Annotated[Path, typer.Option("--json", help="where the figures go")] = ROOT / ".stack" / "bench.json",
    keep: Annotated[bool, typer.Option("--keep", help="leave the stack's folder for a look at its logs")] = False,
) -> None:
    """Throughput, latency and retrieval quality of a stack of its own, in one run."""
    from evals.bench import run

    figures = asyncio.run(run(small=small, keep=keep, console=console))
    report.bench(figures, console)
    written.parent.mkdir(parents=True, exist_ok=True)
    written.write_text(json.dumps(asdict(figures), indent=2) + "\n")
    console.print(f"written to {written}", soft_wrap=True)


def main() -> None:
    try:
        app()
    except TidemarkError as error:
        Console(stderr=True, highlight=False).print(str(error), style="red", markup=False, soft_wrap=True)
        sys.exit(1)


if __name__ == "__main__":
    main()
