"""Through LlamaIndex's real OpenAI class, over HTTP."""

import os
from collections.abc import Callable

import numpy as np
import pytest
from llama_index.embeddings.openai import OpenAIEmbedding

from rag.adapters.embedders.hosted import HostedEmbedder
from rag.adapters.providers import RetryPolicy
from rag.errors import ObjectUnavailable, Unavailable
from tests.fakes.openai import FakeOpenAI, Scripted

Make = Callable[..., HostedEmbedder]


@pytest.fixture
def make(openai: FakeOpenAI, openai_url: str, retry: RetryPolicy) -> Make:
    def made(
        *, key: str = "sk-test", timeout: float = 5.0, dimensions: int = 32, url: str = openai_url
    ) -> HostedEmbedder:
        embedding = OpenAIEmbedding(
            model_name="any-model", api_base=url, api_key=key, embed_batch_size=8, max_retries=0, timeout=timeout
        )
        return HostedEmbedder(embedding, dimensions=dimensions, max_tokens=100, request_tokens=2000, retry=retry)

    return made


async def test_vectors_are_the_providers_normalised_and_in_order(openai: FakeOpenAI, make: Make) -> None:
    texts = [f"text number {n}" for n in range(20)]
    vectors = await make().embed(texts)
    for text, vector in zip(texts, vectors, strict=True):
        expected = openai.vector(text)
        assert vector @ (expected / np.linalg.norm(expected)) > 0.999999
        assert np.linalg.norm(vector) == pytest.approx(1, abs=1e-6)


async def test_batches_keep_to_the_providers_limits_of_texts_and_tokens(openai: FakeOpenAI, make: Make) -> None:
    openai.most_tokens = 2000
    vectors = await make().embed(["word " * 90] * 50 + ["short"] * 9)
    assert len(vectors) == 59
    assert max(len(request["input"]) for request in openai.requests) == 8


async def test_tokens_limit_a_batch_before_the_count_does(
    openai: FakeOpenAI, openai_url: str, retry: RetryPolicy
) -> None:
    openai.most_tokens = 300
    embedding = OpenAIEmbedding(
        model_name="m", api_base=openai_url, api_key="sk-test", embed_batch_size=8, max_retries=0
    )
    embedder = HostedEmbedder(embedding, dimensions=32, max_tokens=100, request_tokens=300, retry=retry)
    assert len(await embedder.embed(["word " * 90] * 10)) == 10
    assert max(len(request["input"]) for request in openai.requests) == 3


async def test_a_text_over_the_limit_is_cut_and_an_empty_one_is_not_sent_empty(openai: FakeOpenAI, make: Make) -> None:
    vectors = await make().embed(["word " * 5000, "", "  \n", "🚀" * 300, "<|endoftext|>"])
    assert len(vectors) == 5


async def test_a_busy_provider_is_retried_at_the_time_that_it_names(
    openai: FakeOpenAI, make: Make, waits: list[float]
) -> None:
    openai.script.extend([Scripted(429, {"Retry-After": "7"}), Scripted(503)])
    (vector,) = await make().embed(["hello"])
    assert vector.shape == (32,)
    assert len(openai.requests) == 3
    assert waits[0] == 7
    assert 0.7 <= waits[1] <= 1.3


async def test_a_provider_that_stays_busy_is_unavailable_and_its_words_are_not_repeated(
    openai: FakeOpenAI, make: Make
) -> None:
    openai.script.extend([Scripted(429, {"Retry-After": "2"})] * 9)
    with pytest.raises(Unavailable, match="embedder any-model answers 429 after 3 tries") as raised:
        await make().embed(["hello"])
    assert raised.value.retry_after == 2
    assert "document" not in str(raised.value)


async def test_a_wait_that_is_too_long_is_left_to_the_caller(
    openai: FakeOpenAI, make: Make, waits: list[float]
) -> None:
    openai.script.append(Scripted(429, {"Retry-After": "600"}))
    with pytest.raises(Unavailable) as raised:
        await make().embed_query("hello")
    assert (raised.value.retry_after, waits, len(openai.requests)) == (600, [], 1)


async def test_a_wrong_key_is_not_tried_again(openai: FakeOpenAI, make: Make) -> None:
    with pytest.raises(Unavailable, match="401 after 1 tries: check the API key"):
        await make(key="sk-wrong").embed(["hello"])
    assert len(openai.requests) == 1


async def test_a_provider_that_hangs_or_is_not_there_is_unavailable(openai: FakeOpenAI, make: Make) -> None:
    openai.script.extend([Scripted(hang=2)] * 3)
    with pytest.raises(Unavailable, match="does not answer"):
        await make(timeout=0.2).embed(["hello"])
    with pytest.raises(Unavailable, match="does not answer"):
        await make(url="http://127.0.0.1:1/v1").embed_query("hello")


async def test_other_dimensions_than_set_are_refused(make: Make) -> None:
    with pytest.raises(Unavailable, match="returned 32 dimensions, but 384 are set"):
        await make(dimensions=384).embed(["hello"])


async def test_a_question_is_embedded_like_a_text(make: Make) -> None:
    embedder = make()
    assert (await embedder.embed_query("hello")) @ (await embedder.embed(["hello"]))[0] > 0.999999


def test_spans_cover_the_text_without_a_network(make: Make) -> None:
    text = "Zoë paid 🚀🚀 €5 in 東京 <|endoftext|>"
    spans = make().spans(text)
    assert "".join(text[start:end] for start, end in spans) == text
    assert all(start < end for start, end in spans)
    assert os.environ["TIKTOKEN_CACHE_DIR"].endswith("tiktoken_cache")


def test_dimensions_and_model_are_in_the_fingerprint(make: Make) -> None:
    assert make().fingerprint == make().fingerprint != make(dimensions=16).fingerprint


async def test_a_refused_input_is_found_in_its_batch_and_refused_alone(openai: FakeOpenAI, make: Make) -> None:
    openai.refused = "forbidden"
    with pytest.raises(ObjectUnavailable, match="refuses an input") as raised:
        await make().embed([*(f"text {n}" for n in range(7)), "a forbidden text"])
    assert raised.value.reason == "embedder_refused"
    assert "forbidden" not in str(raised.value)
    assert len(await make().embed(["text"])) == 1


async def test_a_batch_that_is_too_large_for_the_provider_is_halved(openai: FakeOpenAI, make: Make) -> None:
    openai.most_inputs = 3
    assert len(await make().embed([f"text {n}" for n in range(8)])) == 8


async def test_a_provider_that_refuses_every_input_is_an_outage(openai: FakeOpenAI, make: Make) -> None:
    openai.refused = ""
    with pytest.raises(Unavailable, match="answers 400") as raised:
        await make().embed(["a text", "another"])
    assert not isinstance(raised.value, ObjectUnavailable)
