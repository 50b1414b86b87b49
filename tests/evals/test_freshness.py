from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from evals import freshness
from evals.freshness import Series, figures, measure, seconds_until


async def _change(number: int) -> str:
    return f"word {number}"


async def _seen(word: str) -> bool:
    return True


SERIES = Series("edit", _change, _seen, 3, p95=0.15)


async def test_a_change_that_is_never_found_is_missed(monkeypatch: pytest.MonkeyPatch) -> None:
    async def never() -> bool:
        return False

    monkeypatch.setattr(freshness, "LONGEST", 0.01)
    assert await seconds_until(never) is None


def test_a_missed_change_counts_as_late_and_breaks_a_promise() -> None:
    p50, p95, missed = figures(SERIES, [0.2, None, 0.1], one_search=0.01)
    assert (p50.value, p50.n, p95.value, p95.is_reached) == (200, 3, 1000 * freshness.LONGEST, False)
    assert "20.0 times one search" in p50.note
    assert (missed.value, missed.is_required, missed.is_reached) == (1, True, False)
    assert figures(SERIES, [0.1, 0.1], 0.01)[2].is_reached


def test_aims_are_in_milliseconds_and_only_where_one_is_given() -> None:
    p50, p95, _ = figures(SERIES, [0.1, 0.15], one_search=0.01)
    assert (p50.aim, p95.is_reached) == (None, True)
    assert figures(replace(SERIES, p50=0.06), [0.07], 0.01)[0].is_reached is False


async def test_each_change_is_searched_for_by_its_own_word() -> None:
    searched = []

    async def seen(word: str) -> bool:
        searched.append(word)
        return True

    await measure(replace(SERIES, seen=seen, count=1, start=23))
    assert searched == ["word 3"]


async def test_changes_start_by_the_clock_and_not_when_the_one_before_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    running, most = 0, 0

    async def change(number: int) -> str:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0.05)
        running -= 1
        return str(number)

    monkeypatch.setattr(freshness, "EVERY", 0.001)
    assert None not in await measure(replace(SERIES, change=change, count=4))
    assert most == 4
