"""Through Cohere's real client, over HTTP."""

import pytest

from rag.adapters.providers import RetryPolicy
from rag.adapters.rerankers.cohere import CohereReranker
from rag.errors import Unavailable
from tests.fakes.cohere import FakeCohere
from tests.fakes.hits import hit
from tests.fakes.openai import Scripted

HITS = [hit("annual holiday"), hit("the pump leaks oil"), hit("pump")]


@pytest.fixture
def reranker(cohere_url: str, retry: RetryPolicy) -> CohereReranker:
    return CohereReranker("co-test", base_url=cohere_url, model="rerank-v3.5", retry=retry)


async def test_hits_come_best_first_with_the_rerankers_scores(cohere: FakeCohere, reranker: CohereReranker) -> None:
    found = await reranker.rerank("pump leaks", HITS, limit=2)
    assert [(each.chunk.text, each.score) for each in found] == [("the pump leaks oil", 1.0), ("pump", 0.5)]
    assert cohere.requests[0]["model"] == "rerank-v3.5"
    assert cohere.requests[0]["top_n"] == 2


async def test_a_limit_over_the_number_of_hits_gives_them_all(reranker: CohereReranker) -> None:
    assert len(await reranker.rerank("pump", HITS, limit=50)) == 3


async def test_nothing_to_rerank_causes_no_request(cohere: FakeCohere, reranker: CohereReranker) -> None:
    assert await reranker.rerank("pump", [], limit=5) == []
    assert await reranker.rerank("pump", HITS, limit=0) == []
    assert cohere.requests == []


async def test_a_busy_service_is_asked_again_by_us_alone(
    cohere: FakeCohere, reranker: CohereReranker, waits: list[float]
) -> None:
    cohere.script.append(Scripted(429, {"Retry-After": "1"}))
    assert len(await reranker.rerank("pump", HITS, limit=2)) == 2
    assert (waits, len(cohere.requests)) == ([1], 2)


@pytest.mark.parametrize("status", [429, 500, 503])
async def test_a_service_that_stays_down_is_unavailable(
    cohere: FakeCohere, reranker: CohereReranker, status: int
) -> None:
    cohere.script.extend([Scripted(status)] * 9)
    with pytest.raises(Unavailable, match=f"reranker rerank-v3.5 answers {status} after 3 tries"):
        await reranker.rerank("pump", HITS, limit=2)


async def test_a_wrong_key_or_no_service_is_unavailable(cohere_url: str, retry: RetryPolicy) -> None:
    with pytest.raises(Unavailable, match="401"):
        await CohereReranker("co-wrong", cohere_url, retry=retry).rerank("pump", HITS, limit=2)
    with pytest.raises(Unavailable, match="does not answer"):
        await CohereReranker("co-test", "http://127.0.0.1:1", retry=retry).rerank("pump", HITS, limit=2)


async def test_results_that_were_not_asked_for_are_refused(cohere: FakeCohere, reranker: CohereReranker) -> None:
    cohere.invent = True
    with pytest.raises(Unavailable, match="for 3 documents"):
        await reranker.rerank("pump", HITS, limit=2)
