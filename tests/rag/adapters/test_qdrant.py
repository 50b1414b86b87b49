"""The calls that the adapter makes to create an index, against answers that a script gives."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
from qdrant_client import AsyncQdrantClient
from structlog.testing import capture_logs
from tenacity import wait_none

from rag.adapters import qdrant
from rag.adapters.qdrant import ALIAS, INDEXED, SETTLE_ATTEMPTS, Layout, QdrantIndex
from rag.errors import Conflict, Unavailable
from rag.models import IndexSpec

SPEC = IndexSpec("a" * 16, 8)
NAME = SPEC.collection
ABSENT = 404, {"status": {"error": f"Not found: Collection `{NAME}` doesn't exist!"}}
Answer = tuple[int, dict[str, Any]]


class Server:
    """A Qdrant of one collection. ``faults`` holds the answers that come before its own, by the call."""

    def __init__(self, *, version: str = "1.15.4", built: bool = False) -> None:
        self.version, self.exists = version, built
        self.fields = set(INDEXED) if built else set()
        self.aliases = {ALIAS: NAME} if built else {}
        self.params: dict[str, Any] = {"vectors": {"dense": {"size": SPEC.dimensions, "distance": "Cosine"}}}
        self.faults: dict[str, list[Answer]] = {}
        self.calls: list[str] = []
        self.writes: list[dict[str, Any]] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        call = f"{request.method} {request.url.path}"
        self.calls.append(call)
        if self.faults.get(call):
            status, body = self.faults[call].pop(0)
            return httpx.Response(status, json=body)
        return httpx.Response(200, json=self._answer(call, json.loads(request.content) if request.content else {}))

    def _answer(self, call: str, body: dict[str, Any]) -> dict[str, Any]:
        if call == "GET /":
            return {"title": "qdrant", "version": self.version}
        if not call.startswith("GET"):
            self.writes.append(body)
        answers: dict[str, Callable[[], Any]] = {
            f"GET /collections/{NAME}/exists": lambda: {"exists": self.exists},
            f"PUT /collections/{NAME}": lambda: self._create(body),
            f"GET /collections/{NAME}": self._info,
            f"PUT /collections/{NAME}/index": lambda: self._index(body),
            "GET /aliases": lambda: {
                "aliases": [{"alias_name": alias, "collection_name": name} for alias, name in self.aliases.items()]
            },
            "POST /collections/aliases": lambda: self._alias(body),
        }
        return {"result": answers[call](), "status": "ok", "time": 0.0}

    def _create(self, body: dict[str, Any]) -> bool:
        self.exists = True
        self.params |= {name: body[name] for name in ("shard_number", "replication_factor")}
        return True

    def _info(self) -> dict[str, Any]:
        return {
            "status": "green", "optimizer_status": "ok", "segments_count": 1,
            "config": {
                "params": self.params,
                "hnsw_config": {"m": 16, "ef_construct": 100, "full_scan_threshold": 10_000},
                "optimizer_config": {
                    "deleted_threshold": 0.2, "vacuum_min_vector_number": 1000, "default_segment_number": 0, "flush_interval_sec": 5,
                },
            },
            "payload_schema": {field: {"data_type": "keyword", "points": 0} for field in self.fields},
        }  # fmt: skip

    def _index(self, body: dict[str, Any]) -> dict[str, Any]:
        self.fields.add(body["field_name"])
        return {"operation_id": 1, "status": "completed"}

    def _alias(self, body: dict[str, Any]) -> bool:
        for action in body["actions"]:
            self.aliases[action["create_alias"]["alias_name"]] = action["create_alias"]["collection_name"]
        return True


@asynccontextmanager
async def opened(server: Server, layout: Layout | None = None) -> AsyncIterator[QdrantIndex]:
    client = AsyncQdrantClient(url="http://qdrant", check_compatibility=False, transport=httpx.MockTransport(server))
    yield QdrantIndex(client, layout)
    await client.close()


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(qdrant, "SETTLE_WAIT", wait_none())


def error(status: int) -> Answer:
    return status, {"status": {"error": "Service internal error: replicas are starting"}}


async def test_a_new_collection_gets_the_shards_and_replicas_of_the_settings() -> None:
    server = Server()
    async with opened(server, Layout(shards=3, replicas=2)) as index:
        await index.create(SPEC)
    assert (server.writes[0]["shard_number"], server.writes[0]["replication_factor"]) == (3, 2)
    assert server.fields == set(INDEXED)
    assert server.aliases == {ALIAS: NAME}


async def test_an_existing_collection_keeps_its_layout_and_the_difference_is_logged() -> None:
    server = Server(built=True)
    async with opened(server, Layout(replicas=2)) as index:
        with capture_logs() as logs:
            await index.create(SPEC)
    assert [(entry["event"], entry["replicas"]) for entry in logs] == [("index.other_layout", 1)]
    assert server.writes == []


async def test_creating_an_index_that_is_complete_only_reads() -> None:
    server = Server(built=True)
    async with opened(server) as index:
        for _ in range(2):
            await index.create(SPEC)
    assert {call.partition(" ")[0] for call in server.calls} == {"GET"}


async def test_an_alias_is_set_by_one_create_and_never_deleted_before() -> None:
    server = Server(built=True)
    server.aliases.clear()
    async with opened(server) as index:
        await index.create(SPEC)
    assert server.writes == [{"actions": [{"create_alias": {"collection_name": NAME, "alias_name": ALIAS}}]}]


@pytest.mark.parametrize(
    ("call", "answers"),
    [
        (f"GET /collections/{NAME}", [ABSENT, error(500), error(503)]),
        (f"PUT /collections/{NAME}", [(409, {"status": {"error": "already exists"}})]),
        (f"PUT /collections/{NAME}", [error(500)]),
        (f"PUT /collections/{NAME}/index", [error(500), ABSENT]),
        ("GET /aliases", [error(500)]),
        ("POST /collections/aliases", [ABSENT]),
    ],
)
async def test_create_is_repeated_while_replicas_start(call: str, answers: list[Answer]) -> None:
    server = Server()
    server.faults[call] = list(answers)
    async with opened(server) as index:
        await index.create(SPEC)
    assert server.faults[call] == []
    assert server.fields == set(INDEXED)
    assert server.aliases == {ALIAS: NAME}


async def test_create_gives_up_after_a_bounded_number_of_attempts() -> None:
    server, call = Server(), f"GET /collections/{NAME}"
    server.faults[call] = [error(500)] * 100
    async with opened(server) as index:
        with pytest.raises(Unavailable, match="status 500"):
            await index.create(SPEC)
    assert server.calls.count(call) == SETTLE_ATTEMPTS


@pytest.mark.parametrize(("status", "remedy"), [(401, "check QDRANT_API_KEY"), (403, "writes need QDRANT_API_KEY")])
async def test_a_key_that_is_refused_is_not_tried_again(status: int, remedy: str) -> None:
    server, call = Server(), f"PUT /collections/{NAME}"
    server.faults[call] = [(status, {"status": {"error": "Forbidden"}})] * 2
    async with opened(server) as index:
        with pytest.raises(Unavailable, match=remedy):
            await index.create(SPEC)
    assert server.calls.count(call) == 1


async def test_an_index_of_another_size_is_a_conflict_at_once() -> None:
    server = Server(built=True)
    server.params["vectors"]["dense"]["size"] = 9
    async with opened(server) as index:
        with pytest.raises(Conflict, match="9 dimensions"):
            await index.create(SPEC)


@pytest.mark.parametrize("version", ["1.15.3", "1.9.10", "0.99.99", "unknown"])
async def test_an_older_server_is_refused_with_its_version_and_the_oldest_that_will_do(version: str) -> None:
    server = Server(version=version)
    async with opened(server) as index:
        with pytest.raises(Unavailable, match=rf"{version}.*1\.15\.4 or newer"):
            await index.create(SPEC)
    assert server.calls == ["GET /"]


@pytest.mark.parametrize("version", ["1.15.4", "1.16.0-dev", "1.18.3", "2.0.0"])
async def test_a_recent_server_is_asked_for_its_version_once(version: str) -> None:
    server = Server(version=version)
    async with opened(server) as index:
        for _ in range(2):
            await index.create(SPEC)
    assert server.calls.count("GET /") == 1
