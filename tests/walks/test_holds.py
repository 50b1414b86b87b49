"""Legal holds: what is under one stays, whoever asks, until an administrator lifts it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from tests.fakes.gateway import Gateway, gateway
from tests.fakes.world import IDS, World

ADMIN, ERASE = "rag:query rag:admin", "rag:query rag:erase"
BASE = "s3://docs/"
MISSING = "00000000-0000-0000-0000-000000000000"


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture
async def door(world: World) -> AsyncIterator[Gateway]:
    await world.put("hr/a.md", "# A\n\nPat pat@example.com has zeppelin ropes.\n")
    await world.put("hr/b.md", "# B\n\nKim has zeppelin ropes.\n")
    await world.put("notes.md", "# Notes\n\nAsk pat@example.com for zeppelin ropes.\n")
    await world.run_lane()
    async with gateway(world) as opened:
        yield opened


async def call(
    door: Gateway, expected: int, method: str, path: str, scope: str = ADMIN, **options: Any
) -> dict[str, Any]:
    answer = await door.call("alice", method, path, scope, **options)
    assert answer.status_code == expected, answer.text
    found: dict[str, Any] = answer.json()
    return found


async def erase(door: Gateway, expected: int, **body: Any) -> dict[str, Any]:
    return await call(door, expected, "POST", "/v1/erasures", ERASE, json=body)


async def found(door: Gateway) -> set[str]:
    return {hit["uri"].removeprefix(BASE) for hit in await door.search("alice", "zeppelin ropes", top_k=50)}


def document_id(key: str) -> str:
    return IDS.document_id("acme", "s3", BASE + key)


EVERYTHING = {"hr/a.md", "hr/b.md", "notes.md"}


async def test_a_folder_under_a_hold_is_not_erased_until_it_is_lifted(world: World, door: Gateway) -> None:
    hold = await call(
        door, 201, "POST", "/v1/holds", json={"source": "s3", "uri_prefix": f"{BASE}hr/", "reason": "case 7"}
    )
    await world.put("hr/later.md", "# Later\n\nMore zeppelin ropes.\n")
    await world.run_lane()
    for body in (
        {"document_id": document_id("hr/a.md")},
        {"document_id": document_id("hr/later.md")},
        {"uri_prefix": f"{BASE}hr/"},
        {"uri_prefix": BASE},
        {"subject": {"kind": "email", "value": "pat@example.com"}},
    ):
        refused = await erase(door, 409, **body)
        assert f"legal hold {hold['hold_id']} on {BASE}hr/ forbids the erasure" in refused["detail"]
    deleted = await door.call("alice", "DELETE", f"/v1/documents/{document_id('hr/b.md')}", ERASE)
    assert deleted.status_code == 409
    assert await found(door) == {*EVERYTHING, "hr/later.md"}
    assert not await world.ledger.erasures("acme")
    await erase(door, 202, document_id=document_id("notes.md"))
    lifted = await call(door, 200, "DELETE", f"/v1/holds/{hold['hold_id']}")
    assert lifted == hold
    await erase(door, 202, uri_prefix=f"{BASE}hr/")
    assert await found(door) == set()


async def test_an_officer_may_leave_a_held_document_out(door: Gateway) -> None:
    await call(door, 201, "POST", "/v1/holds", json={"document_id": document_id("hr/a.md"), "reason": "case 7"})
    subject = {"kind": "email", "value": "pat@example.com"}
    await erase(door, 409, subject=subject)
    await erase(door, 202, subject=subject, documents=[document_id("notes.md")])
    assert await found(door) == {"hr/a.md", "hr/b.md"}


async def test_holds_are_listed_with_those_that_protect_a_document(door: Gateway) -> None:
    whole = await call(door, 201, "POST", "/v1/holds", json={"source": "s3", "reason": "case 7"})
    one = await call(door, 201, "POST", "/v1/holds", json={"document_id": document_id("hr/a.md"), "reason": "case 8"})
    first, second = sorted((whole, one), key=lambda hold: hold["hold_id"])  # of one millisecond, in any order
    assert (await call(door, 200, "GET", "/v1/holds"))["holds"] == [first, second]
    page = await call(door, 200, "GET", "/v1/holds?limit=1")
    assert page == {"holds": [first], "next": first["hold_id"]}
    assert (await call(door, 200, "GET", f"/v1/holds?after={page['next']}")) == {"holds": [second], "next": None}
    for key, holds in (("hr/a.md", [first, second]), ("hr/b.md", [whole])):
        assert (await call(door, 200, "GET", f"/v1/holds?document_id={document_id(key)}"))["holds"] == holds


async def test_the_holds_on_a_broken_document_are_listed_too(world: World, door: Gateway) -> None:
    """It has no chunks and no recorded scopes, and yet it may be evidence."""
    await world.put("hr/broken.md", "")
    await world.run_lane()
    hold = await call(
        door, 201, "POST", "/v1/holds", json={"source": "s3", "uri_prefix": f"{BASE}hr/", "reason": "case 7"}
    )
    broken = document_id("hr/broken.md")
    assert (await call(door, 200, "GET", f"/v1/holds?document_id={broken}"))["holds"] == [hold]
    await erase(door, 409, document_id=broken)


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({"source": "s3"}, 422),
        ({"reason": "case 7"}, 422),
        ({"source": "s3", "document_id": document_id("notes.md"), "reason": "case 7"}, 422),
        ({"source": "globex", "reason": "case 7"}, 404),
        ({"source": "s3", "uri_prefix": "s3://other/", "reason": "case 7"}, 422),
        ({"document_id": MISSING, "reason": "case 7"}, 404),
    ],
)
async def test_a_bad_request_places_no_hold(door: Gateway, body: dict[str, Any], status: int) -> None:
    await call(door, status, "POST", "/v1/holds", json=body)
    assert (await call(door, 200, "GET", "/v1/holds"))["holds"] == []


async def test_only_administrators_place_and_lift_and_only_in_their_tenant(door: Gateway) -> None:
    body = {"source": "s3", "reason": "case 7"}
    await call(door, 403, "POST", "/v1/holds", ERASE, json=body)
    hold = await call(door, 201, "POST", "/v1/holds", json=body)
    await call(door, 403, "DELETE", f"/v1/holds/{hold['hold_id']}", ERASE)
    await call(door, 403, "GET", "/v1/holds", ERASE)
    await call(door, 404, "DELETE", f"/v1/holds/{MISSING}")
    strange = await door.call("eve", "DELETE", f"/v1/holds/{hold['hold_id']}", ADMIN)
    assert strange.status_code == 404
    assert (await call(door, 200, "GET", "/v1/holds"))["holds"] == [hold]


async def test_the_audit_log_tells_of_holds_and_of_what_they_refused(world: World, door: Gateway) -> None:
    hold = await call(door, 201, "POST", "/v1/holds", json={"document_id": document_id("hr/a.md"), "reason": "case 7"})
    await erase(door, 409, document_id=document_id("hr/a.md"))
    await call(door, 200, "DELETE", f"/v1/holds/{hold['hold_id']}")
    entries = (await door.call("alice", "GET", "/v1/audit", "rag:audit")).json()["entries"]
    told = [
        (each["action"], each["outcome"])
        for each in reversed(entries)
        if "hold" in each["action"] or "erasure" in each["action"]
    ]
    assert told == [
        ("hold.set", "started"), ("hold.set", "success"),
        ("erasure.request", "started"), ("erasure.request", "failure"),
        ("hold.lift", "started"), ("hold.lift", "success"),
    ]  # fmt: skip
    assert all("case 7" not in str(each) for each in entries)
