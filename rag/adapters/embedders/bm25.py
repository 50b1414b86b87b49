"""BM25 term weights by the Qdrant engine's own encoder: tokenised, stemmed, hashed; no download.

It emits the term-frequency part; the collection multiplies the inverse document frequency (its ``idf`` modifier).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from qdrant_edge import Bm25, Bm25Config

from rag import ids
from rag.models import SparseVector

# Mean terms of a chunk after stop words. The engine's default, 256, is for whole pages; what matters is that it never moves:
# a weight depends on it, so a running mean would change old chunks' weights with every new one.
AVERAGE_TERMS = 100.0


class Bm25Encoder:
    """SparseEncoder. Pure: the weights of a text depend on the text alone."""

    def __init__(self, *, language: str = "english", average_terms: float = AVERAGE_TERMS) -> None:
        self._encoder = Bm25(Bm25Config(language=language, avg_len=average_terms, ascii_folding=True))
        # The engine's version is left out: the golden test says when an upgrade changes the weights.
        self.fingerprint = ids.fingerprint(
            {"encoder": "qdrant-bm25", "language": language, "avg_len": average_terms, "ascii_folding": True}
        )

    def encode(self, texts: Sequence[str]) -> Sequence[SparseVector]:
        return [_vector(self._encoder.embed_document(text)) for text in texts]

    def encode_query(self, text: str) -> SparseVector:
        return _vector(self._encoder.embed_query(text))


def _vector(found: object) -> SparseVector:
    """Sorted by index, so that equal vectors are equal bytes."""
    indices = np.array(found.indices, np.uint32)  # type: ignore[attr-defined]
    values = np.array(found.values, np.float32)  # type: ignore[attr-defined]
    order = np.argsort(indices)
    return SparseVector(indices[order], values[order])
