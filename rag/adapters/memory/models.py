"""Models without weights, for tests: deterministic, done in microseconds, and under the same contracts as the real ones."""

from __future__ import annotations

import re
import zlib
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from rag import ids
from rag.models import Hit, SparseVector, Vector

_TOKEN = re.compile(r"\w+|[^\w\s]")


class HashEmbedder:
    """Embedder and Tokenizer. A text's vector is the bag of its words, hashed into signed dimensions. ``embedded`` counts texts."""

    def __init__(self, dimensions: int = 64, *, max_tokens: int = 256) -> None:
        self.name = f"hash-{dimensions}"
        self.dimensions = dimensions
        self.max_tokens = max_tokens
        self.fingerprint = ids.fingerprint({"model": "hash", "dimensions": dimensions, "max_tokens": max_tokens})
        self.embedded = 0

    async def embed(self, texts: Sequence[str]) -> Sequence[Vector]:
        self.embedded += len(texts)
        return [self._vector(text) for text in texts]

    async def embed_query(self, text: str) -> Vector:
        return self._vector(text)

    def spans(self, text: str) -> Sequence[tuple[int, int]]:
        return [match.span() for match in _TOKEN.finditer(text)]

    def _vector(self, text: str) -> Vector:
        vector = np.zeros(self.dimensions, np.float32)
        for token in _TOKEN.findall(text.lower())[: self.max_tokens]:
            number = zlib.crc32(token.encode())
            vector[number % self.dimensions] += 1 if number & 0x8000_0000 else -1
        if not vector.any():
            vector[0] = 1
        unit: Vector = vector / np.linalg.norm(vector)
        return unit


class WordBm25:
    """SparseEncoder with lower-case words and saturated counts."""

    fingerprint = ids.fingerprint({"encoder": "words"})

    def encode(self, texts: Sequence[str]) -> Sequence[SparseVector]:
        return [self._weights(text, lambda count: 2.2 * count / (count + 1.2)) for text in texts]

    def encode_query(self, text: str) -> SparseVector:
        return self._weights(text, lambda _: 1.0)

    @staticmethod
    def _weights(text: str, weight_of: Callable[[int], float]) -> SparseVector:
        counts = Counter(zlib.crc32(word.encode()) for word in re.findall(r"\w+", text.lower()))
        indices = sorted(counts)
        values = [weight_of(counts[index]) for index in indices]
        return SparseVector(np.array(indices, np.uint32), np.array(values, np.float32))


class KeepOrder:
    """Reranker that keeps the order of the retrieval. It is used when none is configured."""

    name = "none"

    async def rerank(self, question: str, hits: Sequence[Hit], *, limit: int) -> list[Hit]:
        return list(hits[:limit])


class WordOverlap:
    """Reranker by the share of the question's words that a chunk has."""

    name = "words"

    async def rerank(self, question: str, hits: Sequence[Hit], *, limit: int) -> list[Hit]:
        words = set(re.findall(r"\w+", question.lower()))

        def score(hit: Hit) -> float:
            return len(words & set(re.findall(r"\w+", hit.chunk.input.lower()))) / max(1, len(words))

        return sorted((replace(hit, score=score(hit)) for hit in hits), key=lambda hit: -hit.score)[:limit]
