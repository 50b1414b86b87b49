from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any
from urllib.parse import unquote

import pytest

from gateway.uploads import safe_name
from rag.errors import Unavailable
from rag.ingest.change_events import publish_outbox
from rag.labels import split_label
from rag.models import DocumentRecord, DocumentStatus
from rag.ports import Delta
from schemas.events import ChangeKind


async def upload(
    world: Any, user: str = "alice", *, content: bytes = b"# Tides\n\nHigh water at noon.", name: str = "tides.md",
    scope: str = "rag:query rag:ingest", **fields: Any,
) -> Any:  # fmt: skip
    files = {"file": (name, content, "text/markdown")}
    return await world.client.post("/v1/documents", files=files, data=fields, headers=world.bearer(user, scope))


async def test_an_upload_is_stored_then_announced(world: Any) -> None:
    answer = await upload(world, title="Tide tables")
    assert answer.status_code == 202
    said = answer.json()
    assert said["uri"].startswith("s3://tidemark-internal/uploads/acme/")
    assert answer.headers["location"] == said["status_url"] == f"/v1/documents/{said['document_id']}"
    stored = await world.objects.get(said["uri"])
    assert stored.content == b"# Tides\n\nHigh water at noon."
    assert stored.state.labels == {"principals": "user:alice", "title": "Tide%20tables"}
    (event,) = await world.published()
    told = (event.document_id, event.tenant, event.source, event.uri)
    assert told == (said["document_id"], "acme", "uploads", said["uri"])
    assert (event.kind, event.origin, event.version) == (ChangeKind.CHANGED, "upload", stored.state.version)


async def test_an_upload_is_pending_until_it_is_indexed(world: Any) -> None:
    said = (await upload(world)).json()
    status = (await world.client.get(said["status_url"], headers=world.bearer("alice"))).json()
    assert (status["status"], status["uri"]) == ("pending", said["uri"])
    await world.index("High water at noon.", source="uploads", uri=said["uri"], principals=["user:alice"])
    assert (await world.client.get(said["status_url"], headers=world.bearer("alice"))).json()["status"] == "live"


async def test_an_upload_about_an_erased_person_is_refused_and_its_uploader_is_told(world: Any) -> None:
    said = (await upload(world)).json()
    content = (await world.objects.get(said["uri"])).content
    refused = DocumentRecord(
        said["document_id"], 0, DocumentStatus.SUPPRESSED, "acme", "uploads", said["uri"], reason="suppressed",
        content_hash=world.ids.content_hash("acme", content), principals=("user:alice",),
    )  # fmt: skip
    await world.ledger.swap(world.spec.index_id, [Delta(refused)])

    async def status() -> str:
        return str((await world.client.get(said["status_url"], headers=world.bearer("alice"))).json()["status"])

    assert await status() == "suppressed"
    again = (await upload(world, content=b"# Tides\n\nNobody is named.")).json()
    assert (again["document_id"], again["replaces"]) == (said["document_id"], False)
    assert await status() == "pending"


async def test_a_pending_upload_is_its_uploaders_alone(world: Any) -> None:
    said = (await upload(world)).json()
    for other in ("bob", "eve"):
        assert (await world.client.get(said["status_url"], headers=world.bearer(other))).status_code == 404


async def test_an_upload_can_be_shared_with_own_groups(world: Any) -> None:
    said = (await upload(world, principals=["group:staff", "user:alice"])).json()
    assert (await world.objects.head(said["uri"])).labels["principals"] == "group:staff,user:alice"


@pytest.mark.parametrize("principal", ["group:finance", "user:bob", "staff", "group:staff,group:finance", "*"])
async def test_an_upload_cannot_be_shared_with_others(world: Any, principal: str) -> None:
    answer = await upload(world, principals=[principal])
    assert (answer.status_code, answer.json()["reason"]) == (403, "foreign_principal")
    assert not await world.published()


@pytest.mark.parametrize("subject", ["al%69ce", "x%2Cuser:alice", "x,user:alice", "=?utf-8?q?alice?="])
async def test_a_subject_that_looks_encoded_shares_no_folder_with_another(world: Any, subject: str) -> None:
    form = {
        "files": {"file": ("a.md", b"# Tides", "text/markdown")},
        "headers": world.bearer("alice", "rag:ingest", sub=subject),
    }
    said = (await world.client.post("/v1/documents", **form)).json()
    label = (await world.objects.head(said["uri"])).labels["principals"]
    assert split_label(label) == (f"user:{subject}",)


