"""The bench: one command that measures every figure of the platform, group by group, beside its aim.

Groups run one after the other. A group that fails is reported with its error, and the others still run.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from evals import machine
from evals.figures import GroupResult
from evals.groups import GROUPS, Group
from evals.machine import Machine
from evals.options import Options, Say
from rag.errors import Rejected
from rag.files import write_whole


@dataclass(frozen=True, slots=True)
class Bench:
    options: Options
    machine: Machine
    seconds: float
    results: Sequence[GroupResult]

    @property
    def is_right(self) -> bool:
        """Return whether every group ran to its end and kept every promise about results. Speed does not count."""
        return all(each.is_right for each in self.results)


def chosen(names: Sequence[str]) -> list[str]:
    """Return the named groups in the order of the table, or all. Raises Rejected for an unknown name."""
    if unknown := sorted(set(names) - set(GROUPS)):
        raise Rejected(f"group {unknown[0]!r} is not one of {', '.join(GROUPS)}", reason="unknown_group")
    return [name for name in GROUPS if not names or name in names]


async def run(names: Sequence[str], options: Options, say: Say, finished: Callable[[Bench], None]) -> Bench:
    """Run the groups. ``finished`` gets the results so far after each one, so that an interruption costs one group only."""
    before, began = machine.read(), time.perf_counter()
    results: list[GroupResult] = []
    for name in chosen(names):
        results.append(await _run_one(name, GROUPS[name], options, say))
        bench = Bench(options, machine.between(before, machine.read()), time.perf_counter() - began, tuple(results))
        finished(bench)
    return bench


def write_json(bench: Bench, path: Path) -> None:
    """Write the figures, with whether each aim is reached."""
    found = asdict(bench)
    for group, result in zip(found["results"], bench.results, strict=True):
        for entry, figure in zip(group["figures"], result.figures, strict=True):
            entry |= {"is_reached": figure.is_reached, "share_of_aim": figure.share_of_aim}
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, (json.dumps(found, indent=2, allow_nan=False) + "\n").encode())


async def _run_one(name: str, group: Group, options: Options, say: Say) -> GroupResult:
    if reason := group.skipped():
        say(f"{name}: skipped, {reason}")
        return GroupResult(name, skipped=reason)
    say(f"{name}: {group.about}")
    load, began = os.getloadavg()[0], time.perf_counter()
    try:
        figures, failure = await group.measure(options, say), ""
    except Exception as error:  # the figures of the other groups must not be lost
        figures, failure = (), f"{type(error).__name__}: {error}"
        say(f"{name} failed: {failure}")
    return GroupResult(name, tuple(figures), time.perf_counter() - began, load, os.getloadavg()[0], failure)
