from __future__ import annotations

import math
import socket
import sys

import pytest

from evals import metrics
from evals.metrics import distinct, estimate, ndcg_at, percentile, quote_alignment, recall_at, reciprocal_rank


def test_recall_counts_gold_documents_among_the_first_distinct_ones() -> None:
    ranked = ["a", "a", "a", "b", "c"]
    assert recall_at(ranked, ["c"], 2) == 0
    assert recall_at(ranked, ["c"], 3) == 1
    assert recall_at(ranked, ["b", "z"], 5) == 0.5


def test_a_document_has_the_rank_of_its_best_chunk() -> None:
    assert distinct(["b", "a", "b", "c"]) == ["b", "a", "c"]
    assert reciprocal_rank(["b", "b", "a"], ["a"]) == 0.5


def test_reciprocal_rank_is_zero_when_nothing_is_found() -> None:
    assert reciprocal_rank(["a"], ["b"]) == reciprocal_rank([], ["b"]) == 0


def test_ndcg_is_one_for_the_best_order_and_discounts_by_the_logarithm_of_the_rank() -> None:
    assert ndcg_at(["a", "b", "c"], ["a", "b"], 10) == pytest.approx(1)
    assert ndcg_at(["x", "a"], ["a"], 10) == pytest.approx(1 / math.log2(3))
    assert ndcg_at(["x", "a"], ["a"], 1) == 0


@pytest.mark.parametrize("metric", [lambda: recall_at(["a"], [], 1), lambda: reciprocal_rank(["a"], []),
                                    lambda: ndcg_at(["a"], [], 1)])  # fmt: skip
def test_a_question_without_gold_is_refused_instead_of_counted_as_a_miss(metric) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ValueError, match="no gold"):
        metric()


def test_the_same_values_give_the_same_interval_and_the_mean_is_inside() -> None:
    values = [0.0, 1.0] * 50
    first, second = estimate(values), estimate(values)
    assert first == second
    assert first.low < first.mean == 0.5 < first.high
    assert 0.18 < first.high - first.low < 0.22  # 2 * 1.96 * sqrt(0.25 / 100)


def test_more_questions_narrow_the_interval_and_equal_values_close_it() -> None:
    few, many = estimate([0.0, 1.0] * 10), estimate([0.0, 1.0] * 1000)
    assert many.high - many.low < few.high - few.low
    assert (sure := estimate([1.0, 1.0])).low == sure.high == 1


def test_an_estimate_without_values_is_refused() -> None:
    with pytest.raises(ValueError, match="no values"):
        estimate([])


def test_a_percentile_is_a_value_that_was_measured() -> None:
    values = [float(number) for number in range(1, 21)]
    assert percentile(values, 0.5) == 10
    assert percentile(values, 0.95) == 19
    assert percentile(values, 1) == 20
    assert percentile([7.0], 0.95) == 7
    with pytest.raises(ValueError, match="percentile"):
        percentile([], 0.5)


async def test_ragas_finds_a_quote_only_if_it_is_in_the_source() -> None:
    source = "The policy covers\n  travel by train, the company's choice. “Taxis” need a reason."
    assert await quote_alignment(["travel by train, the company's choice."], source) == 1
    assert await quote_alignment(['"Taxis" need a reason.'], source) == 1  # another shape of the same mark
    assert (
        await quote_alignment(["Prague 4,100"], "City | Rate\nPrague | 4,100") == 1
    )  # cells are separated by a space or by a bar
    assert await quote_alignment(["travel by plane"], source) == 0
    assert await quote_alignment(["Travel by train"], source) == 0  # case is part of a quote
    assert await quote_alignment(["policy covers travel", "policy covers taxis"], source) == 0.5


async def test_an_empty_quote_is_not_aligned_and_an_empty_list_is_refused() -> None:
    assert await quote_alignment(["  "], "anything") == 0
    with pytest.raises(ValueError, match="no quotes"):
        await quote_alignment([], "anything")


async def test_ragas_computes_the_alignment_and_opens_no_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a connection was tried")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    metrics._quoted_spans.cache_clear()
    assert await quote_alignment(["a b c"], "a b c d") == 1
    judge = metrics._quoted_spans()
    assert type(judge).__module__ == "ragas.metrics.collections.quoted_spans.metric"
    assert sys.modules["ragas._analytics"].do_not_track()  # type: ignore[attr-defined]