async def test_an_upload_needs_its_scope(world: Any) -> None:
    answer = await upload(world, scope="rag:query")
    assert answer.status_code == 403
    assert 'scope="rag:ingest"' in answer.headers["www-authenticate"]


async def test_an_upload_of_a_tenant_without_an_uploads_source_is_refused(world: Any) -> None:
    answer = await upload(world, "eve")
    assert answer.status_code == 403
    assert "uploads" in answer.json()["detail"]


@pytest.mark.parametrize(
    "name",
    ["../../etc/passwd", "..\\..\\boot.ini", "/etc/shadow", "a/../../b.md", "..", "%2e%2e%2fx.md", ". ", "x" * 3000 + ".md",
     "a\tb.md", "ü" * 300, "CON", "a?b#c.md", "näme.md", "a\u202egnp.md"],
)  # fmt: skip
async def test_a_file_name_cannot_leave_its_folder(world: Any, name: str) -> None:
    answer = await upload(world, name=name)
    assert answer.status_code == 202, answer.text
    path = unquote(answer.json()["uri"].removeprefix("s3://tidemark-internal/"))
    uploads, tenant, _, last = path.split("/")
    assert (uploads, tenant) == ("uploads", "acme")
    assert last not in {"", ".", ".."}
    assert len(path.encode()) <= 1024
    assert "/" not in last
    assert "\\" not in last


def test_a_safe_name_stays_as_it_is() -> None:
    assert safe_name("Tide tables 2026 (final).pdf") == "Tide tables 2026 (final).pdf"


async def test_the_same_file_twice_is_one_document(world: Any) -> None:
    first, second = (await upload(world)).json(), (await upload(world)).json()
    assert {**first, "replaces": True} == second
    assert first["replaces"] is False
    stored = [state.uri async for state in world.objects.list("s3://tidemark-internal/uploads")]
    assert stored == [first["uri"]]
    assert {event.document_id for event in await world.published()} == {first["document_id"]}


async def test_a_changed_file_of_a_name_replaces_the_earlier_one(world: Any) -> None:
    first = (await upload(world, principals=["group:staff"])).json()
    second = (await upload(world, content=b"# Tides\n\nLow water at six.")).json()
    assert second["document_id"] == first["document_id"]
    stored = await world.objects.get(first["uri"])
    assert stored.content == b"# Tides\n\nLow water at six."
    assert stored.state.labels["principals"] == "user:alice"  # nobody keeps the access that the earlier one gave


@pytest.mark.parametrize(
    ("one", "other"),
    [("a.md", "b.md"), ("a?b.md", "a*b.md"), ("A.md", "a.md"), ("x" * 300 + "1.md", "x" * 300 + "2.md")],
)
async def test_files_of_other_names_are_other_documents(world: Any, one: str, other: str) -> None:
    ids = {(await upload(world, name=name)).json()["document_id"] for name in (one, other)}
    assert len(ids) == 2


async def test_one_name_of_two_uploaders_is_two_documents(world: Any) -> None:
    ids = {(await upload(world, user)).json()["document_id"] for user in ("alice", "bob")}
    assert len(ids) == 2


async def test_the_folder_and_the_unicode_form_of_a_name_do_not_matter(world: Any) -> None:
    names = ["n\u00e4me.md", "na\u0308me.md", "folder/n\u00e4me.md", "C:\\folder\\n\u00e4me.md"]
    assert len({(await upload(world, name=name)).json()["document_id"] for name in names}) == 1


async def test_a_changed_upload_is_pending_until_its_new_content_is_indexed(world: Any) -> None:
    said = (await upload(world)).json()
    await world.index("High water at noon.", source="uploads", uri=said["uri"], principals=["user:alice"])

    async def status() -> str:
        return str((await world.client.get(said["status_url"], headers=world.bearer("alice"))).json()["status"])

    assert await status() == "live"
    await upload(world, content=b"# Tides\n\nLow water at six.")
    assert await status() == "pending"
    await world.index("Low water at six.", source="uploads", uri=said["uri"], principals=["user:alice"])
    assert await status() == "live"


async def test_an_unchanged_upload_stays_live(world: Any) -> None:
    content = b"# Tides\n\nHigh water at noon."
    said = (await upload(world, content=content)).json()
    hashed = world.ids.content_hash("acme", content)
    await world.index(
        "High water at noon.", source="uploads", uri=said["uri"], principals=["user:alice"], content_hash=hashed
    )
    assert (await upload(world, content=content)).json()["document_id"] == said["document_id"]
    assert (await world.client.get(said["status_url"], headers=world.bearer("alice"))).json()["status"] == "live"


