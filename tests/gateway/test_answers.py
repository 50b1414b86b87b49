from __future__ import annotations

import json
from typing import Any

from rag.errors import Unavailable
from rag.models import DocumentStatus

SENTENCE = "Moorings are inspected every ninety days by a certified diver."
QUESTION = "How often are moorings inspected?"


def events(body: str) -> list[tuple[str, Any]]:
    blocks = [dict(line.split(": ", 1) for line in block.splitlines()) for block in body.strip().split("\n\n")]
    return [(block["event"], json.loads(block["data"])) for block in blocks]


async def ask(world: Any, user: str = "alice", **body: Any) -> dict[str, Any]:
    answer = await world.post(user, "/v1/answers", question=QUESTION, **body)
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


async def test_an_answer_cites_its_source(world: Any) -> None:
    document_id = await world.index(SENTENCE)
    answer = await ask(world)
    (citation,) = answer["citations"]
    assert answer["answer"] == f"{SENTENCE} [1]"
    assert (citation["marker"], citation["document_id"], citation["quote"]) == (1, document_id, SENTENCE)
    assert (answer["generator"], answer["index_version"]) == ("quoting", world.spec.index_id)
    assert answer["usage"] == {"input_tokens": 7}
    assert {"retrieve", "rerank", "generate", "total"} <= answer["timings"].keys()


async def test_the_same_question_is_answered_from_the_cache(world: Any) -> None:
    await world.index(SENTENCE)
    first, second = await ask(world), await ask(world)
    assert (first["cached"], second["cached"]) == (False, True)
    assert (first["answer"], first["citations"]) == (second["answer"], second["citations"])
    assert world.generator.calls == 1


async def test_the_cache_never_crosses_principals(world: Any) -> None:
    await world.index(SENTENCE)
    await ask(world)
    for other in ("bob", "eve"):
        answer = await ask(world, other)
        assert (answer["abstained"], answer["citations"], answer["cached"]) == (True, [], False)


async def test_a_filter_is_part_of_the_key_of_a_cached_answer(world: Any) -> None:
    await world.index(SENTENCE)
    await ask(world)
    assert (await ask(world, filters={"source": "folder"}))["abstained"]


async def test_a_withdrawn_chunk_is_not_served_from_the_cache(world: Any) -> None:
    document_id = await world.index(SENTENCE)
    await ask(world)
    await world.ledger.suppress("acme", [document_id], reason="erasure")  # moves no revision: the entry is still found
    answer = await ask(world)
    assert (answer["cached"], answer["abstained"], answer["citations"]) == (False, True, [])


async def test_a_changed_document_is_answered_afresh(world: Any) -> None:
    await world.index(SENTENCE)
    await ask(world)
    await world.index("Moorings are inspected every thirty days now.")
    answer = await ask(world)
    assert not answer["cached"]
    assert "thirty" in answer["answer"]


async def test_a_document_that_comes_is_in_the_next_answer(world: Any) -> None:
    assert (await ask(world))["abstained"]
    await world.index(SENTENCE)
    assert not (await ask(world))["abstained"]


async def test_text_that_is_erased_while_a_model_writes_is_not_in_the_answer(world: Any) -> None:
    document_id = await world.index(SENTENCE)

    async def erase() -> None:
        await world.ledger.suppress("acme", [document_id], reason="erasure")

    world.generator.meanwhile = erase
    answer = await ask(world)
    assert (answer["abstained"], answer["citations"], world.generator.calls) == (True, [], 1)
    assert SENTENCE not in answer["answer"]


async def test_documents_that_never_stand_still_are_a_conflict(world: Any) -> None:
    versions = iter(range(100))

    async def change() -> None:
        await world.index(f"Moorings are inspected every {next(versions)} days.")

    await change()
    world.generator.meanwhile = change
    answer = await world.post("alice", "/v1/answers", question=QUESTION)
    assert answer.status_code == 409


async def test_a_malformed_entry_is_answered_afresh(world: Any) -> None:
    await world.index(SENTENCE)
    await ask(world)
    for key in world.cache._entries:
        world.cache._entries[key] = (float("inf"), b'{"answer": 3}')
    assert not (await ask(world))["cached"]


async def test_without_redis_answers_still_flow(world: Any) -> None:
    class Down:
        async def get(self, key: str) -> bytes:
            raise Unavailable("redis does not answer")

        async def put(self, key: str, value: bytes, *, ttl: float, documents: Any = ()) -> None:
            raise Unavailable("redis does not answer")

    world.cache = Down()
    await world.index(SENTENCE)
    assert (await ask(world))["answer"].startswith("Moorings")


async def test_a_deleted_document_is_gone(world: Any) -> None:
    await world.index(SENTENCE)
    await world.index("", status=DocumentStatus.DELETED)
    assert (await ask(world))["abstained"]


async def test_a_stream_sends_the_text_then_the_citations_then_the_rest(world: Any) -> None:
    await world.index(SENTENCE)
    whole = await ask(world)
    answer = await world.post("alice", "/v1/answers", question=QUESTION, stream=True)
    assert answer.headers["content-type"].startswith("text/event-stream")
    told = events(answer.text)
    names = [name for name, _ in told]
    assert (set(names[:-2]), names[-2:]) == ({"delta"}, ["citations", "done"])
    assert "".join(data["text"] for name, data in told if name == "delta") == whole["answer"]
    assert told[-2][1]["citations"] == whole["citations"]
    assert told[-1][1]["answer"] == whole["answer"]
    assert told[-1][1]["index_version"] == world.spec.index_id
    assert len(told[-1][1]["trace_id"]) == 32


async def test_an_error_in_a_stream_is_an_event(world: Any) -> None:
    async def down(*_: Any, **__: Any) -> None:
        raise Unavailable("qdrant does not answer")

    world.vectors.search = down
    answer = await world.post("alice", "/v1/answers", question=QUESTION, stream=True)
    ((name, problem),) = events(answer.text)
    assert (answer.status_code, name, problem["status"]) == (200, "error", 503)


async def test_a_stream_whose_documents_change_ends_in_an_error(world: Any) -> None:
    document_id = await world.index(SENTENCE)

    async def erase() -> None:
        await world.ledger.suppress("acme", [document_id], reason="erasure")

    world.generator.meanwhile = erase
    answer = await world.post("alice", "/v1/answers", question=QUESTION, stream=True)
    assert [name for name, _ in events(answer.text)][-1] == "error"
    assert not world.cache._entries


async def test_who_may_not_ask_gets_no_stream(world: Any) -> None:
    answer = await world.post("nobody", "/v1/answers", question=QUESTION, stream=True)
    assert answer.status_code == 403
