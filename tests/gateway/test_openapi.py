"""The description says what the server does: its patterns, its events and its problems are compared with real requests."""

from __future__ import annotations

import json
import re
import sys
from typing import Any

import pytest
from jsonschema import Draft202012Validator
from pydantic import TypeAdapter, ValidationError

from gateway.messages import MAX_QUESTION, Filters, Question, Value
from gateway.openapi import STREAM

SENTENCE = "Moorings are inspected every ninety days by a certified diver."


def accepts(adapter: TypeAdapter[Any], value: Any) -> bool:
    try:
        adapter.validate_python(value)
    except ValidationError:
        return False
    return True


@pytest.mark.parametrize("kind", [Question, Value])
@pytest.mark.parametrize("around", ["", "a", " "])
def test_a_text_is_accepted_exactly_when_it_matches_its_pattern(kind: Any, around: str) -> None:
    adapter: TypeAdapter[Any] = TypeAdapter(kind)
    pattern = re.compile(adapter.json_schema()["pattern"])
    for code in (*range(0x3100), *range(0xD7F0, 0xD800), *range(0xE000, 0xE010), 0xFEFF, 0x1F600, sys.maxunicode):
        text = f"{around}{chr(code)}{around}"
        assert accepts(adapter, text) == bool(pattern.search(text)), f"U+{code:04X} in {around!r}"


@pytest.mark.parametrize(
    "value",
    [
        "",
        "x",
        "x" * MAX_QUESTION,
        "x" * (MAX_QUESTION + 1),
        " " * 9,
        " x ",
        "a\nb",
        "a\x00b",
        "a\x85b",
        "x" * (MAX_QUESTION - 1) + " ",
    ],
    ids=range(10),
)
def test_a_question_is_accepted_exactly_when_its_schema_is_met(value: str) -> None:
    adapter: TypeAdapter[Any] = TypeAdapter(Question)
    assert accepts(adapter, value) == Draft202012Validator(adapter.json_schema()).is_valid(value)


@pytest.mark.parametrize(
    "value",
    [{}, {"source": "s3"}, {"source": []}, {"source": ["s3"]}, {"tenant": "globex"}, {"source": ["x"] * 101}, {"source": ""},
     {"source": ["a\x1bb"]}, {"source": 7}, {"source": None}],
    ids=range(10),
)  # fmt: skip
async def test_a_filter_is_accepted_exactly_when_its_schema_is_met(world: Any, value: Any) -> None:
    answer = await world.post("alice", "/v1/search", query="x", filters=value)
    expected = Draft202012Validator(TypeAdapter(Filters).json_schema()).is_valid(value)
    assert (answer.status_code == 200) == expected


@pytest.mark.parametrize(
    "body",
    [
        {"top_k": 0},
        {"top_k": 51},
        {"top_k": "3"},
        {"top_k": True},
        {"top_k": 3},
        {"top_k": 3.0},
        {"stream": 0},
        {"stream": "no"},
    ],
)
async def test_numbers_and_truth_values_are_accepted_exactly_when_their_schema_is_met(world: Any, body: Any) -> None:
    document = await described(world)
    schema = inlined(document["components"]["schemas"]["AnswerRequest"], document)
    answer = await world.post("alice", "/v1/answers", question="x", **body)
    assert (answer.status_code == 200) == Draft202012Validator(schema).is_valid({"question": "x", **body})


async def described(world: Any) -> dict[str, Any]:
    return dict((await world.client.get("/openapi.json")).json())


def inlined(schema: Any, document: dict[str, Any]) -> Any:
    """Return the schema with each reference to a component replaced by that component."""
    if isinstance(schema, list):
        return [inlined(each, document) for each in schema]
    if not isinstance(schema, dict):
        return schema
    if "$ref" in schema:
        return inlined(document["components"]["schemas"][schema["$ref"].rsplit("/", 1)[1]], document)
    return {name: inlined(each, document) for name, each in schema.items()}


@pytest.mark.parametrize("is_broken", [False, True])
async def test_each_event_of_a_stream_has_exactly_one_schema(world: Any, is_broken: bool) -> None:
    await world.index(SENTENCE)
    if is_broken:
        world.generator.generate = None  # which raises in the middle of the stream
    answer = await world.post("alice", "/v1/answers", question="How often are moorings inspected?", stream=True)
    blocks = [dict(line.split(": ", 1) for line in block.splitlines()) for block in answer.text.strip().split("\n\n")]
    document = await described(world)
    content = document["paths"]["/v1/answers"]["post"]["responses"]["200"]["content"][STREAM]
    schema = inlined(content["schema"], document)
    names = []
    for block in blocks:
        Draft202012Validator(schema).validate(block)  # oneOf: exactly one
        (event,) = [each for each in schema["oneOf"] if each["properties"]["event"]["const"] == block["event"]]
        data = event["properties"]["data"]["contentSchema"]
        Draft202012Validator(data).validate(json.loads(block["data"]))
        assert json.loads(block["data"]).keys() <= data["properties"].keys()
        names.append(block["event"])
    assert names == (["error"] if is_broken else ["delta", "citations", "done"])


async def test_every_problem_has_its_media_type_and_schema(world: Any) -> None:
    document = await described(world)
    for path, operations in document["paths"].items():
        for operation in operations.values():
            for status in ("4XX", "5XX"):
                content = operation["responses"][status]["content"]
                assert list(content) == ["application/problem+json"], path
    schema = inlined(document["components"]["schemas"]["ProblemMessage"], document)
    for request in ({"query": "\x07"}, {"query": "x", "filters": {"tenant": "y"}}):
        answer = await world.post("alice", "/v1/search", **request)
        assert answer.status_code in {400, 422}
        Draft202012Validator(schema).validate(answer.json())
        assert answer.json().keys() <= schema["properties"].keys()


async def test_a_lone_surrogate_is_a_fault_of_the_request(world: Any) -> None:
    headers = world.bearer("alice") | {"Content-Type": "application/json"}
    answer = await world.client.post("/v1/search", content=b'{"query": "a\\ud800b"}', headers=headers)
    assert (answer.status_code, answer.json()["errors"][0]["pointer"]) == (422, "body/query")


async def test_describing_twice_gives_the_same(world: Any) -> None:
    assert await described(world) == await described(world)
