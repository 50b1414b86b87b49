"""What retrieval and answers are worth, as pure functions. Documents are named by any string; each counts once, at its best rank."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

import rag  # noqa: F401 - importing rag turns off the telemetry of ragas

RESAMPLES = 2000  # enough for the second digit of a 95% interval
_SEED = 20_26
_FOLDED = str.maketrans({**dict.fromkeys("\"“”„‟'‘’`´", "·"), "|": " "})  # | parts cells


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean over ``n`` values with its bootstrap interval."""

    mean: float
    low: float
    high: float
    n: int

    def __str__(self) -> str:
        return f"{self.mean:.3f} ({self.low:.3f}..{self.high:.3f})"


def recall_at(ranked: Iterable[str], gold: Collection[str], k: int) -> float:
    """Share of the gold documents among the first ``k`` distinct ones."""
    _check(gold)
    return len(set(distinct(ranked)[:k]) & set(gold)) / len(set(gold))


def reciprocal_rank(ranked: Iterable[str], gold: Collection[str]) -> float:
    """1 / rank of the first gold document, 0 when there is none. Its mean over questions is MRR."""
    _check(gold)
    return next((1 / rank for rank, name in enumerate(distinct(ranked), 1) if name in gold), 0.0)


def ndcg_at(ranked: Iterable[str], gold: Collection[str], k: int) -> float:
    """Discounted cumulative gain, 1 / log2(rank + 1) for a gold document, as a share of what the best order would have.

    Järvelin and Kekäläinen (2002) with binary gains.
    """
    _check(gold)
    gains = [1 / math.log2(rank + 1) for rank in range(1, k + 1)]
    got = sum(gain for gain, name in zip(gains, distinct(ranked), strict=False) if name in gold)
    return got / sum(gains[: len(set(gold))])


def distinct(ranked: Iterable[str]) -> list[str]:
    """Chunks of a document follow one another in a ranking: the document stands where its best chunk does."""
    return list(dict.fromkeys(ranked))


def estimate(values: Sequence[float], *, confidence: float = 0.95, seed: int = _SEED) -> Estimate:
    """Mean with a percentile bootstrap interval over the values (Efron 1979). The same values give the same interval.

    For two systems on the same questions pass the differences: an interval without 0 tells them apart.
    """
    if not values:
        raise ValueError("no values, no mean: the question set is empty")
    given = np.asarray(values, np.float64)
    drawn = np.random.default_rng(seed).integers(0, len(given), (RESAMPLES, len(given)))
    tail = (1 - confidence) / 2
    low, high = np.quantile(given[drawn].mean(axis=1), [tail, 1 - tail])
    return Estimate(float(given.mean()), float(low), float(high), len(given))


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest value that at least ``share`` of the values do not exceed (nearest rank: a value that was measured)."""
    if not values or not 0 < share <= 1:
        raise ValueError(f"percentile {share} of {len(values)} values")
    return sorted(values)[math.ceil(share * len(values)) - 1]


async def quote_alignment(quotes: Sequence[str], source: str) -> float:
    """Share of the quotes that stand word for word in ``source``: ragas' QuotedSpansAlignment, case kept, quotes of any length.

    ragas looks for text between any two quotation marks, an apostrophe being one, so marks within quote and source are folded to
    one neutral sign first; white space and the lines between cells count as one blank. An empty quote is not aligned.
    """
    if not quotes:
        raise ValueError("no quotes to align: an abstention has no alignment")
    context = _folded(source)
    scores = []
    for quote in quotes:
        folded = _folded(quote)
        found = await _quoted_spans().ascore(response=f'"{folded}"', retrieved_contexts=[context])
        scores.append(float(found.value) if folded else 0.0)
    return sum(scores) / len(scores)


def _folded(text: str) -> str:
    return " ".join(text.translate(_FOLDED).split())


@cache
def _quoted_spans() -> Any:
    # Imported at the first call, because the import takes seconds.
    from ragas.metrics.collections.quoted_spans import QuotedSpansAlignment

    return QuotedSpansAlignment(casefold=False, min_span_words=1)


def _check(gold: Collection[str]) -> None:
    if not gold:
        raise ValueError("no gold documents: leave unanswerable questions out of retrieval metrics")
