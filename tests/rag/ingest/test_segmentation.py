from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from rag.ingest.segmentation import BLOCK, CLAUSE, SENTENCE, WORD, Unit, units_of
from rag.models import Block, BlockKind


class Words:
    """A tokenizer of words and marks."""

    def spans(self, text: str) -> Sequence[tuple[int, int]]:
        return [match.span() for match in re.finditer(r"\w+|[^\w\s]", text)]


def units(text: str, budget: int = 50, kind: BlockKind = BlockKind.PARAGRAPH) -> list[tuple[str, int]]:
    """(text, strength of the boundary before it) of each unit of a text of one block."""
    return [(text[unit.start : unit.end], unit.strength) for unit in cut(text, budget, kind)]


def cut(text: str, budget: int = 50, kind: BlockKind = BlockKind.PARAGRAPH) -> list[Unit]:
    return list(units_of(text, [Block(kind, 0, len(text))], Words(), budget))


def test_a_paragraph_is_cut_between_its_sentences() -> None:
    assert units("One rope. Two ropes! Three?") == [
        ("One rope.", BLOCK),
        ("Two ropes!", SENTENCE),
        ("Three?", SENTENCE),
    ]


def test_an_abbreviation_and_a_small_letter_end_no_sentence() -> None:
    assert units("Dr. Lind signs e.g. No. 7. He reads approx. 3.5 pages.") == [
        ("Dr. Lind signs e.g. No. 7.", BLOCK), ("He reads approx. 3.5 pages.", SENTENCE),
    ]  # fmt: skip
    assert units("It cost 5 EUR. and more") == [("It cost 5 EUR. and more", BLOCK)]


def test_chinese_sentences_need_no_space() -> None:
    assert units("一句话。两句话。") == [("一句话。", BLOCK), ("两句话。", SENTENCE)]


def test_rows_and_headings_stay_whole_and_code_is_cut_between_lines() -> None:
    assert units("Basic. | 10. | 1 year.", kind=BlockKind.ROW) == [("Basic. | 10. | 1 year.", BLOCK)]
    assert units("Version 2. What is new", kind=BlockKind.HEADING) == [("Version 2. What is new", BLOCK)]
    assert units("a = 1. B\n  b = 2", kind=BlockKind.CODE) == [("a = 1. B", BLOCK), ("b = 2", SENTENCE)]


def test_a_sentence_over_the_budget_is_cut_into_clauses_then_words() -> None:
    assert units("one two; three four, five", budget=3) == [
        ("one two;", BLOCK),
        ("three four,", CLAUSE),
        ("five", CLAUSE),
    ]
    assert units("one two three", budget=2) == [("one", BLOCK), ("two", WORD), ("three", WORD)]


def test_a_word_without_end_is_cut_by_its_length() -> None:
    found = cut("x" * 1000, budget=20)
    assert [unit.end - unit.start for unit in found] == [64] * 15 + [40]
    assert all(0 < unit.tokens <= 20 for unit in found)


def test_the_first_unit_of_each_block_has_the_strongest_boundary() -> None:
    text = "One. Two.\n\nThree."
    blocks = [Block(BlockKind.PARAGRAPH, 0, 9), Block(BlockKind.LIST_ITEM, 11, 17)]
    found = list(units_of(text, blocks, Words(), 50))
    assert [(text[u.start : u.end], u.strength, u.block) for u in found] == [
        ("One.", BLOCK, blocks[0]), ("Two.", SENTENCE, blocks[0]), ("Three.", BLOCK, blocks[1]),
    ]  # fmt: skip


@given(
    st.lists(
        st.sampled_from(["word", "Sentence.", "x" * 90, "a;", "No.", "\n", "|", "一句话。", "…", " "]),
        min_size=1,
        max_size=60,
    ),
    st.integers(1, 40),
    st.sampled_from(BlockKind),
)
def test_units_keep_every_character_in_order_and_their_budget(parts: list[str], budget: int, kind: BlockKind) -> None:
    text = " ".join(parts)
    found = cut(text, budget, kind)
    assert all(one.end <= other.start for one, other in pairwise(found))
    assert "".join("".join(text[unit.start : unit.end].split()) for unit in found) == "".join(text.split())
    assert all(1 <= unit.tokens <= max(budget, 1) for unit in found)
