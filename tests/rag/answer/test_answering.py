from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import replace

import pytest
from prometheus_client import REGISTRY

from governance.access import filter_for
from rag.answer.answering import ATTEMPTS, Answered, Answering
from rag.answer.generation import cite
from rag.answer.passages import passages
from rag.errors import Conflict, Unavailable
from rag.models import Answer, Hit
from tests.fakes.world import IDS, TEXT, World

ACCESS = filter_for(tenant="acme", subject="alice", groups=("staff",))
QUESTION = "How many ropes hold a zeppelin?"


class Writing:
    """A generator that cites the best hit. ``meanwhile`` runs while it writes."""

    name = "writing"

    def __init__(self) -> None:
        self.written = 0
        self.meanwhile: Callable[[], Awaitable[None]] | None = None

    async def generate(self, question: str, hits: Sequence[Hit]) -> Answer:
        self.written += 1
        if self.meanwhile:
            await self.meanwhile()
        passage = passages(hits[0].chunk)[-1]
        return Answer(f"{passage.display} [1]", (cite(1, hits[0], passage),), self.name)


@pytest.fixture
async def world() -> World:
    world = World()
    await world.put("a.md")
    await world.run_lane()
    return world


@pytest.fixture
def generator() -> Writing:
    return Writing()


@pytest.fixture
def answering(world: World, generator: Writing) -> Answering:
    return replace(world.answering, generator=generator)


async def change(world: World, ropes: str) -> None:
    await world.put("a.md", TEXT.replace("Three", ropes))
    await world.run_lane()


async def collected(pieces: AsyncIterator[str | Answered]) -> tuple[list[str], list[Answered]]:
    every = [piece async for piece in pieces]
    return [piece for piece in every if isinstance(piece, str)], [each for each in every if isinstance(each, Answered)]


def answers(outcome: str) -> float:
    labels = {"generator": "writing", "outcome": outcome}
    return REGISTRY.get_sample_value("tidemark_answers_total", labels) or 0.0


async def test_an_answer_comes_with_its_hits_and_the_seconds_of_each_step(answering: Answering) -> None:
    before = answers("fresh")
    answered = await answering.answer(QUESTION, ACCESS)
    assert not answered.is_cached
    assert answered.answer.citations[0].chunk_id in {hit.chunk.chunk_id for hit in answered.hits}
    assert answered.timings.keys() == {"cache", "retrieve", "rerank", "generate", "total"}
    assert answers("fresh") == before + 1


async def test_a_cached_answer_is_not_written_again(answering: Answering, generator: Writing) -> None:
    before = answers("cached")
    first, second = [await answering.answer(QUESTION, ACCESS) for _ in range(2)]
    assert generator.written == 1
    assert (second.is_cached, second.answer.text, second.hits) == (True, first.answer.text, ())
    assert answers("cached") == before + 1


async def test_a_search_has_as_many_hits_as_were_asked_for_and_writes_nothing(
    answering: Answering, generator: Writing
) -> None:
    assert len((await answering.search(QUESTION, ACCESS, top_k=1)).hits) == 1
    assert len((await answering.search(QUESTION, ACCESS, top_k=50)).hits) == 2
    assert generator.written == 0


async def test_a_document_that_changes_while_the_answer_is_written_makes_a_new_answer(
    world: World, answering: Answering, generator: Writing
) -> None:
    async def once() -> None:
        generator.meanwhile = None
        await change(world, "Nine")

    generator.meanwhile = once
    answered = await answering.answer(QUESTION, ACCESS)
    assert generator.written == 2
    assert "Three" not in answered.answer.text + str(answered.hits)


async def test_documents_that_never_stop_changing_end_the_attempts(
    world: World, answering: Answering, generator: Writing
) -> None:
    async def again() -> None:
        await change(world, f"{generator.written} long")

    generator.meanwhile = again
    with pytest.raises(Conflict, match="ask again"):
        await answering.answer(QUESTION, ACCESS)
    assert generator.written == ATTEMPTS


async def test_an_answer_from_a_suppressed_document_is_neither_returned_nor_cached(
    world: World, answering: Answering, generator: Writing
) -> None:
    await world.put("b.md", "# Other\n\nA zeppelin has a gangway.\n")
    await world.run_lane()
    document_id = IDS.document_id("acme", "s3", "s3://docs/a.md")

    async def erase() -> None:
        await world.ledger.suppress("acme", [document_id], reason="erasure")

    generator.meanwhile = erase
    answered = await answering.answer(QUESTION, ACCESS)
    assert "ropes" not in answered.answer.text
    generator.meanwhile = None
    assert "ropes" not in (await answering.answer(QUESTION, ACCESS)).answer.text


async def test_a_stream_ends_with_the_answer_that_is_cached(answering: Answering, generator: Writing) -> None:
    pieces, (answered,) = await collected(answering.stream(QUESTION, ACCESS))
    assert "".join(pieces).strip()
    assert not answered.is_cached
    again, (cached,) = await collected(answering.stream(QUESTION, ACCESS))
    assert again == [answered.answer.text]
    assert (cached.is_cached, generator.written) == (True, 1)


async def test_a_stream_whose_documents_change_ends_in_a_conflict_and_caches_nothing(
    world: World, answering: Answering, generator: Writing
) -> None:
    async def once() -> None:
        generator.meanwhile = None
        await change(world, "Nine")

    generator.meanwhile = once
    with pytest.raises(Conflict):
        await collected(answering.stream(QUESTION, ACCESS))
    assert not (await answering.answer(QUESTION, ACCESS)).is_cached


async def test_a_generator_that_does_not_answer_is_an_outage_and_caches_nothing(
    answering: Answering, generator: Writing
) -> None:
    async def down() -> None:
        raise Unavailable("the model does not answer")

    generator.meanwhile = down
    with pytest.raises(Unavailable):
        await answering.answer(QUESTION, ACCESS)
    generator.meanwhile = None
    assert not (await answering.answer(QUESTION, ACCESS)).is_cached