@pytest.mark.parametrize("size", [4097, 300_000])
async def test_a_file_over_the_limit_is_refused(world: Any, size: int) -> None:
    answer = await upload(world, content=b"x" * size)
    assert (answer.status_code, answer.headers["content-type"]) == (413, "application/problem+json")
    assert not await world.published()


async def test_an_endless_body_is_cut_off(world: Any) -> None:
    sent = 0

    async def endless() -> Any:
        nonlocal sent
        yield b'--b\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n'
        while sent < 100:
            sent += 1
            yield b"x" * 65_536

    headers = world.bearer("alice") | {"Content-Type": "multipart/form-data; boundary=b"}
    answer = await world.client.post("/v1/documents", content=endless(), headers=headers)
    assert answer.status_code == 413


async def test_the_body_of_a_request_without_a_token_is_not_read(world: Any) -> None:
    async def never() -> Any:
        raise AssertionError("the body was read")
        yield b""

    headers = {"Content-Type": "multipart/form-data; boundary=b"}
    assert (await world.client.post("/v1/documents", content=never(), headers=headers)).status_code == 401


@pytest.mark.parametrize(
    ("content", "kind"),
    [(b"", "multipart/form-data; boundary=b"), (b"--b--", "multipart/form-data; boundary=b"), (b"{}", "application/json"),
     (b"junk", "multipart/form-data"), (b"\xff\x00", "multipart/form-data; boundary=b"), (b"file=x", "application/x-www-form-urlencoded")],
)  # fmt: skip
async def test_a_broken_form_is_a_problem(world: Any, content: bytes, kind: str) -> None:
    answer = await world.client.post(
        "/v1/documents", content=content, headers=world.bearer("alice") | {"Content-Type": kind}
    )
    assert answer.status_code in {400, 422}
    assert answer.headers["content-type"] == "application/problem+json"


async def test_an_empty_file_is_reported_as_empty(world: Any) -> None:
    answer = await upload(world, content=b"")
    assert (answer.status_code, answer.json()["reason"]) == (422, "empty")
    assert "the file is empty" in answer.json()["detail"]
    assert not await world.published()


@pytest.mark.parametrize("title", ["x" * 301, "a\x07b", "漢" * 280])
async def test_a_title_that_no_label_holds_is_refused(world: Any, title: str) -> None:
    assert (await upload(world, title=title)).status_code == 422


async def test_documents_are_paged_and_only_those_one_may_see(world: Any) -> None:
    mine = sorted([await world.index(f"Document {n}.", name=f"{n}.md") for n in range(5)])
    await world.index("Contract.", name="c.md", principals=["group:contractors"])
    seen: list[Any] = []
    after: Any = ""
    for _ in range(3):
        query = {"limit": 2} | ({"after": after} if after else {})
        page = (await world.client.get("/v1/documents", params=query, headers=world.bearer("alice"))).json()
        seen += [each["document_id"] for each in page["documents"]]
        after = page["next"]
    assert (seen, after) == (mine, None)
    assert not (await world.client.get("/v1/documents", headers=world.bearer("eve"))).json()["documents"]


async def test_dead_documents_show_with_their_status(world: Any) -> None:
    await world.index("Fine.", name="a.md")
    dead = await world.index("", name="b.pdf", status=DocumentStatus.DEAD)
    page = (await world.client.get("/v1/documents?state=dead", headers=world.bearer("alice"))).json()
    assert [each["document_id"] for each in page["documents"]] == [dead]


@pytest.mark.parametrize(
    "query",
    ["limit=0", "limit=501", "after=x' or 1=1", "state=gone", "limit=many", "source=S3", "reason=a b", "title=%00"],
)
async def test_bad_paging_is_a_problem(world: Any, query: str) -> None:
    answer = await world.client.get(f"/v1/documents?{query}", headers=world.bearer("alice"))
    assert (answer.status_code, answer.headers["content-type"]) == (422, "application/problem+json")


async def test_documents_are_found_by_source_state_and_title(world: Any) -> None:
    handbook = await world.index("Fine.", name="Handbook.md")
    other = await world.index("Fine.", name="b.md", source="uploads")

    async def found(query: str) -> set[str]:
        page = (await world.client.get(f"/v1/documents?{query}", headers=world.bearer("alice"))).json()
        return {each["document_id"] for each in page["documents"]}

    assert await found("title=handb") == await found("source=s3") == await found("source=s3&state=live") == {handbook}
    assert await found("source=uploads") == {other}
    assert await found("state=live&reason=encrypted") == await found("title=none") == set()


