"""Answers without a language model: the sentences of the sources that answer best, verbatim, each with its marker."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from rag.answer.generation import abstention, cite
from rag.answer.passages import Passage, passages, terms
from rag.models import Answer, Hit, Vector
from rag.ports import Embedder

_CANDIDATES = 16  # passages whose vectors are computed for a question: what keeps an answer near 0.1 s on two cores
_LEAST_TERMS = 3  # less than that ("3.", "Deductibles") says nothing by itself
_MOST = 3  # sentences of an answer
_SECOND_SHARE, _THIRD_SHARE = 0.6, 0.8  # what a further sentence must score, as a share of the best one
_REDUNDANCY = 0.5  # of maximal marginal relevance: what being like a chosen sentence costs
_COSINE, _OVERLAP, _CHUNK = 1.0, 0.5, 0.15  # weights of a sentence's score
_READ_WHOLE = 3  # hits whose chunk as a whole is compared with the question
# Of the evidence: the nearest passage, the nearest chunk, the question's terms in one chunk, a name that no hit has.
_NEAR_PASSAGE, _NEAR_CHUNK, _COVERAGE, _UNKNOWN_NAME = 0.5, 1.0, 0.25, 0.4

THRESHOLD = 0.75
"""Evidence under which nothing is said, for the cosines of all-MiniLM-L6-v2; another embedder needs a threshold of its own.

Found by ``evals/abstention.py`` (2026-11, eight hits a question) as the last one that loses about 5% of the sample corpus's questions,
which share few words with their sources. Unanswerable questions refused / answerable ones lost:

    threshold   sample (16 / 56)   northwind (45 / 250)   enterprise (- / 235)
    0.70        50% /  5%          49% / 0.0%             0.0%
    0.75        56% /  7%          53% / 0.0%             0.0%
    0.80        63% / 14%          58% / 0.0%             0.0%
    0.85        75% / 21%          60% / 0.4%             0.4%

All of northwind's off-topic questions are refused; of the others in its list most are nearly answered by the corpus ("What is the
policy for coverage of rehabilitation services?"). Cosines and terms cannot tell a thing from the same thing said of somebody else.
"""

_WORD = re.compile(r"[^\W_]+(?:[-.][^\W_]+)*")
_NAMES_AT_MOST = 0.4  # share of capitalised words over which capitals name nothing: German nouns, shouting
_REFERENCE = re.compile(r"\[(\d[\d\s,;]*)\]")


class Candidate(NamedTuple):
    hit: Hit
    passage: Passage
    overlap: float  # share of the question's terms that it has


class Scored(NamedTuple):
    hit: Hit
    passage: Passage
    vector: Vector
    score: float


@dataclass(frozen=True, slots=True)
class Evidence:
    """What the hits say to the question: cosines of the nearest passage and of the nearest chunk, the share of the question's terms
    that the best chunk has, and whether the question names something that no hit does ("Heron R3", "Singapore")."""

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
    """Generator. Deterministic; abstains when the evidence scores under ``threshold``."""

    name = "extractive"

    def __init__(self, embedder: Embedder, *, threshold: float = THRESHOLD) -> None:
        self._embedder = embedder
        self._threshold = threshold

    async def generate(self, question: str, hits: Sequence[Hit]) -> Answer:
        scored, evidence = await self.weigh(question, hits)
        if not scored or evidence.score < self._threshold:
            return abstention(self.name)
        parts, citations = [], []
        for marker, each in enumerate(_choose(scored), 1):
            parts.append(f"{_sentence(each.passage.display)} [{marker}]")
            citations.append(cite(marker, each.hit, each.passage))
        return Answer(" ".join(parts), tuple(citations), self.name)

    async def weigh(self, question: str, hits: Sequence[Hit]) -> tuple[list[Scored], Evidence]:
        """The candidates, best first, and what they are worth together."""
        wanted = terms(question)
        candidates = _candidates(wanted, hits)
        if not candidates:
            return [], Evidence(0.0, 0.0, 0.0, unknown_name=False)
        query = await self._embedder.embed_query(question)
        whole = [hit.chunk.input for hit in hits[:_READ_WHOLE]]
        vectors = await self._embedder.embed([*whole, *(each.passage.display for each in candidates)])
        cosines = [float(query @ vector) for vector in vectors]
        highest = max(hit.score for hit in hits) or 1.0
        scored = [
            Scored(
                each.hit,
                each.passage,
                vector,
                _COSINE * cosine + _OVERLAP * each.overlap + _CHUNK * each.hit.score / highest,
            )
            for each, vector, cosine in zip(candidates, vectors[len(whole) :], cosines[len(whole) :], strict=True)
        ]
        covered = max(len(wanted & terms(hit.chunk.input)) for hit in hits) / max(1, len(wanted))
        evidence = Evidence(
            max(cosines[len(whole) :]), max(cosines[: len(whole)]), covered, _names_something_else(question, hits)
        )
        return sorted(scored, key=lambda each: -each.score), evidence


def _candidates(wanted: set[str], hits: Sequence[Hit]) -> list[Candidate]:
    """The passages that share most with the question, those of better hits first among equals."""
    found = []
    for rank, hit in enumerate(hits):
        for passage in passages(hit.chunk):
            has = terms(passage.display)
            if len(has) >= _LEAST_TERMS:
                overlap = len(wanted & has) / max(1, len(wanted))
                found.append((overlap - 0.02 * rank, Candidate(hit, passage, overlap)))
    found.sort(key=lambda pair: -pair[0])
    return [candidate for _, candidate in found[:_CANDIDATES]]


def _names_something_else(question: str, hits: Sequence[Hit]) -> bool:
    """A name is a word with a capital (not the first) or a digit."""
    words = _WORD.findall(question)
    capitals = {word for word in words[1:] if word[0].isupper() and word != "I"}
    numbers = {word for word in words if any(character.isdigit() for character in word)}
    names = numbers | (capitals if len(capitals) <= _NAMES_AT_MOST * len(words) else set())
    known = " ".join(f"{hit.provenance.title} {hit.chunk.input}" for hit in hits).casefold()
    return any(name.casefold() not in known for name in names)


def _choose(scored: Sequence[Scored]) -> list[Scored]:
    """Maximal marginal relevance: the best, then what is nearly as good and says something else."""
    chosen = [scored[0]]
    for share in (_SECOND_SHARE, _THIRD_SHARE)[: _MOST - 1]:
        said = {each.passage.display for each in chosen}
        rest = [each for each in scored if each.score >= share * scored[0].score and each.passage.display not in said]
        if rest:
            chosen.append(max(rest, key=lambda each: _gain(each, chosen)))
    return chosen


def _gain(each: Scored, chosen: Sequence[Scored]) -> float:
    return each.score - _REDUNDANCY * max(float(each.vector @ one.vector) for one in chosen)


def _sentence(text: str) -> str:
    """A source's own ``[3]`` would read as a marker; a row without a full stop would run into the next sentence."""
    text = _REFERENCE.sub(r"(\1)", text)
    return text if text.endswith((".", "!", "?", "…", "。", "！", "？")) else f"{text}."
