"""The stories of a document on the real stack: it arrives, changes, is derived again, and goes. Each test goes on where the last ended."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import pytest

from tests.live.clean_build import require_clean_build
from tests.live.world import Traces, World, eventually

HANDBOOK = """# Mooring handbook

Every zeppelin is moored with three ropes at night.

## Storms

In a storm the crew adds two steel cables and lowers the nose.

## Guests

Guests may board only when the gangway light is green.
"""


@pytest.fixture(scope="module")
def world(stack: Mapping[str, str]) -> World:
    return World(stack)


def test_documents_of_every_source_arrive_and_are_cited(world: World) -> None:
    world.put("handbook/mooring.md", HANDBOOK)
    world.put("finance/budget.md", "# Budget\n\nThe helium budget is 40,000 crowns a year.\n")
    world.put("secret.txt", "The pilot's lucky number is forty-two.", principals="user:alice")
    world.put("broken/truncated.pdf", b"%PDF-1.7\n1 0 obj\n<< /Type /Catalog")
    world.put("broken/empty.md", b"")
    world.put("broken/binary.bin", bytes(range(256)) * 64)
    world.put("broken/lying.docx", b"PK\x03\x04 not a zip at all")
    (world.inbox / "notes").mkdir(parents=True, exist_ok=True)
    (world.inbox / "notes" / "galley.md").write_text("# Galley\n\nThe galley serves soup at noon.\n")
    world.sql(
        "insert into tickets (id, subject, body, updated_at) values ('9001', 'Leaking valve', "
        "'The hydrogen valve on deck two leaks since Tuesday.', %s)", "2026-02-01 10:00:00+00:00",
    )  # fmt: skip
    upload = world.call(
        "POST",
        "/v1/documents",
        "alice",
        files={"file": ("rota.md", b"# Rota\n\nAlice steers on Mondays.\n", "text/markdown")},
    )
    assert upload.status_code == 202, upload.text
    bucket, internal = (f"s3://{world.env[name]}" for name in ("S3_BUCKET", "INTERNAL_BUCKET"))
    wanted = {
        f"{bucket}/handbook/mooring.md", f"{bucket}/finance/budget.md", "folder://inbox/notes/galley.md",
        f"{internal}/rows/tickets/9001.json",
        *(f"{bucket}/broken/{name}" for name in ("truncated.pdf", "empty.md", "binary.bin", "lying.docx")),
    }  # fmt: skip
    found = eventually(
        world.documents, lambda seen: wanted <= seen.keys(), "documents of every source are in the catalog"
    )
    assert {found[uri]["status"] for uri in wanted if "/broken/" not in uri} == {"live"}
    (hit, *_) = world.search("how many ropes moor a zeppelin at night")
    assert hit["uri"] == f"{bucket}/handbook/mooring.md"
    assert hit["topic"] == "documents.changed.v1"
    assert hit["offset"] >= 0
    assert hit["run_id"]
    answer = world.call("POST", "/v1/answers", json={"question": "How many ropes moor a zeppelin at night?"}).json()
    assert any("three ropes" in citation["quote"] for citation in answer["citations"]), answer
    assert "hydrogen valve" in world.texts("leaking hydrogen valve")
    assert "soup at noon" in world.texts("soup in the galley")
    eventually(lambda: world.texts("who steers on Mondays", "alice"), lambda seen: "Alice steers" in seen, "the upload")


def test_a_broken_document_is_dead_with_a_plain_reason_and_blocks_no_other(world: World) -> None:
    documents = world.documents()
    reasons = {uri.rsplit("/", 1)[1]: row["reason"] for uri, row in documents.items() if row["status"] == "dead"}
    assert reasons == {
        "truncated.pdf": "corrupt", "empty.md": "empty", "binary.bin": "unsupported", "lying.docx": "corrupt",
    }  # fmt: skip
    ids = {row["document_id"] for row in documents.values() if row["status"] == "dead"}
    announced = eventually(
        lambda: world.events("documents.dead.v1"),
        lambda seen: ids <= {event["document_id"] for event in seen},
        "every dead document is announced, after the ledger has it",
    )
    assert ids == {event["document_id"] for event in announced}
    assert all("uri" not in event for event in announced)


def test_a_document_is_found_only_by_callers_who_may_see_it(world: World) -> None:
    assert "three ropes" in world.texts("zeppelin ropes", "alice")
    assert "three ropes" not in world.texts("zeppelin ropes", "bob")
    assert "three ropes" not in world.texts("zeppelin ropes", "eve")
    assert "40,000 crowns" in world.texts("helium budget", "alice")
    assert "40,000 crowns" not in world.texts("helium budget", "dpo")
    assert "forty-two" in world.texts("lucky number", "alice")
    assert "forty-two" not in world.texts("lucky number", "demo")
    assert "Alice steers" not in world.texts("who steers on Mondays", "bob")


def test_the_same_upload_twice_is_one_hit_and_a_changed_one_replaces_it(world: World) -> None:
    def upload(tanks: int) -> dict[str, Any]:
        content = f"# Zebrafish\n\nThe aquarium keeps its zebrafish in {tanks} tanks.\n".encode()
        response = world.call(
            "POST", "/v1/documents", "alice", files={"file": ("zebrafish.md", content, "text/markdown")}
        )
        assert response.status_code == 202, response.text
        return dict(response.json())

    def tanks() -> list[str]:
        return [hit["text"] for hit in world.search("zebrafish tanks", "alice") if "zebrafish" in hit["text"]]

    def status() -> str:
        return str(world.call("GET", first["status_url"], "alice").json()["status"])

    first = upload(417)
    eventually(status, lambda seen: seen == "live", "the first upload")
    assert upload(417)["document_id"] == first["document_id"]
    assert status() == "live"
    assert len(tanks()) == 1
    assert upload(512)["replaces"] is True
    assert status() == "pending"
    eventually(status, lambda seen: seen == "live", "the changed upload")
    (text,) = tanks()
    assert "512 tanks" in text


def test_a_request_without_a_token_or_with_the_wrong_one_is_refused(world: World) -> None:
    assert world.call("POST", "/v1/search", "", json={"query": "x"}).status_code == 401
    forged = world.http.post("/v1/search", json={"query": "x"}, headers={"Authorization": "Bearer e30.e30.e30"})
    assert forged.status_code == 401
    assert forged.headers["content-type"].startswith("application/problem+json")
    narrow = world.http.post(
        world.issuer["token_endpoint"], data={"grant_type": "client_credentials", "scope": "rag:audit"},
        auth=(world.env["OIDC_CLIENT_ID"], world.env["OIDC_CLIENT_SECRET"]),
    ).json()["access_token"]  # fmt: skip
    assert (
        world.http.post("/v1/search", json={"query": "x"}, headers={"Authorization": f"Bearer {narrow}"}).status_code
        == 403
    )


def test_one_trace_leads_from_the_notification_to_the_upsert(world: World, traces: Traces) -> None:
    journey = {
        ("tidemark-consumers", "source.handle"), ("tidemark-consumers", "events.publish"),
        ("tidemark-dagster", "documents.parse"), ("tidemark-dagster", "documents.embed"), ("tidemark-dagster", "documents.apply"),
    }  # fmt: skip
    eventually(traces.by_trace, lambda seen: any(journey <= spans for spans in seen.values()), "one trace of all steps")


def test_an_edit_costs_one_embedding_and_old_sentences_are_gone(world: World) -> None:
    before = world.document("handbook/mooring.md")
    world.put("handbook/mooring.md", HANDBOOK.replace("adds two steel cables", "adds four silk cables"))
    world.remove("finance/budget.md")
    world.sql("update tickets set body = 'The valve was replaced.', updated_at = %s where id = '9001'", _now())
    _disorder(world)
    eventually(lambda: world.texts("storm cables"), lambda seen: "four silk" in seen, "the edit is found")
    assert "two steel" not in world.texts("two steel cables in a storm")
    eventually(lambda: world.texts("helium budget"), lambda seen: "40,000" not in seen, "the deletion is followed")
    eventually(lambda: world.texts("valve replaced"), lambda seen: "was replaced" in seen, "the row's change")
    assert "hydrogen valve" not in world.texts("hydrogen valve")
    assert "three ropes" in world.texts("zeppelin ropes")

    def embedded() -> list[int]:
        events = (e for e in world.events("documents.indexed.v1") if e["document_id"] == before["document_id"])
        return [e["embedded"] for e in events if e["revision"] > before["revision"] and e["embedded"]]

    assert eventually(embedded, bool, "the edit is announced") == [1]


def _disorder(world: World) -> None:
    """A delete that overtook the write: the object is there, whatever the message says."""
    record = {
        "eventName": "ObjectRemoved:Delete", "eventTime": "2026-01-01T00:00:00.000Z",
        "s3": {"bucket": {"name": world.env["S3_BUCKET"]}, "object": {"key": "handbook/mooring.md"}},
    }  # fmt: skip
    world.sqs.send_message(QueueUrl=world.env["S3_QUEUE_URL"], MessageBody=json.dumps({"Records": [record]}))
    world.sqs.send_message(QueueUrl=world.env["S3_QUEUE_URL"], MessageBody="not an event at all")


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S+00:00")


def test_deleted_rows_and_files_go_with_the_next_diff(world: World) -> None:
    world.sql("delete from tickets where id = '9001'")
    (world.inbox / "notes" / "galley.md").unlink()
    eventually(lambda: world.texts("valve replaced"), lambda seen: "was replaced" not in seen, "the row is gone")
    eventually(lambda: world.texts("soup"), lambda seen: "soup at noon" not in seen, "the file is gone")


def test_a_deletion_is_announced_without_a_version_or_with_one_and_never_with_an_empty_one(world: World) -> None:
    world.remove("broken/empty.md")

    def deletions() -> list[dict[str, Any]]:
        return [event for event in world.events("documents.changed.v1") if event["kind"] == "DELETED"]

    seen = eventually(
        deletions, lambda found: any(event["uri"].endswith("empty.md") for event in found), "the deletion is announced"
    )
    assert "" not in {event["version"] for event in seen}


def test_a_backfill_while_documents_change_ends_as_a_clean_build_would(world: World) -> None:
    document_id = world.document("handbook/mooring.md")["document_id"]
    partition = eventually(
        lambda: [e["partition"] for e in world.events("documents.indexed.v1") if e["document_id"] == document_id],
        bool,
        "the document is announced",
    )[0]
    launched = world.graphql(
        """
        mutation ($partitions: [String!]!) {
          launchPartitionBackfill(backfillParams: {
            assetSelection: [{path: ["parsed_documents"]}, {path: ["chunks"]}, {path: ["embeddings"]}, {path: ["vector_index"]}],
            partitionNames: $partitions
          }) { __typename ... on LaunchBackfillSuccess { backfillId } ... on PythonError { message } }
        }
        """,
        partitions=[str(partition)],
    )["launchPartitionBackfill"]
    assert launched["__typename"] == "LaunchBackfillSuccess", launched
    for ropes in ("four", "five", "six"):
        world.put("handbook/mooring.md", HANDBOOK.replace("three ropes", f"{ropes} ropes"))
    status = (
        "query ($id: String!) { partitionBackfillOrError(backfillId: $id) { ... on PartitionBackfill { status } } }"
    )
    eventually(
        lambda: world.graphql(status, id=launched["backfillId"])["partitionBackfillOrError"]["status"],
        lambda seen: seen.startswith("COMPLETED"),
        "the backfill ends",
    )
    eventually(lambda: world.texts("zeppelin ropes"), lambda seen: "six ropes" in seen, "the last edit wins")
    assert "five ropes" not in world.texts("zeppelin ropes")
    assert asyncio.run(require_clean_build(world.inbox.parent)) >= 4


def test_what_dagster_runs_measured_shows_at_the_gateway(world: World) -> None:
    text = world.http.get(world.env["GATEWAY_METRICS_URL"]).text
    assert 'tidemark_documents_indexed_total{status="live"}' in text
    assert "tidemark_chunks_embedded_total" in text
