from __future__ import annotations

import pytest

from evals.figures import Aim, Figure, GroupResult


@pytest.mark.parametrize(
    ("sign", "value", "reached"),
    [("<=", 10, True), ("<=", 10.1, False), (">=", 10, True), (">=", 9.9, False), ("==", 10, True), ("==", 11, False)],
)
def test_an_aim_holds_at_its_limit_and_not_beyond(sign: str, value: float, reached: bool) -> None:
    figure = Figure("figure", value, aim=Aim(sign, 10))
    assert figure.is_reached is reached
    assert figure.share_of_aim == value / 10


def test_without_a_limit_nothing_is_reached_or_divided() -> None:
    assert (Figure("figure", 1).is_reached, Figure("figure", 1).share_of_aim) == (None, None)
    assert Figure("figure", 1, aim=Aim("==", 0)).share_of_aim is None


def test_a_group_is_wrong_when_it_failed_or_broke_a_promise_and_not_when_it_was_slow() -> None:
    slow, broken = Figure("slow", 11, aim=Aim("<=", 10)), Figure("lost", 1, aim=Aim("==", 0), is_required=True)
    assert GroupResult("group", (slow,)).is_right
    assert not GroupResult("group", (slow, broken)).is_right
    assert not GroupResult("group", failure="Unavailable: gone").is_right
    assert GroupResult("group", skipped="not here").is_right
