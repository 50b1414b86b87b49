from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rag.adapters.fusion import MIN_DEPTH, RRF_K, depth, fuse


def test_the_score_is_the_sum_of_reciprocal_ranks() -> None:
    (first, score), *others = fuse([["a", "b"], ["b", "c"]], 10)
    assert first == "b"
    assert score == pytest.approx(1 / (RRF_K + 1) + 1 / RRF_K)
    assert [name for name, _ in others] == ["a", "c"]


def test_agreement_of_both_lists_outweighs_the_first_rank_of_one() -> None:
    fused = fuse([["only", "x", "both"], ["y", "both", "z"]], 3)
    assert fused[0][0] == "both"


def test_equal_scores_are_in_order_of_id() -> None:
    assert [name for name, _ in fuse([["b"], ["a"]], 2)] == ["a", "b"]


def test_enough_candidates_are_ranked_for_any_limit() -> None:
    assert (depth(1), depth(1000)) == (MIN_DEPTH, 2000)


rankings = st.lists(st.lists(st.sampled_from("abcdefgh"), unique=True), max_size=3)


@given(rankings, st.integers(0, 10))
def test_a_fusion_has_every_id_once_best_first_within_its_limit(lists: list[list[str]], limit: int) -> None:
    fused = fuse(lists, limit)
    names = {name for ranking in lists for name in ranking}
    assert len(fused) == min(limit, len(names))
    assert len({name for name, _ in fused}) == len(fused)
    assert fused == sorted(fused, key=lambda each: (-each[1], each[0]))
    assert fused == fuse(lists, 100)[:limit]
