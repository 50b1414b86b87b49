from collections.abc import Sequence

from rag.adapters.memory.models import KeepOrder, WordOverlap
from rag.answer.reranking import rerank
from rag.errors import Unavailable
from rag.models import Hit
from rag.telemetry import RERANK_FALLBACKS
from tests.fakes.hits import hit

HITS = [hit("holiday"), hit("pump oil"), hit("pump")]


class UnavailableReranker:
    name = "unavailable"

    async def rerank(self, question: str, hits: Sequence[Hit], *, limit: int) -> list[Hit]:
        raise Unavailable("the reranker answers 503")


async def test_the_reranker_orders_the_hits() -> None:
    reranked = await rerank("pump", HITS, WordOverlap(), limit=2)
    assert [each.chunk.text for each in reranked.hits] == ["pump oil", "pump"]
    assert not reranked.fell_back


async def test_without_a_reranker_the_order_of_the_retrieval_is_kept() -> None:
    assert (await rerank("pump", HITS, KeepOrder(), limit=2)).hits == HITS[:2]


async def test_an_unavailable_reranker_leaves_the_order_of_the_retrieval_and_is_counted() -> None:
    before = RERANK_FALLBACKS._value.get()
    reranked = await rerank("pump", HITS, UnavailableReranker(), limit=2)
    assert (reranked.hits, reranked.fell_back) == (HITS[:2], True)
    assert RERANK_FALLBACKS._value.get() == before + 1


async def test_without_hits_the_reranker_is_not_called() -> None:
    assert (await rerank("pump", [], UnavailableReranker(), limit=2)).hits == []
