"""BM25 over whole documents: the baseline of the evaluations, computed on the same texts in the same run."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Mapping

_WORD = re.compile(r"\w+")
_K1, _B = 1.5, 0.75  # the usual defaults, not tuned on the questions


class Bm25:
    """Okapi BM25 (Robertson and Zaragoza 2009) with an idf that is never negative. Terms are words in lower case."""

    def __init__(self, texts: Mapping[str, str]) -> None:
        """Count the words of ``texts`` (name → text)."""
        self._counts = {name: Counter(_words(text)) for name, text in texts.items()}
        self._lengths = {name: sum(counts.values()) for name, counts in self._counts.items()}
        self._mean = sum(self._lengths.values()) / max(1, len(texts)) or 1.0
        self._document_counts = Counter(word for counts in self._counts.values() for word in counts)

    def rank(self, question: str) -> list[str]:
        """Return the names of the documents that contain a word of the question, best first."""
        scores = {name: self._score(name, _words(question)) for name in self._counts}
        return [name for name in sorted(scores, key=lambda name: (-scores[name], name)) if scores[name] > 0]

    def _score(self, name: str, words: list[str]) -> float:
        counts = self._counts[name]
        norm = _K1 * (1 - _B + _B * self._lengths[name] / self._mean)
        return sum(self._idf(word) * counts[word] * (_K1 + 1) / (counts[word] + norm) for word in words if counts[word])

    def _idf(self, word: str) -> float:
        documents = self._document_counts[word]
        return math.log(1 + (len(self._counts) - documents + 0.5) / (documents + 0.5))


def _words(text: str) -> list[str]:
    return _WORD.findall(text.lower())
