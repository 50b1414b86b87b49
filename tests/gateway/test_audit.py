"""What each request leaves in the audit log, and what an auditor may read of it."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from gateway.limits import RateLimit
from governance.checkpoints import anchor
from rag.errors import Denied, Unavailable
from rag.ids import link
from rag.models import AuditEntry

AUDITOR = "rag:query rag:audit"


async def recorded(world: Any) -> list[AuditEntry]:
    assert await world.app.state.trail.flush()
    return list(world.ledger.chains["acme"])


async def read(world: Any, **query: Any) -> list[dict[str, Any]]:
    answer = await world.client.get("/v1/audit", params=query, headers=world.bearer("dpo", AUDITOR))
    assert answer.status_code == 200, answer.text
    entries: list[dict[str, Any]] = answer.json()["entries"]
    return entries


def actor(world: Any, user: str) -> str:
    return str(world.ids.caller_id("acme", user))


# -- what is recorded


async def test_a_search_is_recorded_with_its_caller_its_hash_and_the_documents_that_it_showed(world: Any) -> None:
    document = await world.index("High water at noon.")
    await world.post("alice", "/v1/search", query="high water")
    (entry,) = await recorded(world)
    event = entry.event
    assert (event.action, event.outcome, event.actor) == ("query.search", "success", actor(world, "alice"))
    assert event.objects == (f"document:{document}",)
    assert event.details["question"] == world.ids.question_id("acme", "high water")
    assert event.details["route"] == "POST:/v1/search"
    assert "water" not in str(event)
    assert "alice" not in str(event)


@pytest.mark.parametrize("stream", [False, True])
async def test_an_answer_is_recorded_with_its_sources_also_a_cached_one(world: Any, stream: bool) -> None:
    document = await world.index("High water at noon.")
    for _ in range(2):
        await world.post("alice", "/v1/answers", question="When is high water?", stream=stream)
    entries = await recorded(world)
    assert [entry.event.action for entry in entries] == ["query.answer"] * 2
    assert [entry.event.objects for entry in entries] == [(f"document:{document}",)] * 2


async def test_a_stream_that_nobody_reads_to_its_end_is_recorded(world: Any) -> None:
    document = await world.index("High water at noon.")
    ended = asyncio.Event()
    sent: list[Any] = []

    async def receive() -> Any:
        if not sent:
            return {"type": "http.request", "body": b'{"question": "When is high water?", "stream": true}'}
        await ended.wait()
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        sent.append(message)
        if message["type"] == "http.response.body":
            ended.set()
            await asyncio.sleep(1)

    headers = [(name.lower().encode(), value.encode()) for name, value in world.bearer("alice").items()]
    scope = {"type": "http", "method": "POST", "path": "/v1/answers", "raw_path": b"/v1/answers", "query_string": b"",
             "headers": [*headers, (b"content-type", b"application/json")], "client": ("127.0.0.1", 1), "server": ("gateway.test", 80),
             "scheme": "http", "http_version": "1.1", "root_path": ""}  # fmt: skip
    await world.app(scope, receive, send)
    (entry,) = await recorded(world)
    assert (entry.event.outcome, entry.event.reason) == ("failure", "disconnected"), document


async def test_a_question_that_fails_is_recorded_with_its_reason(world: Any) -> None:
    async def down(*_: Any, **__: Any) -> None:
        raise Unavailable("the index is down")

    world.vectors.search = down
    assert (await world.post("alice", "/v1/search", query="water")).status_code == 503
    (entry,) = await recorded(world)
    assert (entry.event.outcome, entry.event.reason) == ("failure", "unavailable")


@pytest.mark.parametrize(
    ("keep", "kept"), [("text", {"question": "high water"}), ("none", {})],
)  # fmt: skip
async def test_a_setting_keeps_the_text_of_a_question_or_nothing(world: Any, keep: str, kept: dict[str, str]) -> None:
    world.settings = world.settings.model_copy(update={"audit_questions": keep})
    await world.post("alice", "/v1/search", query="high water")
    (entry,) = await recorded(world)
    assert {name: value for name, value in entry.event.details.items() if name == "question"} == kept


async def test_an_upload_and_its_withdrawal_are_recorded(world: Any) -> None:
    files = {"file": ("notes.md", b"# Notes", "text/markdown")}
    answer = await world.client.post("/v1/documents", files=files, headers=world.bearer("alice"))
    document = answer.json()["document_id"]
    await world.client.delete(f"/v1/documents/{document}", headers=world.bearer("alice"))
    entries = await recorded(world)
    assert [(e.event.action, e.event.outcome) for e in entries] == [
        ("document.upload", "success"), ("document.withdraw", "started"), ("document.withdraw", "success"),
    ]  # fmt: skip
    assert {entry.event.objects for entry in entries} == {(f"document:{document}",)}
    assert "notes" not in str(entries)


ERASING: list[tuple[str, str, Any]] = [
    ("DELETE", "/v1/documents/{}", lambda _: {}),
    ("POST", "/v1/erasures", lambda document: {"json": {"document_id": document, "reason": "Jane asked"}}),
]


@pytest.mark.parametrize(("method", "path", "options"), ERASING)
async def test_an_erasure_is_written_before_it_acts_and_its_outcome_after_it(
    world: Any, method: str, path: str, options: Any
) -> None:
    document = await world.index("High water at noon.")
    seen: list[str] = []
    accept = world.ledger.accept

    async def watched(*arguments: Any, **options: Any) -> None:
        seen.extend(entry.event.outcome for entry in world.ledger.chains["acme"])
        await accept(*arguments, **options)

    world.ledger.accept = watched
    headers = world.bearer("alice", "rag:query rag:erase")
    assert (
        await world.client.request(method, path.format(document), headers=headers, **options(document))
    ).status_code == 202
    assert seen == ["started"]
    entries = await recorded(world)
    assert [e.event.outcome for e in entries] == ["started", "success"]
    assert {e.event.objects[0] for e in entries} == {f"document:{document}"}


async def test_a_dry_run_of_an_erasure_is_recorded_without_the_identifier(world: Any) -> None:
    headers = world.bearer("alice", "rag:query rag:erase")
    body = {"subject": {"kind": "email", "value": "jane@acme.example"}, "dry_run": True}
    assert (await world.client.post("/v1/erasures", json=body, headers=headers)).status_code == 200
    (entry,) = await recorded(world)
    assert (entry.event.action, entry.event.outcome) == ("erasure.locate", "success")
    assert "jane" not in str(entry)


async def test_grants_revokes_and_withdrawals_are_recorded_with_the_pseudonym_of_their_user(world: Any) -> None:
    headers = world.bearer("alice", "rag:admin")
    for effect, principal in (("grant", "user:bob"), ("grant", "group:董事会"), ("revoke", "group:board")):
        body = {"effect": effect, "principal": principal, "source": "s3", "reason": "Bob asked"}
        rule = (await world.client.post("/v1/access", json=body, headers=headers)).json()["rule_id"]
    assert (await world.client.delete(f"/v1/access/{rule}", headers=headers)).status_code == 200
    entries = await recorded(world)
    done = [(e.event.action, *e.event.objects) for e in entries if e.event.outcome == "success"]
    assert [each[:3] for each in done] == [
        ("access.grant", "source:s3", f"user:{actor(world, 'bob')}"),
        ("access.grant", "source:s3", f"group:{actor(world, '董事会')}"),
        ("access.revoke", "source:s3", "group:board"),
        ("access.withdraw", f"rule:{rule}", "source:s3"),
    ]
    assert len(entries) == 8
    assert "ob asked" not in str(entries)
    assert "user:bob" not in str(entries)


async def test_a_redrive_is_recorded(world: Any) -> None:
    document = await world.index("High water at noon.")
    headers = world.bearer("alice", "rag:query rag:admin")
    assert (await world.client.post(f"/v1/documents/{document}/redrive", headers=headers)).status_code == 202
    actions = [(e.event.action, e.event.outcome) for e in await recorded(world)]
    assert actions == [("document.redrive", "started"), ("document.redrive", "success")]


DENIED = [
    ({}, 401, "no_token"),
    ({"Authorization": "Bearer xyz.uvw.rst"}, 401, "invalid_token"),
]


@pytest.mark.parametrize(("headers", "status", "reason"), DENIED)
async def test_an_attempt_without_a_valid_token_is_recorded_without_the_token(
    world: Any, headers: dict[str, str], status: int, reason: str
) -> None:
    assert (await world.client.get("/v1/documents", headers=headers)).status_code == status
    (entry,) = await recorded(world)
    assert (entry.event.action, entry.event.outcome, entry.event.reason) == ("request.deny", "denied", reason)
    assert entry.event.details["route"] == "GET:/v1/documents"
    assert "xyz" not in str(entry.event.fields())
    assert "127.0.0.1" not in str(entry.event.fields())
    assert entry.event.actor == world.ids.caller_id("", "127.0.0.1")


async def test_an_attempt_without_the_scope_is_recorded_with_its_caller(world: Any) -> None:
    await world.client.get("/v1/audit", headers=world.bearer("alice"))
    (entry,) = await recorded(world)
    assert (entry.event.reason, entry.event.actor) == ("missing_scope", actor(world, "alice"))
    assert "rag:audit" in str(entry.event.details["why"])


async def test_a_denied_action_has_one_entry(world: Any) -> None:
    files = {"file": ("notes.md", b"# Notes", "text/markdown")}
    answer = await world.client.post("/v1/documents", files=files, headers=world.bearer("alice"))
    document = answer.json()["document_id"]

    async def refused(*_: Any, **__: Any) -> None:
        raise Denied("it belongs to somebody else")

    world.ledger.confirm_deletions = refused
    await world.client.delete(f"/v1/documents/{document}", headers=world.bearer("alice"))
    outcomes = [(e.event.action, e.event.outcome) for e in await recorded(world)][1:]
    assert outcomes == [("document.withdraw", "started"), ("document.withdraw", "denied")]


async def test_a_flood_of_attempts_without_a_token_does_not_fill_the_log(world: Any) -> None:
    world.app.state.anonymous = RateLimit(3)
    for _ in range(6):
        assert (await world.client.get("/v1/documents")).status_code == 401
    assert len(await recorded(world)) == 3
    assert 'tidemark_audit_lost_total{reason="flood"}' in (await world.metrics.get("/metrics")).text


# -- when the log cannot be written


def _down(world: Any) -> None:
    async def down(*_: Any) -> None:
        raise Unavailable("the database is down")

    world.ledger.append_audit = down


@pytest.mark.parametrize(
    ("method", "path", "scope"),
    [
        ("DELETE", "/v1/documents/{}", "rag:query rag:erase"),
        ("POST", "/v1/documents/{}/redrive", "rag:query rag:admin"),
        ("POST", "/v1/erasures", "rag:erase"),
        ("POST", "/v1/access", "rag:admin"),
    ],
)
async def test_erasures_and_administration_are_refused_and_nothing_is_done(
    world: Any, method: str, path: str, scope: str
) -> None:
    document = await world.index("High water at noon.")
    _down(world)
    bodies = {
        "/v1/erasures": {"document_id": document},
        "/v1/access": {"effect": "revoke", "principal": "user:alice", "document_id": document},
    }
    body = {"json": bodies[path]} if path in bodies else {}
    answer = await world.client.request(method, path.format(document), headers=world.bearer("alice", scope), **body)
    assert answer.status_code == 503
    assert "audit log" in answer.json()["detail"]
    assert await world.ledger.suppressed("acme", [document]) == set()
    assert await world.published() == []
    assert (await world.post("alice", "/v1/search", query="water")).json()["hits"]


async def test_queries_are_answered_by_default(world: Any) -> None:
    await world.index("High water at noon.")
    _down(world)
    assert (await world.post("alice", "/v1/search", query="water")).json()["hits"]


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/search", {"query": "water"}),
        ("/v1/answers", {"question": "water"}),
        ("/v1/answers", {"question": "water", "stream": True}),
    ],
)
async def test_a_strict_gateway_shows_nothing_that_it_cannot_record(
    world: Any, path: str, body: dict[str, Any]
) -> None:
    world.app.state.trail.strict = True
    await world.index("High water at noon.")
    _down(world)
    answer = await world.post("alice", path, **body)
    assert "noon" not in answer.text
    assert "audit log" in answer.text
    assert answer.status_code == (200 if body.get("stream") else 503)


# -- reading


async def test_only_an_auditor_reads_the_log(world: Any) -> None:
    for path in ("/v1/audit", "/v1/audit?format=jsonl", "/v1/audit/verify"):
        for scope in ("rag:query rag:ingest", "rag:erase rag:admin"):
            assert (await world.client.get(path, headers=world.bearer("alice", scope))).status_code == 403
        assert (await world.client.get(path)).status_code == 401


async def test_an_auditor_sees_the_own_tenant_only(world: Any) -> None:
    await world.index("High water at noon.")
    await world.post("alice", "/v1/search", query="water")
    for path in ("/v1/audit", "/v1/audit?format=jsonl"):
        mine = await world.client.get(path, headers=world.bearer("dpo", AUDITOR))
        theirs = await world.client.get(path, headers=world.bearer("eve", AUDITOR))
        assert "query.search" in mine.text
        assert "query.search" not in theirs.text
        assert actor(world, "alice") not in theirs.text


async def test_a_search_of_the_log_is_newest_first_paged_and_itself_recorded(world: Any) -> None:
    for _ in range(5):
        await world.post("alice", "/v1/search", query="water")
    headers = world.bearer("dpo", AUDITOR)
    first = (await world.client.get("/v1/audit?action=query&limit=3", headers=headers)).json()
    second = (await world.client.get(f"/v1/audit?action=query&limit=3&before={first['next']}", headers=headers)).json()
    assert [each["number"] for each in first["entries"] + second["entries"]] == [5, 4, 3, 2, 1]
    assert second["next"] is None
    assert [each["actor"] for each in await read(world, action="audit")] == [actor(world, "dpo")] * 2


async def test_the_log_is_searched_by_time_actor_object_and_outcome(world: Any) -> None:
    document = await world.index("High water at noon.")
    await world.post("alice", "/v1/search", query="water")
    await world.post("bob", "/v1/search", query="water")
    await world.client.get("/v1/documents")
    assert [each["number"] for each in await read(world, object=document)] == [1]
    assert [each["number"] for each in await read(world, object=f"document:{document}")] == [1]
    assert [each["number"] for each in await read(world, actor=actor(world, "bob"))] == [2]
    assert [each["reason"] for each in await read(world, outcome="denied")] == ["no_token"]
    assert await read(world, since="2999-01-01T00:00:00Z") == []
    assert await read(world, until="2020-01-01T00:00:00") == []


@pytest.mark.parametrize("asked", [{"params": {"format": "jsonl"}}, {"headers": {"Accept": "application/jsonl"}}])
async def test_an_export_has_a_line_for_each_entry_with_the_names_of_ocsf(world: Any, asked: dict[str, Any]) -> None:
    for _ in range(3):
        await world.post("alice", "/v1/search", query="water")
    headers = world.bearer("dpo", AUDITOR) | asked.pop("headers", {})
    answer = await world.client.get("/v1/audit", headers=headers, **asked)
    assert answer.headers["content-type"].startswith("application/jsonl")
    lines = [json.loads(line) for line in answer.text.splitlines()]
    assert [line["metadata"]["sequence"] for line in lines][:3] == [1, 2, 3]
    for line in lines:
        kept = line["unmapped"]["tidemark"]
        assert link(kept["previous"], kept["fields"]) == kept["link"]


async def test_a_verification_reports_an_intact_log_and_then_the_entry_that_was_changed(world: Any) -> None:
    for _ in range(3):
        await world.post("alice", "/v1/search", query="water")
    await recorded(world)
    await anchor(await world.ledger.audit_heads(), {}, world.app.state.checkpoints)
    headers = world.bearer("dpo", AUDITOR)
    intact = (await world.client.get("/v1/audit/verify", headers=headers)).json()
    assert (intact["intact"], intact["entries"], intact["anchored"], intact["findings"]) == (True, 3, 3, [])
    del world.ledger.chains["acme"][1]
    changed = (await world.client.get("/v1/audit/verify", headers=headers)).json()
    assert not changed["intact"]
    assert (changed["findings"][0]["kind"], changed["findings"][0]["first"]) == ("missing", 2)
