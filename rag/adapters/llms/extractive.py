"""Answers without a language model: the best sentences of the sources, verbatim, each with its marker."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from rag.answer.generation import abstention, cite
from rag.answer.passages import Passage, passages, terms
from rag.models import Answer, Hit, Vector
from rag.ports import Embedder

_CANDIDATES = 16  # passages that are embedded for a question; this number keeps an answer near 0.1 s on two cores
_MIN_TERMS = 3  # of a passage; a shorter one ("3.", "Deductibles") has no meaning by itself
_MAX_SENTENCES = 3  # of an answer
_SECOND_SHARE, _THIRD_SHARE = 0.6, 0.8  # minimum score of a second and third sentence, as a share of the best score
_REDUNDANCY = 0.5  # of maximal marginal relevance: the penalty for similarity to a chosen sentence
_COSINE, _OVERLAP, _CHUNK = 1.0, 0.5, 0.15  # weights of a sentence's score
_WHOLE_CHUNKS = 3  # hits whose whole chunk is compared with the question
# Weights of the evidence: nearest passage, nearest chunk, share of the question's terms in one chunk, a name that no hit has.
_NEAR_PASSAGE, _NEAR_CHUNK, _COVERAGE, _UNKNOWN_NAME = 0.5, 1.0, 0.25, 0.4

THRESHOLD = 0.75
"""Evidence below which the generator abstains, for the cosines of all-MiniLM-L6-v2. Another embedder needs a threshold of its own.

Measured with ``evals/abstention.py`` (2026-11, eight hits per question): the last threshold that loses about 5% of the sample corpus's
questions, which share few words with their sources. Unanswerable questions refused / answerable questions lost:

    threshold   sample (16 / 56)   northwind (45 / 250)   enterprise (- / 235)
    0.70        50% /  5%          49% / 0.0%             0.0%
    0.75        56% /  7%          53% / 0.0%             0.0%
    0.80        63% / 14%          58% / 0.0%             0.0%
    0.85        75% / 21%          60% / 0.4%             0.4%

