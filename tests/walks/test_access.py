"""Random documents, rules and changes against a model of a few lines: every way to a document shows what the model allows, no more
and no less."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import pytest

from governance.access import principals_of
from rag.ids import ancestors
from tests.fakes.gateway import Gateway, gateway
from tests.fakes.issuer import USERS
from tests.fakes.world import IDS, SPEC, World

BASE, ADMIN = "s3://docs/", "rag:query rag:admin"
FOLDERS = ("", "finance/", "hr/", "hr/salaries/")
LABELS = (None, "group:staff", "group:contractors", "user:bob", "group:engineering,user:bob", "group:board", "")
PRINCIPALS = ("group:staff", "group:contractors", "group:engineering", "user:alice", "user:bob", "group:board")
CALLERS = ("alice", "bob", "eve")


@dataclass
class Model:
    """The labels of the documents by key, and effect by (target, principal). A target is a key, a folder or "" for the source."""

    labels: dict[str, str | None] = field(default_factory=dict)
    rules: dict[tuple[str, str], str] = field(default_factory=dict)
    suppressed: set[str] = field(default_factory=set)

    def sees(self, user: str, key: str) -> bool:
        claims = USERS[user]
        own = principals_of(user, claims["groups"])
        default = ["group:finance"] if key.startswith("finance/") else ["group:staff"]
        label = self.labels[key]
        named = default if label is None else label.split(",")
        effects = {
            effect
            for (target, principal), effect in self.rules.items()
            if principal in own and key.startswith(target) and target in {key, *FOLDERS}
        }
        is_named = bool(set(named) & set(own)) or "grant" in effects
        return claims["tenant"] == "acme" and key not in self.suppressed and is_named and "revoke" not in effects

    def visible(self, user: str) -> set[str]:
        return {BASE + key for key in self.labels if self.sees(user, key)}


@pytest.fixture
async def world() -> World:
    return World()


@pytest.fixture
async def door(world: World) -> AsyncIterator[Gateway]:
    async with gateway(world) as opened:
        yield opened


def document_id(key: str) -> str:
    return IDS.document_id("acme", "s3", BASE + key)


async def put(world: World, model: Model, key: str, label: str | None) -> None:
    model.labels[key] = label
    labels = {} if label is None else {"principals": label}
    await world.put(key, f"# Paper\n\nThe zeppelin of {key} has ropes.\n", **labels)
    await world.run_lane()


async def decide(door: Gateway, model: Model, target: str, principal: str, effect: str) -> str:
    """Grant or revoke at the gateway, and return the rule's id."""
    model.rules[target, principal] = effect
    named = (
        {"document_id": document_id(target)}
        if target in model.labels
        else {"source": "s3", "uri_prefix": BASE + target if target else ""}
    )
    answer = await door.call(
        "alice", "POST", "/v1/access", ADMIN, json={"effect": effect, "principal": principal} | named
    )
    assert answer.status_code == 200, answer.text
    return str(answer.json()["rule_id"])


async def change(
    world: World, door: Gateway, model: Model, rule_ids: dict[tuple[str, str], str], chance: random.Random
) -> None:
    """Make one random change, in the model and in the world."""
    kind = chance.choice(["put", "put", "rule", "rule", "rule", "withdraw", "suppress"])
    if kind == "put" or not model.labels:
        key = f"{chance.choice(FOLDERS)}{chance.randrange(4)}.md"
        await put(world, model, key, chance.choice(LABELS))
    elif kind == "rule":
        target = chance.choice([*FOLDERS, *sorted(model.labels)])
        principal, effect = chance.choice(PRINCIPALS), chance.choice(["grant", "grant", "revoke"])
        rule_ids[target, principal] = await decide(door, model, target, principal, effect)
    elif kind == "withdraw" and model.rules:
        target_and_principal = chance.choice(sorted(model.rules))
        del model.rules[target_and_principal]
        answer = await door.call("alice", "DELETE", f"/v1/access/{rule_ids[target_and_principal]}", ADMIN)
        assert answer.status_code == 200, answer.text
    elif kind == "suppress" and len(model.labels) > 6:
        key = chance.choice(sorted(model.labels))
        model.suppressed.add(key)
        await world.ledger.suppress("acme", [document_id(key)], reason="erasure")