async def test_a_lineage_leads_from_version_to_event_run_points_and_indexes(world: Any) -> None:
    document_id = await world.index("High water at noon.")
    found = (await world.client.get(f"/v1/documents/{document_id}/lineage", headers=world.bearer("alice"))).json()
    event = ("documents.changed.v1", 3, 41, "run-1")
    assert found["source_version"] == "v1"
    assert tuple(found["cause"][name] for name in ("topic", "partition", "offset", "run_id")) == event
    record = (await world.ledger.recorded(world.spec.index_id, [document_id]))[document_id]
    places = {chunk_id: placement.point_id for chunk_id, placement in record.chunks.items()}
    assert {each["chunk_id"]: each["point_id"] for each in found["points"]} == places
    (indexed,) = found["indexes"]
    assert (indexed["index_id"], indexed["is_current"], indexed["revision"]) == (world.spec.index_id, True, 1)
    written, updated = (
        datetime.fromisoformat(each) for each in (found["points"][0]["written_at"], indexed["updated_at"])
    )
    assert timedelta(0) <= updated - written + timedelta(milliseconds=1) < timedelta(minutes=1)


@pytest.mark.parametrize("path", ["", "/lineage"])
async def test_other_peoples_documents_look_absent(world: Any, path: str) -> None:
    document_id = await world.index("High water at noon.")
    hidden = await world.client.get(f"/v1/documents/{document_id}{path}", headers=world.bearer("bob"))
    absent = await world.client.get(
        f"/v1/documents/{'0' * 8}-0000-0000-0000-{'0' * 12}{path}", headers=world.bearer("bob")
    )
    assert hidden.status_code == absent.status_code == 404


async def test_the_uploader_withdraws_an_upload(world: Any) -> None:
    said = (await upload(world, principals=["group:staff"])).json()
    await world.index("High water at noon.", source="uploads", uri=said["uri"])
    answer = await world.client.delete(said["status_url"], headers=world.bearer("alice"))
    assert answer.status_code == 202
    assert await world.objects.head(said["uri"]) is None
    last = (await world.published())[-1]
    assert (last.kind, last.document_id) == (ChangeKind.DELETED, said["document_id"])
    confirmed = await world.ledger.held_deletions(world.spec.index_id, "acme", "uploads")
    assert confirmed == {said["document_id"]: True}  # so that the guard does not hold it


async def test_a_pending_upload_can_be_withdrawn_and_is_pending_no_longer(world: Any) -> None:
    said = (await upload(world)).json()
    assert (await world.client.delete(said["status_url"], headers=world.bearer("alice"))).status_code == 202
    assert await world.objects.head(said["uri"]) is None
    assert (await world.client.get(said["status_url"], headers=world.bearer("alice"))).status_code == 404


async def test_a_colleagues_upload_needs_the_admin_scope(world: Any) -> None:
    said = (await upload(world, principals=["group:staff"])).json()
    await world.index("High water at noon.", source="uploads", uri=said["uri"])
    colleague = {"sub": "carol"}
    refused = await world.client.delete(said["status_url"], headers=world.bearer("alice", **colleague))
    assert refused.status_code == 403
    assert await world.objects.head(said["uri"]) is not None
    admin = world.bearer("alice", "rag:query rag:ingest rag:admin", **colleague)
    assert (await world.client.delete(said["status_url"], headers=admin)).status_code == 202


async def test_what_another_source_holds_is_deleted_there(world: Any) -> None:
    document_id = await world.index("High water at noon.")
    answer = await world.client.delete(
        f"/v1/documents/{document_id}", headers=world.bearer("alice", "rag:ingest rag:admin")
    )
    assert answer.status_code == 409
    assert "'s3'" in answer.json()["detail"]


async def test_a_caller_cannot_withdraw_a_document_that_they_may_not_see(world: Any) -> None:
    said = (await upload(world)).json()
    await world.index("High water at noon.", source="uploads", uri=said["uri"], principals=["user:alice"])
    answer = await world.client.delete(said["status_url"], headers=world.bearer("bob", "rag:ingest rag:admin"))
    assert answer.status_code == 404


