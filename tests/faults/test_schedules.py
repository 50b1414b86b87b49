"""Schedules of changes, workers, readers and faults: no search is ever wrong, and the repaired index equals a clean build.

``make faults N=1000 SEED=7`` runs any number of schedules of any seed, and ``make mutations`` proves that they can fail.
"""

from __future__ import annotations

import pytest

from tests.faults.schedules import run

SEEDS, SCHEDULES = 4, 125  # 500 schedules, in parts that run side by side


@pytest.mark.timeout(900)  # a failed schedule is shrunk first, which takes minutes
@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.heavy) for seed in range(1, SEEDS))])
def test_no_search_is_wrong_and_every_repaired_index_equals_a_clean_build(seed: int) -> None:
    run(SCHEDULES, seed)
