from __future__ import annotations

import asyncio
import os

import psutil

from evals.process_cpu import BENCH, of_stack, peak_memory, seconds_of, shares, spent


def test_only_processes_of_both_readings_are_compared() -> None:
    assert seconds_of(psutil.Process(os.getpid())) > 0
    assert spent({"a": 1.0}, {"a": 1.5, "started since": 3.0}) == {"a": 0.5}


def test_the_bench_is_not_a_part_of_the_platform() -> None:
    assert of_stack({"gateway": 1.0, "database": 0.5, BENCH: 9.0}) == 1.5


def test_shares_are_ordered_and_small_ones_are_left_out() -> None:
    assert shares({"small": 0.001, "less": 1.0, "more": 2.0}, 1000) == "more 2000.0, less 1000.0"


async def test_the_peak_of_the_memory_is_remembered_after_it_is_freed() -> None:
    async with peak_memory(psutil.Process(), every=0.001) as peak:
        await asyncio.sleep(0.02)
        before = peak.alone
        held = bytearray(os.urandom(1) * 64 * 2**20)
        await asyncio.sleep(0.05)
        del held
    assert peak.alone >= before + 48 * 2**20
    assert peak.tree >= peak.alone
    assert peak.shared_once >= 64 * 2**20
