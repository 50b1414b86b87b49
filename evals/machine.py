"""The machine of a bench, and how busy it was."""

from __future__ import annotations

import os
import platform
import time
from dataclasses import dataclass

ROUNDS = 200_000  # of the yardstick, about 20 ms
REPEATS = 15


@dataclass(frozen=True, slots=True)
class Machine:
    """``pace`` is rounds a second of one thread in millions, at best: a yardstick between runs and machines."""

    cores: int
    processor: str
    python: str
    load_before: float
    load_after: float
    pace_before: float
    pace_after: float


@dataclass(frozen=True, slots=True)
class Reading:
    load: float
    pace: float


def read() -> Reading:
    return Reading(os.getloadavg()[0], max(_pace() for _ in range(REPEATS)) / 1e6)


def between(before: Reading, after: Reading) -> Machine:
    return Machine(
        cores=os.cpu_count() or 1,
        processor=_processor(),
        python=platform.python_version(),
        load_before=before.load,
        load_after=after.load,
        pace_before=before.pace,
        pace_after=after.pace,
    )


def _pace() -> float:
    began, total = time.perf_counter(), 0
    for number in range(ROUNDS):
        total += number & 7
    return ROUNDS / (time.perf_counter() - began)


def _processor() -> str:
    try:
        with open("/proc/cpuinfo") as file:
            return next(line.partition(":")[2].strip() for line in file if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
