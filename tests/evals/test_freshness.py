from __future__ import annotations

import asyncio
import math

import pytest

from evals import freshness
from evals.freshness import _figures, _series, _until


async def test_a_change_that_is_never_found_is_counted_and_not_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    async def never() -> bool:
        return False

    monkeypatch.setattr(freshness, "LONGEST", 0.01)
    assert await _until(never) is None
    figures = _figures("edit", [0.2, None, 0.1])
    assert (figures.n, figures.missed, figures.p50, figures.slowest) == (3, 1, 0.1, 0.2)
    assert math.isnan(_figures("edit", [None]).p95)


async def test_changes_start_by_the_clock_and_not_when_the_one_before_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    running, most = 0, 0

    async def change(number: int) -> float:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0.05)
        running -= 1
        return float(number)

    monkeypatch.setattr(freshness, "EVERY", 0.001)
    assert await _series(change, 4, start=18) == [18.0, 19.0, 0.0, 1.0]
    assert most == 4
