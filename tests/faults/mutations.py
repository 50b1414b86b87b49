"""``python -m tests.faults.mutations``: run every mutant until a schedule fails. Exits with 1 if a mutant survives."""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from collections.abc import Sequence

import pytest

from tests.faults.mutants import ELSEWHERE, MUTANTS

SCHEDULES = 100  # of each seed


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.faults.mutations")
    parser.add_argument("--seeds", type=int, default=10, help=f"seeds to try, with {SCHEDULES} schedules each")
    parser.add_argument("--only", default="", help="a part of the names of the mutants to run")
    parser.add_argument("--in-process", help=argparse.SUPPRESS)
    chosen = parser.parse_args(arguments)
    if chosen.in_process:
        return _run_mutant(chosen.in_process, chosen.seeds)
    survivors = []
    for name in [*MUTANTS, *ELSEWHERE]:
        if chosen.only in name:
            started = time.monotonic()
            line = _in_child(name, chosen.seeds)
            print(f"{name:36} {line or 'SURVIVED':90} {time.monotonic() - started:5.0f} s", flush=True)
            survivors += [] if line else [name]
    if survivors:
        print(f"\n{len(survivors)} mutants survived: {', '.join(survivors)}")
    return 1 if survivors else 0


def _in_child(name: str, seeds: int) -> str:
    """Run the mutant in a process of its own. Return the first failure, or an empty text."""
    command = [sys.executable, "-m", "tests.faults.mutations", "--in-process", name, "--seeds", str(seeds)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    lines = [line for line in done.stdout.splitlines() if line.startswith("caught")]
    if done.returncode not in {0, 3} or (done.returncode == 0) != (not lines):
        raise RuntimeError(f"the process of mutant {name!r} ended with {done.returncode}: {done.stderr[-2000:]}")
    return lines[0] if lines else ""


def _run_mutant(name: str, seeds: int) -> int:
    """Patch this process and run the schedules, or the tests elsewhere. Return 3 when the mutant is caught."""
    patch = pytest.MonkeyPatch()
    if name in ELSEWHERE:
        mutate, path = ELSEWHERE[name]
        mutate(patch)
        if (
            pytest.main(["-q", "--assert=plain", "-W", "ignore", "-p", "no:cacheprovider", path])
            != pytest.ExitCode.TESTS_FAILED
        ):
            return 0
        print(f"\ncaught by {path}")
        return 3
    MUTANTS[name](patch)
    from tests.faults.schedules import run

    for seed in range(seeds):
        try:
            run(SCHEDULES, seed, shrink=False)
        except Exception as error:
            first = (str(error) or type(error).__name__).splitlines()[0]
            print(f"caught by seed {seed}: {first[:70]}")
            return 3
    return 0


if __name__ == "__main__":
    sys.exit(main())
