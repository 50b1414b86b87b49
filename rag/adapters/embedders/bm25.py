"""BM25 term weights from the Qdrant engine's own encoder: tokenised, stemmed and hashed, without a download.

The encoder gives the term-frequency part. The collection multiplies it by the inverse document frequency (its ``idf`` modifier).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from qdrant_edge import Bm25, Bm25Config

from rag import ids
from rag.models import SparseVector

# Mean number of terms in a chunk, without stop words. The engine's default, 256, is for whole pages. This number must never change:
# all weights depend on it, so a running mean would change the weights of old chunks with every new one.
AVERAGE_TERMS = 100.0


class Bm25Encoder:
    """SparseEncoder of ``rag.ports``. Pure: the weights of a text depend on the text alone."""

    def __init__(self, *, language: str = "english", average_terms: float = AVERAGE_TERMS) -> None:
        self._encoder = Bm25(Bm25Config(language=language, avg_len=average_terms, ascii_folding=True))
        # The engine's version is left out, because the golden test fails when an upgrade changes the weights.
        self.fingerprint = ids.fingerprint(
            {"encoder": "qdrant-bm25", "language": language, "avg_len": average_terms, "ascii_folding": True}
        )

    def encode(self, texts: Sequence[str]) -> Sequence[SparseVector]:
        return [_vector(self._encoder.embed_document(text)) for text in texts]

    def encode_query(self, text: str) -> SparseVector:
        return _vector(self._encoder.embed_query(text))


def _vector(encoded: object) -> SparseVector:
    """Return the weights sorted by index, so that equal vectors are equal bytes."""
    indices = np.array(encoded.indices, np.uint32)  # type: ignore[attr-defined]
    values = np.array(encoded.values, np.float32)  # type: ignore[attr-defined]
    order = np.argsort(indices)
    return SparseVector(indices[order], values[order])
