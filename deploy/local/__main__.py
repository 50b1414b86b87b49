"""The command line of the local stack: ``python -m deploy.local up | down | status | logs | clean | demo``."""

from __future__ import annotations

import enum
import importlib
import os
import sys
import time
from functools import partial
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from deploy.local import jars, lifecycle, probes, process_tree
from deploy.local.bootstrap import DOWNLOADS, Step
from deploy.local.errors import StackError
from deploy.local.processes import STREAM, table
from deploy.local.stack import ROOT, Stack, open_stack, read_stack
from deploy.local.supervision import PRIVATE, Supervisor

app = typer.Typer(
    no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, help="The local stack, without Docker."
)
console = Console(highlight=False)

Folder = Annotated[Path, typer.Option("--dir", envvar="TIDEMARK_DIR", help="the folder of the stack")]
DEFAULT = ROOT / ".stack"


class LaneChoice(enum.StrEnum):
    """The lane that takes events into the index. The Dagster lane does backfills either way, and takes over when the stream ends."""

    STREAM = "stream"
    DAGSTER = "dagster"


@app.command()
def up(
    dir: Folder = DEFAULT,
    only: Annotated[str, typer.Option(help="infrastructure, or names from the table, comma-separated")] = "",
    free_ports: Annotated[bool, typer.Option("--free-ports", help="choose free ports and keep them")] = False,
    lane: Annotated[
        LaneChoice, typer.Option(envvar="LANE", help="the lane that takes events into the index")
    ] = LaneChoice.STREAM,
) -> None:
    """Start everything and wait until it is ready."""
    began = time.monotonic()
    stack = open_stack(dir, free_ports=free_ports)
    parts = lifecycle.choose(stack, tuple(filter(None, only.split(","))))
    if lane is LaneChoice.DAGSTER:
        parts.pop(STREAM, None)
        if (supervisor := Supervisor(stack)).alive():
            supervisor.stop(STREAM)
    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console) as progress:
        task = progress.add_task("starting", total=len(parts))
        if DOWNLOADS in parts:
            parts[DOWNLOADS] = Step(DOWNLOADS, partial(_download, progress), ())

        def report(name: str, seconds: float) -> None:
            progress.console.print(f"  {name:<18}{seconds:6.1f} s")
            progress.advance(task)

        lifecycle.up(stack, parts, report)
    processes = process_tree.processes_of(stack.folder)
    memory = sum(process_tree.resident_megabytes(process) for process in processes)
    console.print(
        f"up in {time.monotonic() - began:.1f} s, "
        f"{memory:.0f} MB in {len(processes)} processes; settings for clients in {stack.env_file}",
        soft_wrap=True,
    )


@app.command()
def down(dir: Folder = DEFAULT) -> None:
    """Stop everything and keep its state."""
    _down(dir)
    console.print("down")


@app.command()
def clean(
    dir: Folder = DEFAULT,
    after_pid: Annotated[int | None, typer.Option(hidden=True, help="wait for this process to end first")] = None,
) -> None:
    """Stop everything and delete its state. Downloads stay in the cache."""
    if after_pid:
        lifecycle.await_end(after_pid)
    _down(dir)
    if dir.exists():
        lifecycle.clean(dir.resolve())
    console.print(f"{dir} is gone")


@app.command()
def status(dir: Folder = DEFAULT) -> None:
    """Show the processes with their state, ports and memory."""
    stack = read_stack(dir)
    if stack is None or not (supervisor := Supervisor(stack)).alive():
        console.print("down")
        raise typer.Exit(1)
    states = supervisor.states()
    rows = Table("process", "state", "ready", "pid", "port", "MB")
    for process in table(stack):
        state = states[process.name]
        ready = "yes" if state.alive and process.ready(state.started) else "no"
        ports = ", ".join(str(stack.ports[port]) for port in process.ports)
        rows.add_row(process.name, state.state.lower(), ready, str(state.pid or ""), ports, _megabytes(state.pid))
    console.print(rows)
    for line in probes.failing_sources(stack.ports["consumers"]):
        console.print(f"source {line}", style="yellow", markup=False, soft_wrap=True)


@app.command()
def logs(
    name: Annotated[str, typer.Argument(help="a process of the table; without it, all")] = "",
    dir: Folder = DEFAULT,
    follow: Annotated[bool, typer.Option("--follow", "-f")] = False,
    lines: Annotated[int, typer.Option("--lines", "-n")] = 50,
) -> None:
    """Show the end of the logs."""
    files = sorted((dir / "logs").glob(f"{name or '*'}.log"))
    if not files:
        raise StackError(f"no log of {name or 'any process'} in {dir / 'logs'}")
    os.execvp("tail", ["tail", f"-n{lines}", *(["-F"] if follow else []), *map(str, files)])  # noqa: S606, S607


@app.command()
def demo(dir: Folder = DEFAULT) -> None:
    """Start everything, load the sample corpus through the Dagster lane, ask, and let the stream lane find an edit."""
    up(dir, lane=LaneChoice.DAGSTER)
    walkthrough = importlib.import_module("deploy.local.demo.walkthrough")
    written = walkthrough.load_and_ask(dir.resolve(), console)
    up(dir, lane=LaneChoice.STREAM)
    walkthrough.edit_and_report(dir.resolve(), console, written)


def _down(folder: Path) -> None:
    lifecycle.down(folder.resolve(), read_stack(folder))


def _download(progress: Progress, stack: Stack) -> None:
    task = progress.add_task("downloading Kafka and the schema registry", total=0, visible=False)

    def started(_: str, size: int) -> jars.Advance:
        total = progress.tasks[task].total or 0
        progress.update(task, total=total + size, visible=True)
        return lambda count: progress.advance(task, count)

    jars.fetch(stack.cache, started)


def _megabytes(pid: int) -> str:
    if not pid:
        return ""
    import psutil

    family = [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]
    return f"{sum(process_tree.resident_megabytes(process) for process in family):.0f}"


def main() -> None:
    os.umask(PRIVATE)
    try:
        app()
    except StackError as error:
        Console(stderr=True, highlight=False).print(str(error), style="red", markup=False, soft_wrap=True)
        sys.exit(1)


if __name__ == "__main__":
    main()
