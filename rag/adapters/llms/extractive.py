"""Answers without a language model: the sentences of the sources that answer best, verbatim, each with its marker."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from rag.generation import abstention, cite
from rag.models import Answer, Hit, Vector
from rag.passages import Passage, passages, terms
from rag.ports import Embedder

_CANDIDATES = 16  # passages whose vectors are computed for a question: what keeps an answer near 0.1 s on two cores
_LEAST_TERMS = 3  # less than that ("3.", "Deductibles") says nothing by itself
_MOST = 3  # sentences of an answer
_SECOND_SHARE, _THIRD_SHARE = 0.6, 0.8  # what a further sentence must score, as a share of the best one
_REDUNDANCY = 0.5  # of maximal marginal relevance: what being like a chosen sentence costs
_COSINE, _OVERLAP, _CHUNK = 1.0, 0.5, 0.15  # weights of a sentence's score
_COVERAGE = 0.25  # weight of the terms that the best chunk has, in the evidence

THRESHOLD = 0.72
"""Evidence under which nothing is said, for the cosines of all-MiniLM-L6-v2; another embedder needs a threshold of its own.

Found by ``evals/abstention.py`` (2026-11, eight hits a question): it refuses 60% of northwind's 45 questions marked as unanswerable,
0.4% of its 250 answerable ones, and 3% of 235 questions on the enterprise set. All questions off the topic are refused; of the 18 that
are not, most are nearly answered by the corpus ("What is the policy for coverage of rehabilitation services?"). At 0.80 one more would
be refused, for 11% of the enterprise questions; at 0.65 two less, for 0.4%.
"""

_REFERENCE = re.compile(r"\[(\d[\d\s,;]*)\]")


class Scored(NamedTuple):
    hit: Hit
    passage: Passage
    vector: Vector
    cosine: float
    score: float


@dataclass(frozen=True, slots=True)
class Evidence:
    """What the hits say to the question: ``cosine`` of the nearest passage, and ``coverage``, the share of the question's terms that
    the best chunk has."""

    cosine: float
    coverage: float

    @property
    def score(self) -> float:
        return self.cosine + _COVERAGE * self.coverage


class ExtractiveGenerator:
    """Generator. Deterministic; abstains when the evidence scores under ``threshold``."""

    name = "extractive"

    def __init__(self, embedder: Embedder, *, threshold: float = THRESHOLD) -> None:
        self._embedder = embedder
        self._threshold = threshold

    async def generate(self, question: str, hits: Sequence[Hit]) -> Answer:
        scored = await self.score(question, hits)
        if not scored or evidence(question, scored).score < self._threshold:
            return abstention(self.name)
        parts, citations = [], []
        for marker, each in enumerate(_choose(scored), 1):
            parts.append(f"{_sentence(each.passage.reads)} [{marker}]")
            citations.append(cite(marker, each.hit, each.passage))
        return Answer(" ".join(parts), tuple(citations), self.name)

    async def score(self, question: str, hits: Sequence[Hit]) -> list[Scored]:
        """The candidates, best first."""
        wanted = terms(question)
        highest = max((hit.score for hit in hits), default=0.0) or 1.0
        rough = []
        for rank, hit in enumerate(hits):
            for passage in passages(hit.chunk):
                has = terms(passage.reads)
                if len(has) < _LEAST_TERMS:
                    continue
                overlap = len(wanted & has) / max(1, len(wanted))
                rough.append((overlap - 0.02 * rank, overlap, hit, passage))
        rough.sort(key=lambda each: -each[0])
        candidates = rough[:_CANDIDATES]
        if not candidates:
            return []
        query = await self._embedder.embed_query(question)
        vectors = await self._embedder.embed([passage.reads for _, _, _, passage in candidates])
        scored = []
        for (_, overlap, hit, passage), vector in zip(candidates, vectors, strict=True):
            cosine = float(query @ vector)
            score = _COSINE * cosine + _OVERLAP * overlap + _CHUNK * hit.score / highest
            scored.append(Scored(hit, passage, vector, cosine, score))
        return sorted(scored, key=lambda each: -each.score)


def evidence(question: str, scored: Sequence[Scored]) -> Evidence:
    """Of scored passages, at least one."""
    wanted = terms(question)
    chunks = {each.hit.chunk.chunk_id: each.hit.chunk for each in scored}
    return Evidence(
        max(each.cosine for each in scored),
        max(len(wanted & terms(chunk.input)) for chunk in chunks.values()) / max(1, len(wanted)),
    )


def _choose(scored: Sequence[Scored]) -> list[Scored]:
    """Maximal marginal relevance: the best, then what is nearly as good and says something else."""
    chosen = [scored[0]]
    for share in (_SECOND_SHARE, _THIRD_SHARE)[: _MOST - 1]:
        said = {each.passage.reads for each in chosen}
        rest = [each for each in scored if each.score >= share * scored[0].score and each.passage.reads not in said]
        if rest:
            chosen.append(max(rest, key=lambda each: _gain(each, chosen)))
    return chosen


def _gain(each: Scored, chosen: Sequence[Scored]) -> float:
    return each.score - _REDUNDANCY * max(float(each.vector @ one.vector) for one in chosen)


def _sentence(text: str) -> str:
    """A source's own ``[3]`` would read as a marker; a row without a full stop would run into the next sentence."""
    text = _REFERENCE.sub(r"(\1)", text)
    return text if text.endswith((".", "!", "?", "…", "。", "！", "？")) else f"{text}."
