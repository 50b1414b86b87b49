from __future__ import annotations

from typing import Any
from uuid import uuid4

import pytest

from tests.gateway.conftest import World

ADMIN = "rag:query rag:admin"


async def call(world: World, method: str, path: str, scope: str = ADMIN, user: str = "alice", **options: Any) -> Any:
    return await world.client.request(method, path, headers=world.bearer(user, scope), **options)


@pytest.mark.parametrize("scope", ["rag:query rag:ingest", "rag:query rag:erase rag:audit"])
async def test_only_administrators_see_and_make_rules(world: World, scope: str) -> None:
    body = {"effect": "grant", "principal": "user:bob", "source": "s3"}
    for method, path, options in (
        ("POST", "/v1/access", {"json": body}),
        ("GET", "/v1/access", {}),
        ("GET", f"/v1/access/why?document_id={uuid4()}&user=bob", {}),
        ("DELETE", f"/v1/access/{uuid4()}", {}),
    ):
        assert (await call(world, method, path, scope, **options)).status_code == 403, path
    assert (await call(world, "GET", "/v1/access")).json() == {"rules": [], "next": None}


async def test_a_rule_is_made_listed_replaced_and_withdrawn(world: World) -> None:
    body = {"effect": "grant", "principal": "group:temps", "source": "s3", "reason": "project x"}
    made = (await call(world, "POST", "/v1/access", json=body)).json()
    assert made | body == made
    assert made["actor"] == world.ids.caller_id("acme", "alice")
    assert (await call(world, "GET", "/v1/access?principal=group:temps")).json()["rules"] == [made]
    assert (await call(world, "GET", "/v1/access?principal=group:other")).json()["rules"] == []
    assert (await call(world, "GET", "/v1/access", user="eve")).json()["rules"] == []
    assert (await call(world, "DELETE", f"/v1/access/{made['rule_id']}", user="eve")).status_code == 404
    replaced = (await call(world, "POST", "/v1/access", json=body | {"effect": "revoke"})).json()
    assert (replaced["rule_id"], replaced["effect"]) == (made["rule_id"], "revoke")
    assert (await call(world, "DELETE", f"/v1/access/{made['rule_id']}")).json() == replaced
    assert (await call(world, "DELETE", f"/v1/access/{made['rule_id']}")).status_code == 404


async def test_a_list_of_rules_has_pages(world: World) -> None:
    for name in "abc":
        await call(world, "POST", "/v1/access", json={"effect": "grant", "principal": f"user:{name}", "source": "s3"})
    first = (await call(world, "GET", "/v1/access?limit=2")).json()
    rest = (await call(world, "GET", f"/v1/access?limit=2&after={first['next']}")).json()
    assert {rule["principal"] for rule in first["rules"] + rest["rules"]} == {"user:a", "user:b", "user:c"}
    assert rest["next"] is None


@pytest.mark.parametrize(
    ("changes", "status"),
    [
        ({"source": ""}, 422),
        ({"document_id": str(uuid4())}, 422),
        ({"source": "", "document_id": str(uuid4())}, 404),
        ({"source": "", "uri_prefix": "s3://docs/"}, 422),
        ({"source": "unknown"}, 404),
        ({"uri_prefix": "s3://elsewhere/"}, 422),
        ({"principal": "bob"}, 422),
        ({"effect": "deny"}, 422),
        ({"extra": 1}, 422),
        ({"reason": "a\u0000b"}, 422),
    ],
)
async def test_bad_requests_change_nothing(world: World, changes: dict[str, Any], status: int) -> None:
    body = {"effect": "grant", "principal": "user:bob", "source": "s3"} | changes
    answer = await call(world, "POST", "/v1/access", json=body)
    assert answer.status_code == status, answer.text
    assert (await call(world, "GET", "/v1/access")).json()["rules"] == []


async def test_a_document_of_another_tenant_looks_like_one_that_does_not_exist(world: World) -> None:
    theirs = await world.index("Secret ropes.", tenant="globex")
    for document in (theirs, str(uuid4())):
        body = {"effect": "grant", "principal": "user:alice", "document_id": document}
        answers = [
            await call(world, "POST", "/v1/access", json=body),
            await call(world, "GET", "/v1/access/why", params={"document_id": document, "user": "alice"}),
            await call(world, "GET", "/v1/access", params={"document_id": document}),
        ]
        assert {(a.status_code, a.json()["detail"].replace(document, "ID")) for a in answers} == {
            (404, "document ID is not one of your tenant, or it is not indexed yet")
        }
