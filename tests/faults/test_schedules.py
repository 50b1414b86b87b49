"""Schedules of changes, workers, readers and faults: no search is ever wrong, and the repaired index equals a clean build.

``make faults N=1000 SEED=7`` runs any number of schedules of any seed, and ``make mutations`` proves that they can fail.
"""

from __future__ import annotations

import pytest

from tests.faults.schedules import run

QUICK = pytest.param(0, 20)
THOROUGH = [pytest.param(seed, 120, marks=pytest.mark.heavy) for seed in range(1, 5)]  # parts run side by side


@pytest.mark.timeout(900)  # a failed schedule is shrunk first, which takes minutes
@pytest.mark.parametrize(("seed", "schedules"), [QUICK, *THOROUGH])
def test_no_search_is_wrong_and_every_repaired_index_equals_a_clean_build(seed: int, schedules: int) -> None:
    run(schedules, seed)
