"""One behaviour for every Embedder, Tokenizer and SparseEncoder."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rag.adapters.embedders.bm25 import Bm25Encoder
from rag.adapters.embedders.minilm import Minilm
from rag.adapters.memory.models import HashEmbedder, WordBm25

HOSTILE = ["", " \n\t", "\x00", "🚀" * 300, "a" * 100_000, "‮evil‬", "one\ud800".encode("utf-8", "replace").decode()]


@pytest.fixture(scope="module", params=["hash", pytest.param("minilm", marks=pytest.mark.heavy)])
def embedder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    makers: dict[str, Callable[[Path], Any]] = {
        "hash": lambda _: HashEmbedder(),
        "minilm": lambda folder: Minilm.load(folder, threads=1),
    }
    return makers[request.param](tmp_path_factory.mktemp("models"))


@pytest.fixture(params=[WordBm25, Bm25Encoder])
def encoder(request: pytest.FixtureRequest) -> Any:
    return request.param()


async def test_every_text_gets_a_unit_vector_in_order(embedder: Any) -> None:
    texts = ["the pump leaks", "holiday policy", "the pump leaks"]
    vectors = await embedder.embed(texts)
    assert [v.shape for v in vectors] == [(embedder.dimensions,)] * 3
    assert {v.dtype for v in vectors} == {np.dtype(np.float32)}
    assert [float(np.linalg.norm(v)) for v in vectors] == pytest.approx([1, 1, 1], abs=1e-5)
    assert vectors[0] @ vectors[2] > 0.9999
    assert vectors[0] @ vectors[1] < 0.9


async def test_batch_mates_do_not_matter(embedder: Any) -> None:
    (alone,) = await embedder.embed(["the pump leaks"])
    mates = ["word " * n for n in range(1, 60, 4)]
    together = (await embedder.embed([*mates, "the pump leaks", *mates]))[len(mates)]
    assert alone @ together > 0.9999


async def test_a_question_finds_its_text(embedder: Any) -> None:
    query = await embedder.embed_query("pump leaks")
    near, far = await embedder.embed(["the pump leaks", "annual holiday"])
    assert query @ near > query @ far


async def test_hostile_texts_get_vectors_too(embedder: Any) -> None:
    vectors = await embedder.embed(HOSTILE)
    assert np.linalg.norm(np.stack(vectors), axis=1) == pytest.approx(1, abs=1e-5)


async def test_a_text_within_the_limit_is_not_cut_and_one_over_it_is(embedder: Any) -> None:
    full = " ".join(["pump"] * (embedder.max_tokens - 1))
    assert len(embedder.spans(full)) == embedder.max_tokens - 1
    within, other, over, cut = await embedder.embed(
        [full + " valve", full + " seal", full + " valve seal", full + " valve"]
    )
    assert within @ other < 0.999999, "the last token within the limit counts"
    assert over @ cut > 0.999999, "the first one beyond it does not"


def test_spans_are_in_order_and_within_the_text(embedder: Any) -> None:
    for text in [*HOSTILE, "Zoë paid €5 — in 東京."]:
        spans = embedder.spans(text)
        assert all(0 <= start < end <= len(text) for start, end in spans)
        assert list(spans) == sorted(spans)
    assert [("Pay 5.")[a:b] for a, b in embedder.spans("Pay 5.")] == ["Pay", "5", "."]


def test_an_embedder_declares_its_identity(embedder: Any) -> None:
    assert embedder.name
    assert len(embedder.fingerprint) == 16


def test_sparse_weights_are_positive_sorted_and_the_texts_own(encoder: Any) -> None:
    texts = ["pump pump valve", "holiday policy", *HOSTILE]
    vectors = encoder.encode(texts)
    assert len(vectors) == len(texts)
    for text, vector in zip(texts, vectors, strict=True):
        assert vector.indices.dtype == np.uint32
        assert vector.values.dtype == np.float32
        assert vector.indices.tolist() == sorted(set(vector.indices.tolist()))
        assert (vector.values > 0).all()
        assert encoder.encode([text])[0].values.tolist() == vector.values.tolist()


def test_a_sparse_question_meets_the_texts_that_have_its_terms(encoder: Any) -> None:
    query, (pump, holiday) = encoder.encode_query("the PUMP"), encoder.encode(["pump valve", "holiday policy"])
    assert set(query.indices.tolist()) & set(pump.indices.tolist())
    assert not set(query.indices.tolist()) & set(holiday.indices.tolist())
