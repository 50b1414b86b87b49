from __future__ import annotations

from evals.bm25 import Bm25


def test_the_document_with_the_rarer_word_comes_first() -> None:
    bm25 = Bm25({"a": "the pump of the river", "b": "the sensor of the river", "c": "the river"})
    assert bm25.rank("sensor river")[0] == "b"


def test_the_shorter_of_two_documents_with_the_word_comes_first() -> None:
    bm25 = Bm25({"long": "pump " + "filler " * 50, "short": "pump filler"})
    assert bm25.rank("pump") == ["short", "long"]


def test_a_repeated_word_counts_less_each_time() -> None:
    bm25 = Bm25({"both": "alpha beta x x", "one": "alpha alpha alpha alpha", "none": "x x x x"})
    assert bm25.rank("alpha beta") == ["both", "one"]


def test_without_a_common_word_no_document_is_ranked() -> None:
    assert Bm25({"a": "words", "empty": ""}).rank("other") == []
    assert Bm25({}).rank("other") == []