async def check(door: Gateway, model: Model, user: str) -> None:
    """Assert that every way to the documents shows the caller exactly those that the model allows."""
    expected = model.visible(user)
    question = "Which zeppelin has ropes?"
    assert {hit["uri"] for hit in await door.search(user, question, top_k=50)} == expected
    assert {each["uri"] for each in (await door.get(user, "/v1/documents?limit=500"))["documents"]} == expected
    for _ in range(2):  # the second one may come from the cache
        assert {each["uri"] for each in (await door.ask(user, question, top_k=50))["citations"]} <= expected
    for name, data in await door.stream(user, question):
        if name == "citations":
            assert {each["uri"] for each in data["citations"]} <= expected
    for key in sorted(model.labels, key=lambda key: (BASE + key in expected, key))[::3]:
        await check_document(door, user, key, is_visible=BASE + key in expected)


async def check_document(door: Gateway, user: str, key: str, *, is_visible: bool) -> None:
    """Assert that a document can be read, or that it looks exactly like one that does not exist."""
    known, absent = document_id(key), document_id("absent.md")
    narrowed = await door.search(user, "zeppelin", filters={"document_id": known})
    assert bool(narrowed) is is_visible
    for suffix in ("", "/lineage"):
        answer = await door.call(user, "GET", f"/v1/documents/{known}{suffix}")
        if is_visible:
            assert (answer.status_code, answer.json()["uri"]) == (200, BASE + key)
        else:
            guess = await door.call(user, "GET", f"/v1/documents/{absent}{suffix}")
            assert (answer.status_code, told(answer, known)) == (404, told(guess, absent))


def told(answer: Any, document: str) -> dict[str, Any]:
    """Return the problem without the id that the caller named, and without the id of the trace."""
    return {name: str(value).replace(document, "ID") for name, value in answer.json().items() if name != "trace_id"}


@pytest.mark.parametrize("seed", range(4))
async def test_every_way_to_a_document_obeys_labels_rules_and_suppressions(
    world: World, door: Gateway, seed: int
) -> None:
    chance, model, rule_ids = random.Random(seed), Model(), dict[tuple[str, str], str]()
    for step in range(25):
        await change(world, door, model, rule_ids, chance)
        await check(door, model, CALLERS[step % len(CALLERS)])
    for user in CALLERS:
        await check(door, model, user)
        await explains(door, model, user)


async def explains(door: Gateway, model: Model, user: str) -> None:
    """Assert that ``why`` agrees with the model for every document."""
    claims = USERS[user]
    for key in model.labels:
        query = {"document_id": document_id(key), "user": user, "group": claims["groups"]}
        answer = await door.call("alice", "GET", "/v1/access/why", ADMIN, params=query)
        sees = model.sees(user, key) if claims["tenant"] == "acme" else None
        assert sees is None or answer.json()["is_visible"] is sees, (key, answer.json())


async def test_a_rule_changes_answers_at_once_and_writes_no_point(world: World, door: Gateway) -> None:
    model = Model()
    await put(world, model, "hr/1.md", "group:board")
    before = [each async for each in world.vectors.scroll(SPEC.index_id)]
    assert (await door.ask("bob", "Which zeppelin has ropes?"))["citations"] == []
    await decide(door, model, "hr/", "user:bob", "grant")
    assert [each["uri"] for each in (await door.ask("bob", "Which zeppelin has ropes?"))["citations"]] == [
        BASE + "hr/1.md"
    ]
    assert (await door.ask("bob", "Which zeppelin has ropes?"))["cached"]
    await decide(door, model, "hr/1.md", "user:bob", "revoke")
    answer = await door.ask("bob", "Which zeppelin has ropes?")
    assert (answer["citations"], answer["cached"]) == ([], False)
    assert [each async for each in world.vectors.scroll(SPEC.index_id)] == before


async def test_a_new_document_obeys_the_rules_that_were_there_before_it(world: World, door: Gateway) -> None:
    model = Model()
    await put(world, model, "hr/1.md", "group:board")
    await decide(door, model, "hr/", "user:bob", "grant")
    await put(world, model, "hr/salaries/2.md", "group:board")
    await check(door, model, "bob")
    assert model.visible("bob") == {BASE + "hr/1.md", BASE + "hr/salaries/2.md"}


def test_the_folders_above_an_object_are_bounded() -> None:
    assert ancestors("s3://docs/a/b.md") == ("s3://docs/", "s3://docs/a/")
    assert len(ancestors("s3://docs/" + "a/" * 100 + "b.md")) == 32