All of northwind's off-topic questions are refused. The corpus nearly answers most of the others in its list ("What is the policy for
coverage of rehabilitation services?"). Cosines and terms cannot distinguish a fact from the same fact about someone else.
"""

_WORD = re.compile(r"[^\W_]+(?:[-.][^\W_]+)*")
_MAX_CAPITALS = 0.4  # share of capitalised words; above it, capitals do not mark names (German nouns, headlines)
_REFERENCE = re.compile(r"\[(\d[\d\s,;]*)\]")


class Candidate(NamedTuple):
    hit: Hit
    passage: Passage
    overlap: float  # share of the question's terms in the passage


class Scored(NamedTuple):
    hit: Hit
    passage: Passage
    vector: Vector
    score: float


@dataclass(frozen=True, slots=True)
class Evidence:
    """Evidence that the hits answer a question: the cosines of the nearest passage and of the nearest chunk, the share of the question's
    terms in the best chunk, and whether the question has a name that is in no hit ("Heron R3", "Singapore")."""

    passage: float
    chunk: float
    coverage: float
    unknown_name: bool

    @property
    def score(self) -> float:
        return (
            _NEAR_PASSAGE * self.passage
            + _NEAR_CHUNK * self.chunk
            + _COVERAGE * self.coverage
            - _UNKNOWN_NAME * self.unknown_name
        )


class ExtractiveGenerator:
    """Generator of ``rag.ports``. Deterministic. It abstains when the evidence scores under ``threshold``."""

    name = "extractive"

    def __init__(self, embedder: Embedder, *, threshold: float = THRESHOLD) -> None:
        self._embedder = embedder
        self._threshold = threshold

    async def generate(self, question: str, hits: Sequence[Hit]) -> Answer:
        scored, evidence = await self.score(question, hits)
        if not scored or evidence.score < self._threshold:
            return abstention(self.name)
        parts, citations = [], []
        for marker, each in enumerate(_choose(scored), 1):
            parts.append(f"{_sentence(each.passage.display)} [{marker}]")
            citations.append(cite(marker, each.hit, each.passage))
        return Answer(" ".join(parts), tuple(citations), self.name)

    async def score(self, question: str, hits: Sequence[Hit]) -> tuple[list[Scored], Evidence]:
        """Return the scored candidates, best first, and the evidence of all hits together."""
        question_terms = terms(question)
        candidates = _candidates(question_terms, hits)
        if not candidates:
            return [], Evidence(0.0, 0.0, 0.0, unknown_name=False)
        query = await self._embedder.embed_query(question)
        inputs = [hit.chunk.input for hit in hits[:_WHOLE_CHUNKS]]
        vectors = await self._embedder.embed([*inputs, *(each.passage.display for each in candidates)])
        cosines = [float(query @ vector) for vector in vectors]
        highest = max(hit.score for hit in hits) or 1.0
        scored = [
            Scored(
                each.hit,
                each.passage,
                vector,
                _COSINE * cosine + _OVERLAP * each.overlap + _CHUNK * each.hit.score / highest,
            )
            for each, vector, cosine in zip(candidates, vectors[len(inputs) :], cosines[len(inputs) :], strict=True)
        ]
        coverage = max(len(question_terms & terms(hit.chunk.input)) for hit in hits) / max(1, len(question_terms))
        evidence = Evidence(
            max(cosines[len(inputs) :]), max(cosines[: len(inputs)]), coverage, _has_unknown_name(question, hits)
        )
        return sorted(scored, key=lambda each: -each.score), evidence


def _candidates(question_terms: set[str], hits: Sequence[Hit]) -> list[Candidate]:
    """Return the passages that share most terms with the question. Among equals, those of better hits come first."""
    ranked = []
    for rank, hit in enumerate(hits):
        for passage in passages(hit.chunk):
            passage_terms = terms(passage.display)
            if len(passage_terms) >= _MIN_TERMS:
                overlap = len(question_terms & passage_terms) / max(1, len(question_terms))
                ranked.append((overlap - 0.02 * rank, Candidate(hit, passage, overlap)))
    ranked.sort(key=lambda pair: -pair[0])
    return [candidate for _, candidate in ranked[:_CANDIDATES]]


def _has_unknown_name(question: str, hits: Sequence[Hit]) -> bool:
    """Return whether the question has a name that is in no hit. A name is a word with a digit, or any word but the first with a capital."""
    words = _WORD.findall(question)
    capitals = {word for word in words[1:] if word[0].isupper() and word != "I"}
    numbers = {word for word in words if any(character.isdigit() for character in word)}
    names = numbers | (capitals if len(capitals) <= _MAX_CAPITALS * len(words) else set())
    known = " ".join(f"{hit.provenance.title} {hit.chunk.input}" for hit in hits).casefold()
    return any(name.casefold() not in known for name in names)


def _choose(scored: Sequence[Scored]) -> list[Scored]:
    """Choose by maximal marginal relevance: the best sentence, then sentences that are nearly as good and differ from it."""
    chosen = [scored[0]]
    for share in (_SECOND_SHARE, _THIRD_SHARE)[: _MAX_SENTENCES - 1]:
        texts = {each.passage.display for each in chosen}
        rest = [each for each in scored if each.score >= share * scored[0].score and each.passage.display not in texts]
        if rest:
            chosen.append(max(rest, key=lambda each: _gain(each, chosen)))
    return chosen


def _gain(candidate: Scored, chosen: Sequence[Scored]) -> float:
    return candidate.score - _REDUNDANCY * max(float(candidate.vector @ each.vector) for each in chosen)


def _sentence(text: str) -> str:
    """Return the text as a sentence. A source's own ``[3]`` would look like a marker, so it becomes ``(3)``. A row gets a full stop."""
    text = _REFERENCE.sub(r"(\1)", text)
    return text if text.endswith((".", "!", "?", "…", "。", "！", "？")) else f"{text}."
