"""Metrics of retrieval and answers, as pure functions. A document has any string as its name and counts once, at its best rank."""

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
_NEUTRAL = str.maketrans({**dict.fromkeys("\"“”„‟'‘’`´", "·"), "|": " "})  # | separates cells


@dataclass(frozen=True, slots=True)
class Estimate:
    """The mean of ``n`` values with its bootstrap interval."""

    mean: float
    low: float
    high: float
    n: int

    def __str__(self) -> str:
        return f"{self.mean:.3f} ({self.low:.3f}..{self.high:.3f})"


def recall_at(ranked: Iterable[str], gold: Collection[str], k: int) -> float:
    """Return the share of the gold documents that are among the first ``k`` distinct documents."""
    _require_gold(gold)
    return len(set(distinct(ranked)[:k]) & set(gold)) / len(set(gold))


def reciprocal_rank(ranked: Iterable[str], gold: Collection[str]) -> float:
    """Return 1 / rank of the first gold document, or 0 without one. The mean over questions is MRR."""
    _require_gold(gold)
    return next((1 / rank for rank, name in enumerate(distinct(ranked), 1) if name in gold), 0.0)


def ndcg_at(ranked: Iterable[str], gold: Collection[str], k: int) -> float:
    """Return the discounted cumulative gain, 1 / log2(rank + 1) for a gold document, as a share of the best order's gain.

    Järvelin and Kekäläinen (2002) with binary gains.
    """
    _require_gold(gold)
    gains = [1 / math.log2(rank + 1) for rank in range(1, k + 1)]
    total = sum(gain for gain, name in zip(gains, distinct(ranked), strict=False) if name in gold)
    return total / sum(gains[: len(set(gold))])


def distinct(ranked: Iterable[str]) -> list[str]:
    """Return each document once, at the rank of its best chunk."""
    return list(dict.fromkeys(ranked))


def estimate(values: Sequence[float], *, confidence: float = 0.95, seed: int = _SEED) -> Estimate:
    """Return the mean with a percentile bootstrap interval (Efron 1979). The same values give the same interval.

    To compare two systems on the same questions, pass the differences. The systems differ if the interval excludes 0.
    """
    if not values:
        raise ValueError("no values to estimate: the question set is empty")
    sample = np.asarray(values, np.float64)
    resamples = np.random.default_rng(seed).integers(0, len(sample), (RESAMPLES, len(sample)))
    tail = (1 - confidence) / 2
    low, high = np.quantile(sample[resamples].mean(axis=1), [tail, 1 - tail])
    return Estimate(float(sample.mean()), float(low), float(high), len(sample))


def percentile(values: Sequence[float], share: float) -> float:
    """Return the smallest value that at least ``share`` of the values do not exceed (nearest rank: one of the values)."""
    if not values or not 0 < share <= 1:
        raise ValueError(
            f"percentile {share} of {len(values)} values: it needs a share in (0, 1] and at least one value"
        )
    return sorted(values)[math.ceil(share * len(values)) - 1]


async def quote_alignment(quotes: Sequence[str], source: str) -> float:
    """Return the share of the quotes that are verbatim in ``source``: ragas' QuotedSpansAlignment, case-sensitive, for any length.

    ragas takes the text between any two quotation marks, and an apostrophe is one. Therefore marks within quotes and source are
    first replaced by a neutral sign. White space and separators of cells count as one space. An empty quote is not aligned.
    """
    if not quotes:
        raise ValueError("no quotes to align: leave abstentions out")
    context = _normalize(source)
    scores = []
    for quote in quotes:
        normalized = _normalize(quote)
        result = await _quoted_spans().ascore(response=f'"{normalized}"', retrieved_contexts=[context])
        scores.append(float(result.value) if normalized else 0.0)
    return sum(scores) / len(scores)


def _normalize(text: str) -> str:
    return " ".join(text.translate(_NEUTRAL).split())


@cache
def _quoted_spans() -> Any:
    # Imported at the first call, because the import takes seconds.
    from ragas.metrics.collections.quoted_spans import QuotedSpansAlignment

    return QuotedSpansAlignment(casefold=False, min_span_words=1)


def _require_gold(gold: Collection[str]) -> None:
    if not gold:
        raise ValueError("no gold documents: leave unanswerable questions out of retrieval metrics")
