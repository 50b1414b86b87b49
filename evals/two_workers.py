"""The group ``workers``: two stream lanes compared with one, and the resource that binds."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

import psutil

from evals import process_cpu
from evals.figures import Aim, Figure
from evals.generated_texts import texts
from evals.lane_workers import STACK, lane_workers
from evals.loading import load
from evals.local_stack import temporary_stack
from evals.options import Options, Say
from rag.settings import load as load_settings
from rag.wiring import Services, services

BOUND = 0.85  # of a core's time in use: above it, CPU is the resource that binds
ENVIRONMENT = {"EMBEDDER": "hash"}


@dataclass(frozen=True, slots=True)
class Rate:
    """Documents a second of ``workers`` lanes. ``own`` is the share of all cores that the platform used, ``machine`` that of everything."""

    workers: int
    documents: int
    per_second: float
    own: float
    machine: float
    cpu: process_cpu.Cpu


async def two_workers(options: Options, say: Say) -> list[Figure]:
    """Measure one lane, then two, on documents of their own."""
    async with temporary_stack(keep=options.keep, only=STACK, settings=ENVIRONMENT) as folder:
        settings = load_settings(folder).model_copy(update={"embedder": "hash"})
        async with services(settings) as opened:
            one, two = [await _rate(number, options.documents // 2, folder, opened, say) for number in (1, 2)]
    return [figure(one, two)]


def figure(one: Rate, two: Rate) -> Figure:
    ratio = two.per_second / one.per_second
    return Figure("documents a second of two workers / one", ratio, "", Aim(">=", 1.8), two.documents, why(one, two))


def why(one: Rate, two: Rate) -> str:
    """Name the resource that binds two workers."""
    cores = psutil.cpu_count() or 1
    rates = f"{two.per_second:.0f} / {one.per_second:.0f} a second"
    used = f"one worker used {100 * one.machine:.0f}% of {cores} cores, two {100 * two.machine:.0f}% (the platform {100 * two.own:.0f}%)"
    binds = "CPU binds" if two.machine >= BOUND else "CPU does not bind: documents wait for each other or for a server"
    return f"{rates}; {used}: {binds}; two: {process_cpu.shares(two.cpu)} s of CPU"


async def _rate(number: int, documents: int, folder: Path, opened: Services, say: Say) -> Rate:
    say(f"{documents} documents with {number} stream lane{'s' if number > 1 else ''}")
    async with lane_workers(number, folder, opened, ENVIRONMENT) as lanes:
        await load(texts(40, seed=10 + number), f"warm-up-{number}", opened)
        psutil.cpu_times_percent()
        began, idle = time.perf_counter(), _idle()
        loading = await load(texts(documents, seed=20 + number), f"workers-{number}", opened, own=lanes)
        cores = psutil.cpu_count() or 1
        whole = (time.perf_counter() - began) * cores
        own = process_cpu.of_stack(loading.cpu) / (loading.seconds * cores)
        rate = loading.documents / loading.seconds
        return Rate(number, documents, rate, own, 1 - (_idle() - idle) / whole, loading.cpu)


def _idle() -> float:
    """Return the seconds of all cores so far in which they had nothing to do, or waited for a disk."""
    times = psutil.cpu_times()
    return float(times.idle + getattr(times, "iowait", 0.0))
