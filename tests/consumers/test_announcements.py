from __future__ import annotations

from dataclasses import dataclass

import pytest

from consumers.announcements import Announcements
from rag.ports import TopicState

A = {"a": (False, "1")}


@dataclass
class Clock:
    now: float = 0.0

    def __call__(self) -> float:
        return self.now


def log(end: int, *, first: int = 0, epoch: str = "e") -> TopicState:
    return TopicState("t", epoch, {0: (first, end), 1: (0, 0)})


def announced(clock: Clock) -> Announcements:
    """``a`` was announced at offset 4."""
    entries = Announcements(900, clock)
    assert entries.due(A, log(4), {0: 4}, 0.0) == {"a"}
    entries.note_differences(A, log(5))
    return entries


def test_a_change_that_waits_in_the_log_is_never_announced_again() -> None:
    clock = Clock()
    entries = announced(clock)
    clock.now = 1_000_000
    assert entries.due(A, log(9), {0: 4}, clock.now) == set()
    assert entries.due(A, log(9), {}, clock.now) == set()


def test_a_change_that_was_read_and_not_applied_is_announced_after_the_time_limit() -> None:
    clock = Clock()
    entries = announced(clock)
    clock.now = 899
    assert entries.due(A, log(5), {0: 5}, clock.now) == set()
    clock.now = 900
    assert entries.due(A, log(5), {0: 5}, clock.now) == {"a"}


def test_another_change_of_the_object_is_announced_as_soon_as_the_first_was_read() -> None:
    clock = Clock()
    entries = announced(clock)
    newer = {"a": (False, "2")}
    assert entries.due(newer, log(5), {0: 4}, 1.0) == set()  # the reader of the waiting event finds the current state
    assert entries.due(newer, log(5), {0: 5}, 1.0) == {"a"}


@pytest.mark.parametrize(
    ("now", "positions"),
    [(log(0, epoch="recreated"), {}), (log(4), {0: 4}), (log(9, first=6), {0: 3})],
    ids=["recreated", "lost tail", "purged"],
)
def test_a_change_whose_event_the_log_lost_is_announced_at_once(now: TopicState, positions: dict[int, int]) -> None:
    assert announced(Clock()).due(A, now, positions, 1.0) == {"a"}


def test_an_applied_change_is_forgotten() -> None:
    clock = Clock()
    entries = announced(clock)
    clock.now = 1
    assert entries.due({}, log(5), {0: 5}, 1.0) == set()
    assert entries.due(A, log(5), {0: 5}, 1.0) == {"a"}


def test_a_change_that_a_stream_announced_waits_too_and_is_announced_once_it_was_read_without_effect() -> None:
    clock = Clock()
    entries = Announcements(900, clock)
    entries.note(["a"])
    assert entries.due(A, log(5), {0: 4}, 0.0) == set()
    assert entries.due(A, log(5), {0: 5}, 0.0) == {"a"}
