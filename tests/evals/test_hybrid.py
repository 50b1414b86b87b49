import numpy as np
import pytest

from evals.hybrid import HybridIndex
from rag.adapters.fusion import RRF_K
from rag.adapters.memory.models import HashEmbedder, WordBm25

TEXTS = ["the pump is cleaned", "the sensor drifts", "the pump is a pump"]


def index() -> HybridIndex:
    return HybridIndex(TEXTS, np.eye(3, dtype=np.float32), WordBm25())


def test_both_rankings_are_fused_with_the_constant_of_the_vector_index() -> None:
    ranked = dict(index().search("sensor", np.array([0, 1, 0.5], np.float32)))
    assert ranked[1] == pytest.approx(1 / RRF_K + 1 / RRF_K)
    assert ranked[2] == pytest.approx(1 / (RRF_K + 1))
    assert ranked[0] == pytest.approx(1 / (RRF_K + 2))


def test_the_best_row_is_first_and_a_rare_term_outweighs_a_common_one() -> None:
    rows = [row for row, _ in index().search("the sensor", np.array([0, 0.9, 1], np.float32))]
    assert rows[0] == 1


async def test_an_embedders_vectors_fit() -> None:
    embedder = HashEmbedder()
    dense = np.stack(await embedder.embed(TEXTS))
    (best, _), *_ = HybridIndex(TEXTS, dense, WordBm25()).search(TEXTS[1], await embedder.embed_query(TEXTS[1]))
    assert best == 1
