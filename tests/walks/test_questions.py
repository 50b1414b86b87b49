"""The second walk in memory: a caller asks the gateway, and gets an answer with its evidence from documents that they may see."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import replace

import pytest
from prometheus_client import REGISTRY

from rag.adapters.memory.models import WordOverlap
from rag.answer.answering import CANDIDATES
from rag.errors import Unavailable
from rag.models import Embedding, Hit, Point
from tests.fakes.gateway import Gateway, gateway
from tests.fakes.world import IDS, SPEC, TEXT, World

QUESTION = "How many ropes hold a zeppelin?"


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture
async def door(world: World) -> AsyncIterator[Gateway]:
    await world.pipeline.prepare()
    async with gateway(world) as opened:
        yield opened


async def test_a_question_is_answered_with_a_quote_that_stands_in_the_source(world: World, door: Gateway) -> None:
    await world.put("handbook/mooring.md", title="Mooring handbook")
    await world.put("galley.md", "# Galley\n\nSoup is served at noon.\n")
    await world.run_lane()
    answer = await door.ask("alice", QUESTION)
    assert "Three ropes hold a zeppelin" in answer["answer"]
    assert (answer["abstained"], answer["cached"], answer["index_version"]) == (False, False, SPEC.index_id)
    citation = answer["citations"][0]
    row = await world.row("handbook/mooring.md")
    assert (citation["uri"], citation["title"]) == ("s3://docs/handbook/mooring.md", "Mooring handbook")
    parsed = await world.pipeline.artifacts.parsed(next(key for key in row.artifacts if key.endswith("parsed.json")))
    assert parsed.text[citation["start"] : citation["end"]] == citation["quote"]
    assert (citation["topic"], citation["partition"], citation["offset"]) == (
        row.cause.topic, row.cause.partition, row.cause.offset,
    )  # fmt: skip
    assert citation["source_version"] == row.version


async def test_a_question_that_no_document_answers_is_answered_by_an_abstention(world: World, door: Gateway) -> None:
    await world.put("a.md")
    await world.run_lane()
    answer = await door.ask("alice", "Which submarine won the regatta of Brno?")
    assert answer["abstained"]
    assert answer["citations"] == []


async def test_a_point_that_the_ledger_does_not_vouch_for_is_dropped(world: World, door: Gateway) -> None:
    """The vector index is not the judge: what a crash or a stranger left there is never shown."""
    await world.put("a.md")
    await world.run_lane()
    chunk_id, _ = await anext(world.vectors.scroll(SPEC.index_id))
    (point,) = await world.vectors.retrieve(SPEC.index_id, [chunk_id])
    text = "Forty ropes hold a zeppelin."
    forged = point.payload | {"text": text, "start": 0, "end": len(text)}
    (dense,) = await world.embedder.embed([QUESTION])  # as near to the question as can be
    await world.vectors.upsert(SPEC.index_id, [Point("forged", Embedding(dense, point.embedding.sparse), forged)])
    dropped = REGISTRY.get_sample_value("tidemark_hits_dropped_total") or 0
    hits = await door.search("alice", QUESTION)
    assert hits
    assert "Forty" not in str(hits)
    assert REGISTRY.get_sample_value("tidemark_hits_dropped_total") == dropped + 1
    assert "Forty" not in str(await door.ask("alice", QUESTION))


async def test_the_reranker_decides_the_order_of_many_candidates(world: World) -> None:
    class Watching(WordOverlap):
        offered = 0

        async def rerank(self, question: str, hits: Sequence[Hit], *, limit: int) -> list[Hit]:
            self.offered = len(hits)
            return await super().rerank(question, hits, limit=limit)

    world.reranker = reranker = Watching()
    for number in range(CANDIDATES + 10):
        await world.put(f"{number}.md", f"# Zeppelin {number}\n\nA zeppelin and ropes, number {number}.\n")
    await world.put("exact.md", "# Exact\n\nHow many ropes hold a zeppelin? Seven ropes hold a zeppelin.\n")
    await world.run_lane()
    async with gateway(world) as door:
        hits = await door.search("alice", QUESTION, top_k=3)
    assert reranker.offered == CANDIDATES
    assert len(hits) == 3
    assert hits[0]["uri"] == "s3://docs/exact.md"
    assert hits[0]["score"] >= hits[1]["score"] >= hits[2]["score"]


async def test_a_reranker_that_does_not_answer_costs_order_and_not_the_answer(world: World) -> None:
    class Broken(WordOverlap):
        async def rerank(self, question: str, hits: Sequence[Hit], *, limit: int) -> list[Hit]:
            raise Unavailable("the reranker does not answer")

    world.reranker = Broken()
    await world.put("a.md")
    await world.run_lane()
    async with gateway(world) as door:
        assert "Three ropes" in (await door.ask("alice", QUESTION))["answer"]


async def test_an_answer_is_cached_until_a_document_changes(world: World, door: Gateway) -> None:
    await world.put("a.md")
    await world.run_lane()
    first, second = await door.ask("alice", QUESTION), await door.ask("alice", f"  {QUESTION} ")
    assert (first["cached"], second["cached"]) == (False, True)
    assert (second["answer"], second["citations"]) == (first["answer"], first["citations"])
    await world.put("a.md", TEXT.replace("Three", "Nine"))
    await world.run_lane()
    third = await door.ask("alice", QUESTION)
    assert not third["cached"]
    assert "Nine ropes" in third["answer"]
    assert "Three ropes" not in str(third)


async def test_callers_who_may_not_see_a_document_get_neither_its_text_nor_its_cached_answer(
    world: World, door: Gateway
) -> None:
    await world.put("a.md")
    await world.run_lane()
    assert "Three ropes" in (await door.ask("alice", QUESTION))["answer"]
    for other in ("bob", "eve"):
        assert await door.search(other, QUESTION) == []
        answer = await door.ask(other, QUESTION)
        assert (answer["abstained"], answer["cached"]) == (True, False)
        assert "ropes" not in answer["answer"].lower()
    for path, body in (("/v1/search", {"query": QUESTION}), ("/v1/answers", {"question": QUESTION})):
        assert await door.status("", path, **body) == 401
        assert await door.status("nobody", path, **body) == 403


async def test_a_caller_who_loses_access_loses_the_cached_answer(world: World, door: Gateway) -> None:
    await world.put("hr/plan.md")
    await world.run_lane()
    assert "Three ropes" in (await door.ask("alice", QUESTION))["answer"]
    world.source = replace(world.source, rules={"hr/": ("group:people",)})
    await world.announce("hr/plan.md")
    await world.run_lane()
    answer = await door.ask("alice", QUESTION)
    assert (answer["abstained"], answer["cached"]) == (True, False)


async def test_a_stream_ends_with_the_answer_that_a_plain_request_gets(world: World, door: Gateway) -> None:
    await world.put("a.md")
    await world.run_lane()
    events = await door.stream("alice", QUESTION)
    names = [name for name, _ in events]
    assert names[-2:] == ["citations", "done"]
    assert set(names[:-2]) == {"delta"}
    plain = await door.ask("alice", QUESTION)
    assert events[-1][1]["answer"] == plain["answer"]
    assert events[-2][1]["citations"] == plain["citations"]
    assert plain["cached"]


async def test_filters_narrow_and_cannot_widen(world: World, door: Gateway) -> None:
    await world.put("a.md")
    await world.put("b.md", "# Ropes\n\nRopes of hemp hold a zeppelin as well.\n")
    await world.put("finance/c.md", "# Ropes\n\nSilk ropes cost more.\n")
    await world.run_lane()
    document_id = IDS.document_id("acme", "s3", "s3://docs/b.md")
    hits = await door.search("alice", "ropes", filters={"document_id": document_id})
    assert {hit["uri"] for hit in hits} == {"s3://docs/b.md"}
    hidden = IDS.document_id("acme", "s3", "s3://docs/finance/c.md")
    assert await door.search("alice", "ropes", filters={"document_id": hidden}) == []
    assert await door.status("alice", "/v1/search", query="ropes", filters={"principals": "group:finance"}) == 400