async def erase(world: Any, path: str, user: str = "alice", scope: str = "rag:query rag:erase", **claims: Any) -> Any:
    return await world.client.delete(path, headers=world.bearer(user, scope, **claims))


async def test_with_the_erase_scope_any_visible_document_is_erased_and_announced(world: Any) -> None:
    document_id = await world.index("High water at noon.")
    kept = await world.index("Low water at six.", name="b.md")
    answer = await erase(world, f"/v1/documents/{document_id}")
    assert (answer.status_code, answer.json()["status"]) == (202, "suppressed")
    assert (await world.client.get(f"/v1/documents/{document_id}", headers=world.bearer("alice"))).status_code == 404
    hits = (await world.post("alice", "/v1/search", query="water")).json()["hits"]
    assert {hit["document_id"] for hit in hits} == {kept}
    assert (await world.tombstones(), await world.published()) == ([document_id], [])
    (erasure,) = await world.ledger.erasures("acme")
    assert erasure.document_ids == [document_id]


async def test_a_caller_cannot_suppress_a_document_that_they_may_not_see(world: Any) -> None:
    document_id = await world.index("High water at noon.")
    for user in ("bob", "eve"):
        assert (await erase(world, f"/v1/documents/{document_id}", user)).status_code == 404
    for scope in ("rag:query", "rag:query rag:ingest", "rag:query rag:admin"):
        assert (await erase(world, f"/v1/documents/{document_id}", scope=scope)).status_code in {403, 409}
    assert not await world.ledger.suppressed("acme", [document_id])
    assert not await world.published()


async def test_a_suppression_holds_without_the_log_and_is_announced_later(
    world: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    document_id = await world.index("High water at noon.")

    async def refused(*_: Any, **__: Any) -> None:
        raise Unavailable("Kafka is down")

    with monkeypatch.context() as outage:
        outage.setattr(world.events, "publish", refused)
        assert (await erase(world, f"/v1/documents/{document_id}")).status_code == 202
    assert await world.ledger.suppressed("acme", [document_id])
    assert await publish_outbox(world.ledger, world.events) == 2
    assert await world.tombstones() == [document_id]


async def test_an_erased_upload_loses_its_object_and_its_name(world: Any) -> None:
    said = (await upload(world, principals=["group:staff"])).json()
    await world.index("High water at noon.", source="uploads", uri=said["uri"])
    assert (await erase(world, said["status_url"], sub="carol")).status_code == 202
    (erasure,) = await world.ledger.erasures("acme")
    assert [each.uri for each in erasure.documents] == [said["uri"]]
    assert (await world.client.get(said["status_url"], headers=world.bearer("alice"))).status_code == 404
    again = await upload(world)
    assert again.status_code == 409
    assert "another name" in again.json()["detail"]


async def test_an_erasure_is_accepted_while_the_object_cannot_be_deleted(world: Any) -> None:
    said = (await upload(world)).json()
    await world.index("High water at noon.", source="uploads", uri=said["uri"], principals=["user:alice"])
    world.objects.denied.add("s3://tidemark-internal")
    assert (await erase(world, said["status_url"])).status_code == 202
    assert (await world.client.get(said["status_url"], headers=world.bearer("alice"))).status_code == 404


async def test_an_upload_that_is_not_indexed_yet_can_be_erased(world: Any) -> None:
    said = (await upload(world)).json()
    assert (await erase(world, said["status_url"])).status_code == 202
    (erasure,) = await world.ledger.erasures("acme")
    assert [tuple(each) for each in erasure.documents] == [(said["document_id"], "uploads", said["uri"])]


async def test_a_document_of_a_removed_source_is_erased(world: Any) -> None:
    document_id = await world.index("High water at noon.", source="removed")
    assert (await erase(world, f"/v1/documents/{document_id}")).status_code == 202
    assert await world.ledger.suppressed("acme", [document_id])
    assert await world.tombstones() == [document_id]


async def test_a_redrive_announces_the_document_again(world: Any) -> None:
    document_id = await world.index("", name="b.pdf", status=DocumentStatus.DEAD)
    path = f"/v1/documents/{document_id}/redrive"
    assert (await world.client.post(path, headers=world.bearer("alice"))).status_code == 403
    for user, status in (("eve", 404), ("alice", 202)):
        answer = await world.client.post(path, headers=world.bearer(user, "rag:query rag:admin"))
        assert answer.status_code == status
    (event,) = await world.published()
    assert (event.document_id, event.kind, event.origin) == (document_id, ChangeKind.CHANGED, "redrive")
