"""Units of a text: it may be cut between blocks, sentences, clauses and words, and each unit knows its tokens."""

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
    """Stretch of text that is not cut: a sentence, row or line, or part of an oversized one. ``strength`` is of the boundary before it."""

    start: int
    end: int
    tokens: int
    strength: int
    block: Block


def units_of(text: str, blocks: Sequence[Block], tokenizer: Tokenizer, budget: int) -> Iterator[Unit]:
    """Yield the units of every block, of at most ``budget`` tokens each. Each block is tokenized once."""
    for block in blocks:
        count_tokens = _TokenCounter(tokenizer, text[block.start : block.end], block.start)
        strength = BLOCK
        for start, end, level in _sentences(text, block):
            for part in _parts(text, start, end, count_tokens, budget, strength):
                yield Unit(*part, block)
            strength = level


class _TokenCounter:
    """Token counts of parts of a text that is tokenized once. An oversized token (a hash, base64) counts by its length."""

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
_LONGEST_WORD = 64  # characters; a longer word is cut at this length


def _sentences(text: str, block: Block) -> Iterator[tuple[int, int, int]]:
    """Yield (start, end, strength of the boundary after it) of each sentence, line or row, without the white space in between."""
    if block.kind in {BlockKind.ROW, BlockKind.HEADING}:
        yield block.start, block.end, BLOCK
        return
    pattern = _LINE if block.kind in {BlockKind.CODE, BlockKind.RECORD} else sentences.END
    start = block.start
    for match in pattern.finditer(text, block.start, block.end):
        is_abbreviation = pattern is sentences.END and sentences.is_abbreviation(text, start, match.end())
        if match.end() < block.end and not is_abbreviation:
            yield start, start + len(text[start : match.end()].rstrip()), SENTENCE
            start = match.end()
    yield start, block.end, BLOCK


CountTokens = Callable[[int, int], int]  # (start, end) → tokens
_FINER = ((_CLAUSE, CLAUSE), (_SPACE, WORD))


def _parts(
    text: str,
    start: int,
    end: int,
    count_tokens: CountTokens,
    budget: int,
    strength: int,
    finer: Sequence[tuple[re.Pattern[str], int]] = _FINER,
) -> Iterator[tuple[int, int, int, int]]:
    """Yield (start, end, tokens, strength): the whole text when it fits, else its clauses, else their words, else stretches of a word."""
    tokens = count_tokens(start, end)
    if tokens <= budget:
        yield start, end, max(tokens, 1), strength
    elif not finer:
        for at in range(start, end, _LONGEST_WORD):
            yield (
                at,
                min(at + _LONGEST_WORD, end),
                min(max(count_tokens(at, at + _LONGEST_WORD), _LONGEST_WORD // 4), budget),
                strength,
            )
            strength = WORD
    else:
        pattern, level = finer[0]
        at = start
        for match in (*pattern.finditer(text, start, end), None):
            until = end if match is None else at + len(text[at : match.end()].rstrip())
            if until > at:
                yield from _parts(text, at, until, count_tokens, budget, strength, finer[1:])
                strength = level
            at = end if match is None else match.end()
