from collections.abc import Sequence

from rag.adapters.memory.models import KeepOrder, WordOverlap
from rag.answer.reranking import rerank
from rag.errors import Unavailable
from rag.models import Hit
from rag.telemetry import RERANK_FALLBACKS
from tests.fakes.hits import hit

HITS = [hit("holiday"), hit("pump oil"), hit("pump")]


class Down:
    name = "down"

    async def rerank(self, question: str, hits: Sequence[Hit], *, limit: int) -> list[Hit]:
        raise Unavailable("reranker down answers 503")


async def test_the_reranker_orders_the_hits() -> None:
    done = await rerank("pump", HITS, WordOverlap(), limit=2)
    assert [each.chunk.text for each in done.hits] == ["pump oil", "pump"]
    assert not done.fell_back


async def test_without_a_reranker_the_order_of_the_retrieval_stands() -> None:
    assert (await rerank("pump", HITS, KeepOrder(), limit=2)).hits == HITS[:2]


async def test_a_reranker_that_is_down_costs_order_and_says_so() -> None:
    before = RERANK_FALLBACKS._value.get()
    done = await rerank("pump", HITS, Down(), limit=2)
    assert (done.hits, done.fell_back) == (HITS[:2], True)
    assert RERANK_FALLBACKS._value.get() == before + 1


async def test_no_hits_ask_nobody() -> None:
    assert (await rerank("pump", [], Down(), limit=2)).hits == []
