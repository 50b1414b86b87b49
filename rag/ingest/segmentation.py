"""Where a text may be cut: between blocks, sentences, clauses, words, and how much it weighs in between."""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from itertools import accumulate
from typing import NamedTuple

from rag import sentences
from rag.models import Block, BlockKind
from rag.ports import Tokenizer

WORD, CLAUSE, SENTENCE, BLOCK = range(4)  # strengths of boundaries


class Unit(NamedTuple):
    """What is not cut: a sentence, a row, a line; of an oversized one a part. ``strength`` is of the boundary before it."""

    start: int
    end: int
    tokens: int
    strength: int
    block: Block


def units_of(text: str, blocks: Sequence[Block], tokenizer: Tokenizer, budget: int) -> Iterator[Unit]:
    """Every block in units of at most ``budget`` tokens; each block is tokenized once."""
    for block in blocks:
        weigh = _Weights(tokenizer, text[block.start : block.end], block.start)
        strength = BLOCK
        for start, end, level in _sentences(text, block):
            for part in _parts(text, start, end, weigh, budget, strength):
                yield Unit(*part, block)
            strength = level


class _Weights:
    """Tokens of parts of a text that is tokenized once. A token that stands for a monster weighs by its length."""

    def __init__(self, tokenizer: Tokenizer, text: str, offset: int) -> None:
        spans = tokenizer.spans(text)
        self._starts = [start + offset for start, _ in spans]
        self._sums = list(
            accumulate((1 if end - start <= 32 else (end - start) // 4 for start, end in spans), initial=0)
        )

    def __call__(self, start: int, end: int) -> int:
        return self._sums[bisect_left(self._starts, end)] - self._sums[bisect_left(self._starts, start)]


_LINE = re.compile(r"\n\s*")
_CLAUSE = re.compile(r"(?:[;:,–—]\s+|\s\|\s|\n\s*)")
_SPACE = re.compile(r"\s+")
_LONGEST_WORD = 64  # characters; what is longer is cut where it must be


def _sentences(text: str, block: Block) -> Iterator[tuple[int, int, int]]:
    """(start, end, strength of the boundary after it), without the white space between them."""
    if block.kind in {BlockKind.ROW, BlockKind.HEADING}:
        yield block.start, block.end, BLOCK
        return
    pattern = _LINE if block.kind in {BlockKind.CODE, BlockKind.RECORD} else sentences.END
    start = block.start
    for found in pattern.finditer(text, block.start, block.end):
        is_abbreviation = pattern is sentences.END and sentences.is_abbreviation(text, start, found.end())
        if found.end() < block.end and not is_abbreviation:
            yield start, start + len(text[start : found.end()].rstrip()), SENTENCE
            start = found.end()
    yield start, block.end, BLOCK


Weigh = Callable[[int, int], int]
_FINER = ((_CLAUSE, CLAUSE), (_SPACE, WORD))


def _parts(
    text: str,
    start: int,
    end: int,
    weigh: Weigh,
    budget: int,
    strength: int,
    finer: Sequence[tuple[re.Pattern[str], int]] = _FINER,
) -> Iterator[tuple[int, int, int, int]]:
    """(start, end, tokens, strength): the whole when it fits, else its clauses, of these the words, of these pieces."""
    tokens = weigh(start, end)
    if tokens <= budget:
        yield start, end, max(tokens, 1), strength
    elif not finer:
        for at in range(start, end, _LONGEST_WORD):
            yield (
                at,
                min(at + _LONGEST_WORD, end),
                min(max(weigh(at, at + _LONGEST_WORD), _LONGEST_WORD // 4), budget),
                strength,
            )
            strength = WORD
    else:
        pattern, level = finer[0]
        at = start
        for found in (*pattern.finditer(text, start, end), None):
            until = end if found is None else at + len(text[at : found.end()].rstrip())
            if until > at:
                yield from _parts(text, at, until, weigh, budget, strength, finer[1:])
                strength = level
            at = end if found is None else found.end()
