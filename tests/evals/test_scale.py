"""The arithmetic of the groups that compare sizes and numbers of workers."""

from __future__ import annotations

import pytest

from evals import growth, two_workers
from evals.generated_texts import BYTES
from evals.growth import Cost, median_cost
from evals.loading import Loading
from evals.process_cpu import BENCH
from evals.two_workers import Rate


def test_the_cost_of_a_document_is_the_median_over_portions_without_the_bench() -> None:
    portions = [Loading(10, wall, {"lane": cpu, BENCH: 50.0}) for wall, cpu in ((1.0, 0.2), (2.0, 0.4), (90.0, 0.3))]
    assert median_cost(1000, portions) == Cost(1000, pytest.approx(0.03), pytest.approx(0.2))


def test_growth_is_a_ratio_of_costs_at_the_counted_sizes() -> None:
    cpu, wall = growth.figures(Cost(1_010, 0.010, 0.02), Cost(100_200, 0.0105, 0.03), 200)
    assert cpu.name == "CPU of a document at 100,200 chunks / 1,010"
    assert cpu.value == pytest.approx(1.05)
    assert wall.value == pytest.approx(1.5)
    assert (cpu.is_reached, wall.is_reached) == (True, False)


@pytest.mark.parametrize(("machine", "reason"), [(0.95, "CPU binds"), (0.5, "CPU does not bind")])
def test_two_workers_are_compared_with_one_and_the_binding_resource_is_named(machine: float, reason: str) -> None:
    figure = two_workers.figure(Rate(1, 1000, 100.0, 0.5, 0.7, {}), Rate(2, 1000, 150.0, 0.8, machine, {"lane": 1.0}))
    assert (figure.value, figure.is_reached) == (1.5, False)
    assert reason in figure.note


def test_filler_never_makes_more_chunks_than_are_missing_except_by_one_small_document() -> None:
    for missing in (1, 50, 105, 106, 1_000, 99_000):
        number, size = growth.filler(missing)
        assert 1 <= number <= growth.AT_ONCE
        assert number * size <= max(BYTES, missing * growth.CHUNK_BYTES)
    assert growth.filler(99_000) == (growth.AT_ONCE, growth.FILLER_BYTES)
