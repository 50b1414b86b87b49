"""Invented documents and questions: the same in every run, and without a model or a corpus."""

from __future__ import annotations

import random

SEED = 9
WORDS = 4_000  # of the invented vocabulary, used as often as words of a language are: the nth word 1/n times
BYTES = 2_000  # of a document
WORDS_OF_A_LINE = 12


def texts(number: int, *, seed: int = SEED, size: int = BYTES) -> list[str]:
    """Return ``number`` Markdown documents of ``size`` bytes, or a line more."""
    words = generator(seed)
    return [text(each, words, size) for each in range(number)]


def text(number: int, words: random.Random, size: int = BYTES) -> str:
    lines, length = [f"# Record {number}", ""], 0
    while length < size:
        line = f"{' '.join(_words(words, WORDS_OF_A_LINE)).capitalize()}."
        lines += [line, ""]
        length += len(line) + 2
    return "\n".join(lines)


def questions(number: int, *, seed: int = SEED) -> list[str]:
    words = generator(seed + 1_000)
    return [" ".join(_words(words, 5)) for _ in range(number)]


def generator(seed: int) -> random.Random:
    return random.Random(seed)  # noqa: S311  (words, not secrets)


def _words(words: random.Random, number: int) -> list[str]:
    return [f"w{min(WORDS, int(words.paretovariate(1.0)))}ord" for _ in range(number)]
