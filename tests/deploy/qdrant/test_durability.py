"""The local Qdrant when processes die: every acknowledged write is there again, and nothing that was never asked for."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from qdrant_client import QdrantClient
from qdrant_client import models as rest
from qdrant_client.http.exceptions import UnexpectedResponse

from rag.files import PARTIAL

pytestmark = pytest.mark.heavy

KEY = "a-key-of-the-test"
ROOT = Path(__file__).parents[3]
DENSE = {"dense": rest.VectorParams(size=4, distance=rest.Distance.COSINE)}
SPARSE = {"bm25": rest.SparseVectorParams(modifier=rest.Modifier.IDF)}


@pytest.fixture
def server(run_server: Callable[..., Any]) -> Iterator[Any]:
    started = run_server("qdrant", "/readyz", environment={"QDRANT_API_KEY": KEY})
    yield started
    if started.process.poll() is None:
        started.stop(signal.SIGKILL)


def client(server: Any) -> QdrantClient:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Api key is used with an insecure connection")
        return QdrantClient(url=server.url, api_key=KEY, timeout=30, check_compatibility=False)


def some(first: int, count: int) -> list[rest.PointStruct]:
    return [
        rest.PointStruct(
            id=at,
            vector={"dense": [1, at % 7, at % 11, 1], "bm25": rest.SparseVector(indices=[at % 50], values=[1])},
            payload={"n": at, "tenant": f"t{at % 3}"},
        )
        for at in range(first, first + count)
    ]


def made(server: Any) -> QdrantClient:
    opened = client(server)
    opened.create_collection("docs", DENSE, sparse_vectors_config=SPARSE)
    opened.create_payload_index("docs", "tenant", rest.PayloadSchemaType.KEYWORD)
    return opened


def contents(opened: QdrantClient) -> dict[Any, Any]:
    points, following = opened.scroll("docs", limit=100_000)
    assert following is None
    return {one.id: one.payload for one in points}


def test_every_acknowledged_write_survives_kills_in_full_flight(server: Any) -> None:
    made(server)
    expected: dict[Any, Any] = {}
    for round_ in range(5):
        opened, acknowledged = client(server), threading.Event()

        def write(
            opened: QdrantClient = opened, start: int = round_ * 100_000, seen: threading.Event = acknowledged
        ) -> None:
            for at in range(start, start + 100_000, 100):
                batch = some(at, 100)
                try:
                    opened.upsert("docs", batch, wait=True)
                    expected.update({point.id: point.payload for point in batch})
                    opened.delete("docs", [at + 1])
                    del expected[at + 1]
                    opened.overwrite_payload("docs", {"n": -at}, points=[at])
                except Exception:
                    return  # killed
                expected[at] = {"n": -at}
                if at >= start + 600:
                    seen.set()

        writer = threading.Thread(target=write)
        writer.start()
        assert acknowledged.wait(60)
        server.stop(signal.SIGKILL)
        writer.join(30)
        server.start()
        held = contents(client(server))
        # What was under way when it died may have been applied or not; everything acknowledged must be as it was.
        unsure = set(range(max(expected) // 100 * 100, max(expected) // 100 * 100 + 200))
        assert {i: p for i, p in held.items() if i not in unsure} == {
            i: p for i, p in expected.items() if i not in unsure
        }
        assert len(expected) > 300
        expected.clear()
        expected.update(held)
    found = client(server).query_points(
        "docs", [1.0, 0.0, 0.0, 1.0], using="dense", query_filter=of_tenant("t1"), limit=5
    )
    assert {one.payload["tenant"] for one in found.points if one.payload} == {"t1"}


def of_tenant(tenant: str) -> rest.Filter:
    return rest.Filter(must=[rest.FieldCondition(key="tenant", match=rest.MatchValue(value=tenant))])


def test_collections_indexes_and_aliases_survive_a_kill_and_a_stop(server: Any) -> None:
    opened = made(server)
    opened.create_collection("gone", DENSE)
    opened.upsert("docs", some(0, 10))
    alias = rest.CreateAlias(collection_name="docs", alias_name="live")
    opened.update_collection_aliases([rest.CreateAliasOperation(create_alias=alias)])
    opened.delete_collection("gone")
    for how in (signal.SIGKILL, signal.SIGTERM):
        before = client(server).get_collection("docs")
        server.stop(how)
        server.start()
        opened = client(server)
        assert [one.name for one in opened.get_collections().collections] == ["docs"]
        assert opened.count("live", count_filter=of_tenant("t0")).count == 4
        assert opened.get_collection("docs") == before


def test_a_stop_is_clean_and_quick(server: Any) -> None:
    made(server).upsert("docs", some(0, 500))
    started = time.monotonic()
    assert server.stop(signal.SIGTERM) in (0, -signal.SIGTERM)
    assert time.monotonic() - started < 15
    assert "Traceback" not in Path(server.log.name).read_text()


def test_what_a_crash_left_half_made_or_half_removed_is_cleared(server: Any) -> None:
    made(server).upsert("docs", some(0, 10))
    server.stop(signal.SIGKILL)
    held = json.loads((server.data / "registry.json").read_text())["collections"]["docs"]["directory"]
    (server.data / "collections" / "half").mkdir()
    (server.data / f".half{PARTIAL}").write_text("{")
    server.start()
    assert [one.name for one in (server.data / "collections").iterdir()] == [held]
    assert len(contents(client(server))) == 10


def test_a_damaged_collection_reports_its_damage_and_spares_the_others(server: Any) -> None:
    opened = made(server)
    opened.upsert("docs", some(0, 10))
    opened.create_collection("hurt", DENSE)
    server.stop(signal.SIGTERM)
    held = json.loads((server.data / "registry.json").read_text())["collections"]["hurt"]["directory"]
    for path in (server.data / "collections" / held).rglob("*.json"):
        path.write_text("{")
    server.health = "/healthz"
    server.start()
    opened = client(server)
    assert len(contents(opened)) == 10
    with pytest.raises(UnexpectedResponse) as refused:
        opened.count("hurt")
    assert refused.value.status_code == 503
    assert httpx.get(server.url + "/readyz").status_code == 503
    assert "cannot open collection 'hurt'" in Path(server.log.name).read_text()
    assert opened.delete_collection("hurt")
    assert httpx.get(server.url + "/readyz").status_code == 200


def test_deleted_collections_leave_nothing_on_the_disk(server: Any) -> None:
    made(server).upsert("docs", some(0, 10))
    assert client(server).delete_collection("docs")
    assert list((server.data / "collections").iterdir()) == []


def test_a_second_process_on_the_same_directory_is_refused(server: Any) -> None:
    made(server).upsert("docs", some(0, 10))
    second = second_process(["--port", str(free_port()), "--data", str(server.data)], KEY)
    assert second.returncode != 0
    assert f"in use by process {server.process.pid}" in second.stderr
    assert len(contents(client(server))) == 10


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.mark.parametrize(
    ("key", "host", "told"), [("", "127.0.0.1", "QDRANT_API_KEY is not set"), (KEY, "192.0.2.1", "192.0.2.1")]
)
def test_without_a_key_or_open_to_the_network_it_does_not_start(tmp_path: Path, key: str, host: str, told: str) -> None:
    where = ["--host", host, "--port", str(free_port()), "--data", str(tmp_path)]
    refused = second_process(where, key)
    assert refused.returncode != 0
    assert told in refused.stderr


def second_process(arguments: list[str], key: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "deploy.local.qdrant", *arguments]
    environment = os.environ | {"QDRANT_API_KEY": key}
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60, check=False)


def test_deleted_points_leave_the_segments_at_the_next_start(server: Any) -> None:
    opened = made(server)
    secret = "the-words-of-a-document-that-must-go"
    points = [
        point.model_copy(update={"payload": {"text": secret if int(str(point.id)) < 2_000 else "stays"}})
        for point in some(0, 3_000)
    ]
    opened.upsert("docs", points)
    opened.delete("docs", list(range(2_000)))
    server.stop(signal.SIGTERM)
    server.start()
    opened = client(server)
    assert opened.count("docs").count == 1_000
    # The engine's log keeps what was written until 32 MiB more have been: that is not promised here.
    kept = [
        path for path in server.data.rglob("segments/**/*") if path.is_file() and secret.encode() in path.read_bytes()
    ]
    assert kept == []
    assert any(b"stays" in path.read_bytes() for path in server.data.rglob("segments/**/*") if path.is_file())


def test_a_large_collection_gets_its_graph_at_start_while_health_answers(run_server: Callable[..., Any]) -> None:
    server = run_server("qdrant", "/readyz", "--index-from", "2000", environment={"QDRANT_API_KEY": KEY})
    opened = client(server)
    opened.create_collection("docs", {"dense": rest.VectorParams(size=64, distance=rest.Distance.COSINE)})
    for first in range(0, 4_000, 1_000):
        opened.upsert(
            "docs",
            [
                rest.PointStruct(id=at, vector={"dense": [(at * k) % 97 + 1 for k in range(64)]})
                for at in range(first, first + 1_000)
            ],
        )
    assert opened.get_collection("docs").indexed_vectors_count == 0
    server.stop(signal.SIGTERM)
    server.health = "/healthz"
    server.start("--index-from", "2000")
    assert client(server).get_collection("docs").indexed_vectors_count == 4_000
    assert httpx.get(server.url + "/readyz").status_code == 200
    assert client(server).query_points("docs", [1.0] * 64, using="dense", limit=3).points
    server.stop(signal.SIGTERM)


def test_a_rewrite_drops_the_bytes_of_deleted_points_and_survives_a_kill(server: Any) -> None:
    opened = made(server)
    for number in range(3):  # the engine numbers operations by its log: none may be lost after a rewrite
        first = 1000 * number
        opened.upsert("docs", some(first, 300), wait=True)
        canary = f"zq{number}canary{os.urandom(6).hex()}"
        opened.upsert("docs", [rest.PointStruct(id=first, vector=some(first, 1)[0].vector, payload={"text": canary})])
        assert holding(server, canary)
        opened.delete("docs", rest.PointIdsList(points=list(range(first, first + 100))), wait=True)
        for deleted in (1e-9, 0.2):
            opened.update_collection("docs", optimizers_config=rest.OptimizersConfigDiff(deleted_threshold=deleted))
        assert holding(server, canary) == []
        assert opened.count("docs", exact=True).count == 200 * (number + 1)
    server.stop(signal.SIGKILL)
    server.start()
    again = client(server)
    assert again.count("docs", exact=True).count == 600
    assert again.get_collection("docs").payload_schema["tenant"].points == 600


def holding(server: Any, canary: str) -> list[str]:
    files = (path for path in server.data.rglob("*") if path.is_file())
    return [str(path) for path in files if canary.encode() in path.read_bytes()]


def test_updates_during_a_rewrite_are_kept(server: Any) -> None:
    opened = made(server)
    opened.upsert("docs", some(0, 4000), wait=True)
    opened.delete("docs", rest.PointIdsList(points=list(range(0, 4000, 2))), wait=True)
    ended = threading.Event()

    def rewrite() -> None:
        client(server).update_collection("docs", optimizers_config=rest.OptimizersConfigDiff(deleted_threshold=1e-9))
        ended.set()

    writer = threading.Thread(target=rewrite)
    writer.start()
    written = 0
    while not ended.is_set():
        opened.upsert("docs", some(10_000 + written, 1), wait=True)
        opened.delete("docs", rest.PointIdsList(points=[2 * written + 1]), wait=True)
        written += 1
    writer.join(30)
    assert written > 3, "no update came while the copy was made"
    expected = {*range(1, 4000, 2), *range(10_000, 10_000 + written)} - {2 * each + 1 for each in range(written)}
    assert contents(opened).keys() == expected
