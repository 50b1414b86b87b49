from __future__ import annotations

from typing import Any

import pytest

SENTENCE = "The tide gauge in Hull reports every six minutes."


async def test_alice_finds_it_bob_and_eve_do_not(world: Any) -> None:
    await world.index(SENTENCE)
    found = {user: await world.post(user, "/v1/search", query="tide gauge in Hull") for user in ("alice", "bob", "eve")}
    assert [answer.status_code for answer in found.values()] == [200, 200, 200]
    assert [len(found[user].json()["hits"]) for user in found] == [1, 0, 0]


async def test_a_hit_names_its_origin(world: Any) -> None:
    document_id = await world.index(SENTENCE)
    answer = (await world.post("alice", "/v1/search", query="tide gauge")).json()
    hit = answer["hits"][0]
    assert hit["text"] == hit["quote"] == SENTENCE
    assert SENTENCE[hit["start"] : hit["end"]] == hit["quote"]
    assert (hit["document_id"], hit["marker"], hit["source_version"]) == (document_id, 1, "v1")
    assert (hit["topic"], hit["partition"], hit["offset"], hit["run_id"]) == ("documents.changed.v1", 3, 41, "run-1")
    assert answer["index_version"] == world.spec.index_id
    assert len(answer["trace_id"]) == 32


async def test_filters_narrow(world: Any) -> None:
    first = await world.index(SENTENCE)
    await world.index("The tide gauge in Leith is broken.", name="b.md")
    hits = (await world.post("alice", "/v1/search", query="tide gauge", filters={"document_id": first})).json()["hits"]
    assert [hit["document_id"] for hit in hits] == [first]


@pytest.mark.parametrize(
    "filters", [{"tenant": "globex"}, {"principals": ["group:contractors"]}, {"$or": "x"}, {"": "x"}]
)
async def test_hostile_filters_are_refused(world: Any, filters: dict[str, Any]) -> None:
    answer = await world.post("bob", "/v1/search", query="tide", filters=filters)
    assert answer.status_code == 400
    assert "document_id, language, media_type, source" in answer.json()["detail"]


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"query": ""},
        {"query": " \n\t "},
        {"query": "x" * 4001},
        {"query": "a\x00b"},
        {"query": "a\x1b[31mb"},
        {"query": 3},
        {"query": ["tide"]},
        {"query": "x", "top_k": 0},
        {"query": "x", "top_k": 51},
        {"query": "x", "top_k": "many"},
        {"query": "x", "filters": []},
        {"query": "x", "filters": {"source": []}},
        {"query": "x", "filters": {"source": {"$ne": ""}}},
        {"query": "x", "filters": {"source": ["s"] * 101}},
        {"query": "x", "unknown": 1},
    ],
)
async def test_bad_bodies_are_problems(world: Any, body: dict[str, Any]) -> None:
    answer = await world.client.post("/v1/search", json=body, headers=world.bearer("alice"))
    assert answer.status_code == 422
    assert answer.headers["content-type"] == "application/problem+json"


@pytest.mark.parametrize("raw", [b"", b"{", b"\xff\xfe", b'{"query": "\\ud800"}', b"[" * 100_000, b"null", b'"x"'])
async def test_bodies_that_are_no_json_are_problems(world: Any, raw: bytes) -> None:
    headers = world.bearer("alice") | {"Content-Type": "application/json"}
    answer = await world.client.post("/v1/search", content=raw, headers=headers)
    assert answer.status_code in {400, 422}
    assert answer.json()["status"] == answer.status_code


async def test_a_caller_without_a_tenant_gets_nothing(world: Any) -> None:
    await world.index(SENTENCE)
    answer = await world.post("nobody", "/v1/search", query="tide")
    assert answer.status_code == 403


async def test_a_request_without_a_token_gets_a_401_that_names_the_scheme(world: Any) -> None:
    answer = await world.client.post("/v1/search", json={"query": "tide"})
    assert answer.status_code == 401
    assert answer.headers["www-authenticate"] == 'Bearer realm="tidemark"'


async def test_a_garbage_token_is_an_invalid_token(world: Any) -> None:
    answer = await world.client.post("/v1/search", json={"query": "x"}, headers={"Authorization": "Bearer x.y.z"})
    assert answer.status_code == 401
    assert 'error="invalid_token"' in answer.headers["www-authenticate"]


async def test_a_missing_scope_is_named(world: Any) -> None:
    answer = await world.client.post("/v1/search", json={"query": "x"}, headers=world.bearer("alice", "rag:ingest"))
    assert answer.status_code == 403
    assert 'error="insufficient_scope", scope="rag:query"' in answer.headers["www-authenticate"]


async def test_an_issuer_that_is_down_is_not_the_callers_fault(world: Any) -> None:
    world.issuer.is_down = True
    answer = await world.post("alice", "/v1/search", query="tide")
    assert answer.status_code == 503
    assert answer.headers["retry-after"] == "10"
