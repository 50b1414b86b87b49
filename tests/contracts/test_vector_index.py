"""One behaviour for every vector index: in memory, on the local server, and on a Qdrant.

``QDRANT_TEST_URL`` names the Qdrant, ``QDRANT_TEST_API_KEY`` and ``QDRANT_TEST_READ_ONLY_API_KEY`` its keys.
"""

from __future__ import annotations

import asyncio
import os
import random
import socket
import subprocess
import sys
import time
import uuid
import warnings
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from copy import deepcopy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from qdrant_client import AsyncQdrantClient

from rag.adapters.fusion import RRF_K
from rag.adapters.memory.vectors import MemoryVectors
from rag.adapters.qdrant import Layout, QdrantIndex
from rag.errors import Conflict, Unavailable
from rag.models import AccessFilter, Embedding, HybridQuery, IndexSpec, Point, RuledScopes, SparseVector

ROOT = Path(__file__).parents[2]
KEY, READ_KEY = "contract-key", "contract-key-that-reads"
SIZE = 8
STAFF = AccessFilter("acme", ("group:staff", "user:alice"))


@pytest.fixture(scope="module")
def server_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    folder = tmp_path_factory.mktemp("vectors")
    command = [sys.executable, "-m", "deploy.local.qdrant", "--port", port, "--data", str(folder / "data")]
    log = (folder / "log").open("wb")
    environment = os.environ | {"QDRANT_API_KEY": KEY, "QDRANT_READ_ONLY_API_KEY": READ_KEY}
    process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=log, stderr=log)
    try:
        deadline = time.monotonic() + 60
        while True:
            if process.poll() is not None or time.monotonic() > deadline:
                pytest.fail((folder / "log").read_text())
            try:
                if httpx.get(f"http://127.0.0.1:{port}/readyz").status_code == 200:
                    break
            except httpx.TransportError:
                time.sleep(0.05)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(20)
        log.close()


REAL = ["qdrant"] if os.environ.get("QDRANT_TEST_URL") else []


SERVER = pytest.param("server", marks=pytest.mark.heavy)


@pytest.fixture(params=["memory", SERVER, *REAL])
async def vectors(request: pytest.FixtureRequest) -> AsyncIterator[Any]:
    if request.param == "memory":
        yield MemoryVectors()
    elif request.param == "server":
        async with QdrantIndex.open(request.getfixturevalue("server_url"), KEY) as opened:
            yield opened
    else:
        async with QdrantIndex.open(os.environ["QDRANT_TEST_URL"], os.environ.get("QDRANT_TEST_API_KEY")) as opened:
            yield opened


@dataclass(frozen=True)
class Access:
    """A server's address and its keys."""

    url: str
    key: str | None
    read_key: str | None

    def client(self, key: str | None = None) -> httpx.AsyncClient:
        chosen = key or self.key
        return httpx.AsyncClient(base_url=self.url, headers={"api-key": chosen} if chosen else {}, timeout=60)


@pytest.fixture(params=[SERVER, *REAL])
def server(request: pytest.FixtureRequest) -> Access:
    if request.param == "server":
        return Access(request.getfixturevalue("server_url"), KEY, READ_KEY)
    keys = (os.environ.get(f"QDRANT_TEST_{name}") for name in ("API_KEY", "READ_ONLY_API_KEY"))
    return Access(os.environ["QDRANT_TEST_URL"], *keys)


@pytest.fixture
async def index(vectors: Any) -> str:
    """Return a separate index for every test, because the tests share a server."""
    spec = IndexSpec(uuid.uuid4().hex[:16], SIZE)
    await vectors.create(spec)
    return spec.index_id


def axis(*weights: float) -> np.ndarray:
    """Return a unit vector near the first axes."""
    vector = np.zeros(SIZE, np.float32)
    vector[: len(weights)] = weights
    return vector / np.linalg.norm(vector)


def terms(**weights: float) -> SparseVector:
    """Return sparse weights: ``t7=2.0`` is term 7 with weight 2."""
    held = sorted((int(name[1:]), weight) for name, weight in weights.items())
    return SparseVector(np.array([t for t, _ in held], np.uint32), np.array([w for _, w in held], np.float32))


def point(dense: np.ndarray, sparse: SparseVector | None = None, **payload: Any) -> Point:
    fields = {
        "document_id": str(uuid.uuid4()),
        "tenant": "acme",
        "principals": ["group:staff"],
        "source": "s3",
        "partition": 3,
        "ordinal": 0,
        "title": "Pumps",
        "uri": "s3://bucket/pumps.md",
        "text": "Ünïcode 🚀 \u202e text",
        "start": 0,
        "end": 4,
        "section": ["A", "B"],
        "page": None,
        "language": "en",
        "media_type": "text/markdown",
        "payload_hash": uuid.uuid4().hex,
    }
    return Point(str(uuid.uuid4()), Embedding(dense, sparse or terms(t1=1.0)), fields | payload)


async def found(vectors: Any, index: str, access: AccessFilter = STAFF, limit: int = 10, **query: Any) -> list[str]:
    hybrid = HybridQuery(query.get("dense", axis(1)), query.get("sparse", terms(t1=1.0)))
    return [hit.point_id for hit in await vectors.search(index, hybrid, access, limit=limit)]


# -- writing and reading ------------------------------------------------------------------------------------------------


async def test_a_point_comes_back_as_it_was_written(vectors: Any, index: str) -> None:
    written = point(axis(1, 2, 3), terms(t7=1.5, t4294967295=0.25))
    await vectors.upsert(index, [written])
    (read,) = await vectors.retrieve(index, [written.point_id])
    assert read.point_id == written.point_id
    assert read.payload == written.payload
    assert read.embedding.dense.dtype == np.float32
    np.testing.assert_allclose(read.embedding.dense, written.embedding.dense, atol=1e-6)
    assert read.embedding.sparse.indices.dtype == np.uint32
    assert read.embedding.sparse.indices.tolist() == [7, 4294967295]
    assert read.embedding.sparse.values.tolist() == [1.5, 0.25]


async def test_a_point_without_terms_is_kept(vectors: Any, index: str) -> None:
    written = point(axis(1), terms())
    await vectors.upsert(index, [written])
    (read,) = await vectors.retrieve(index, [written.point_id])
    assert read.embedding.sparse.indices.size == 0
    assert await found(vectors, index) == [written.point_id]


async def test_a_repeated_upsert_changes_nothing(vectors: Any, index: str) -> None:
    written = [point(axis(1)), point(axis(0, 1))]
    for _ in range(2):
        await vectors.upsert(index, written)
    assert await vectors.count(index) == 2


async def test_an_upsert_replaces_vector_and_payload(vectors: Any, index: str) -> None:
    old = point(axis(1), terms(t1=1.0), only_before=True)
    await vectors.upsert(index, [old])
    new = replace(point(axis(0, 1), terms(t2=1.0)), point_id=old.point_id)
    await vectors.upsert(index, [new])
    (read,) = await vectors.retrieve(index, [old.point_id])
    assert read.payload == new.payload
    assert read.embedding.sparse.indices.tolist() == [2]
    assert await vectors.count(index) == 1


async def test_nothing_to_write_is_fine(vectors: Any, index: str) -> None:
    await vectors.upsert(index, [])
    await vectors.delete(index, [])
    assert await vectors.retrieve(index, []) == []
    assert await vectors.count(index) == 0


async def test_a_later_change_of_the_callers_objects_is_not_in_the_index(vectors: Any, index: str) -> None:
    written = point(axis(1))
    await vectors.upsert(index, [written])
    kept = deepcopy(written.payload)
    written.payload["principals"].append("group:everybody")
    (read,) = await vectors.retrieve(index, [written.point_id])
    assert read.payload == kept
    read.payload["principals"].append("group:everybody")
    assert await found(vectors, index, AccessFilter("acme", ("group:everybody",))) == []


async def test_deleted_points_are_gone_and_deleting_again_is_fine(vectors: Any, index: str) -> None:
    gone, stays = point(axis(1)), point(axis(1))
    await vectors.upsert(index, [gone, stays])
    for _ in range(2):
        await vectors.delete(index, [gone.point_id, str(uuid.uuid4())])
    assert await found(vectors, index) == [stays.point_id]
    assert await vectors.retrieve(index, [gone.point_id]) == []
    assert await vectors.count(index) == 1


async def test_equal_scores_come_in_the_order_of_their_ids_every_time(vectors: Any, index: str) -> None:
    """Qdrant returns equal scores in random order: pages and measurements would vary."""
    await vectors.upsert(index, [point(axis(1)) for _ in range(12)])
    orders = {tuple(await found(vectors, index)) for _ in range(8)}
    assert len(orders) == 1


async def test_retrieved_points_are_in_the_order_asked_without_repeats(vectors: Any, index: str) -> None:
    written = [point(axis(1)) for _ in range(5)]
    await vectors.upsert(index, written)
    ids = [each.point_id for each in written]
    read = await vectors.retrieve(index, [*ids[::-1], str(uuid.uuid4()), ids[2]])
    assert [each.point_id for each in read] == ids[::-1]


async def test_a_large_batch_is_written_and_scrolled_whole(vectors: Any, index: str) -> None:
    written = [point(axis(1, at), partition=at % 2) for at in range(2_345)]
    await vectors.upsert(index, written)
    hashes = {each.point_id: each.payload["payload_hash"] for each in written}
    assert dict([one async for one in vectors.scroll(index)]) == hashes
    odd = [point_id async for point_id, _ in vectors.scroll(index, partition=1)]
    assert sorted(odd) == sorted(each.point_id for each in written if each.payload["partition"] == 1)
    some = [each.payload["document_id"] for each in written[:3]]
    theirs = [one async for one in vectors.scroll(index, partition=0, documents=some)]
    assert dict(theirs) == {
        each.point_id: each.payload["payload_hash"]
        for each in written
        if each.payload["document_id"] in some and each.payload["partition"] == 0
    }
    assert not [one async for one in vectors.scroll(index, documents=[])]
    assert await vectors.count(index, partition=1) == len(odd) == 1_172
    assert await vectors.count(index, partition=7) == 0


async def test_a_scroll_goes_on_from_a_point_in_the_order_of_ids(vectors: Any, index: str) -> None:
    await vectors.upsert(index, [point(axis(1)) for _ in range(7)])
    ids = [point_id async for point_id, _ in vectors.scroll(index)]
    assert ids == sorted(ids)
    assert [point_id async for point_id, _ in vectors.scroll(index, start=ids[3])] == ids[3:]


async def test_an_index_exists_once_it_is_created(vectors: Any, index: str) -> None:
    assert await vectors.exists(index)
    assert not await vectors.exists(uuid.uuid4().hex[:16])


async def test_a_vector_of_the_wrong_size_is_an_error_and_makes_no_point(vectors: Any, index: str) -> None:
    with pytest.raises(Exception, match=r"(?i)shape|dim"):
        await vectors.upsert(index, [point(np.ones(SIZE + 1, np.float32))])
    assert await vectors.count(index) == 0


# -- searching ----------------------------------------------------------------------------------------------------------


async def test_the_score_is_the_sum_of_both_reciprocal_ranks(vectors: Any, index: str) -> None:
    both = point(axis(1, 0.1), terms(t1=3.0, t2=3.0))
    dense_only = point(axis(1), terms(t9=1.0))
    sparse_only = point(axis(0, 0, 1), terms(t1=1.0))
    await vectors.upsert(index, [both, dense_only, sparse_only])
    query = HybridQuery(axis(1), terms(t1=1.0, t2=1.0))
    hits = await vectors.search(index, query, STAFF, limit=10)
    expected = {
        both.point_id: 1 / (RRF_K + 1) + 1 / RRF_K,
        dense_only.point_id: 1 / RRF_K,
        sparse_only.point_id: 1 / (RRF_K + 2) + 1 / (RRF_K + 1),
    }
    assert {hit.point_id: hit.score for hit in hits} == pytest.approx(expected, rel=1e-5)
    assert [hit.point_id for hit in hits] == sorted(expected, key=lambda one: -expected[one])
    assert hits[0].payload == both.payload


async def test_a_rare_term_outweighs_a_common_one(vectors: Any, index: str) -> None:
    """Write in both orders, so that a tie cannot pass."""
    common = [point(axis(0, 1), terms(t1=1.0)) for _ in range(20)]
    rare = point(axis(0, 1), terms(t2=1.0))
    await vectors.upsert(index, [*common[:10], rare, *common[10:]])
    hits = await vectors.search(index, HybridQuery(axis(0, 1), terms(t1=1.0, t2=1.0)), STAFF, limit=30)
    scores = {hit.point_id: hit.score for hit in hits}
    assert scores[rare.point_id] >= 1 / RRF_K + 1 / (RRF_K + 20) - 1e-6


async def test_a_question_without_terms_is_answered_by_meaning(vectors: Any, index: str) -> None:
    near, far = point(axis(1)), point(axis(0, 1))
    await vectors.upsert(index, [far, near])
    assert await found(vectors, index, sparse=terms()) == [near.point_id, far.point_id]


async def test_the_limit_is_kept_and_the_best_come_first(vectors: Any, index: str) -> None:
    written = [point(axis(1, at / 10), terms(t1=float(90 - at))) for at in range(80)]
    await vectors.upsert(index, random.Random(7).sample(written, len(written)))
    assert await found(vectors, index, limit=7) == [each.point_id for each in written[:7]]
    assert len(await found(vectors, index, limit=70)) == 70


async def test_an_empty_index_answers_with_nothing(vectors: Any, index: str) -> None:
    assert await found(vectors, index) == []


async def test_a_purge_keeps_the_points_that_were_not_deleted(vectors: Any, index: str) -> None:
    points = [point(axis(1), text=f"purged{number}") for number in range(150)]
    await vectors.upsert(index, points)
    await vectors.delete(index, [each.point_id for each in points[:50]])
    await vectors.purge(index)
    kept = {each.point_id for each in points[50:]}
    assert {point_id async for point_id, _ in vectors.scroll(index)} == kept
    assert set(await found(vectors, index, limit=150)) == kept
    await vectors.upsert(index, points[:1])
    assert await vectors.count(index) == 101
    await vectors.delete(index, [each.point_id for each in points[40:140]])
    assert await vectors.count(index) == 11
    await vectors.purge(index)
    await vectors.upsert(index, points[60:70])
    assert {each.point_id for each in await vectors.retrieve(index, [each.point_id for each in points])} == {
        each.point_id for each in (points[0], *points[60:70], *points[140:])
    }
    (kept,) = await vectors.retrieve(index, [points[145].point_id])
    assert kept.payload == points[145].payload
    assert np.allclose(kept.embedding.dense, points[145].embedding.dense)
    assert np.array_equal(kept.embedding.sparse.indices, points[145].embedding.sparse.indices)


# -- access ---------------------------------------------------------------------------------------------------------


async def test_only_the_tenant_and_its_principals_see_a_point(vectors: Any, index: str) -> None:
    staff = point(axis(1), principals=["group:staff", "user:bob"])
    alice = point(axis(1), principals=["user:alice"])
    board = point(axis(1), principals=["group:board"])
    nobody = point(axis(1), principals=[])
    foreign = point(axis(1), tenant="globex", principals=["group:staff", "user:alice"])
    await vectors.upsert(index, [staff, alice, board, nobody, foreign])
    for tenant, principals, expected in (
        ("acme", STAFF.principals, {staff.point_id, alice.point_id}),
        ("acme", ("group:board",), {board.point_id}),
        ("globex", ("group:staff",), {foreign.point_id}),
        ("globex", ("group:board",), set()),
        ("ACME", ("group:staff",), set()),
        ("acme", ("group:",), set()),
        ("acme", ("*",), set()),
    ):
        assert set(await found(vectors, index, AccessFilter(tenant, principals))) == expected, (tenant, principals)


async def test_granted_scopes_widen_the_principals_and_revoked_scopes_win(vectors: Any, index: str) -> None:
    own = point(axis(1), scopes=["all", "hr"])
    granted = point(axis(1), principals=["group:board"], scopes=["all", "finance"])
    hidden = point(axis(1), principals=["group:board"], scopes=["all", "legal"])
    unscoped = point(axis(1), principals=["group:board"])
    foreign = point(axis(1), tenant="globex", scopes=["finance"])
    await vectors.upsert(index, [own, granted, hidden, unscoped, foreign])
    for ruled, expected in (
        (RuledScopes(), {own.point_id}),
        (RuledScopes(granted=("finance", "none")), {own.point_id, granted.point_id}),
        (RuledScopes(granted=("all",), revoked=("legal",)), {own.point_id, granted.point_id}),
        (RuledScopes(revoked=("hr",)), set()),
        (RuledScopes(granted=("hr",), revoked=("hr",)), set()),
    ):
        assert set(await found(vectors, index, STAFF.under(ruled))) == expected, ruled
    narrowed = replace(STAFF.under(RuledScopes(granted=("all",))), narrow={"source": ("web",)})
    assert await found(vectors, index, narrowed) == []


async def test_candidates_are_filtered_before_they_are_counted(vectors: Any, index: str) -> None:
    """A thousand better points of others must not crowd out the one that the caller may see."""
    others = [point(axis(1), terms(t1=9.0), tenant="globex") for _ in range(1_000)]
    own = point(axis(0, 1), terms(t1=0.1))
    await vectors.upsert(index, [*others[:500], own, *others[500:]])
    assert await found(vectors, index, limit=3) == [own.point_id]


@pytest.mark.parametrize("field", ["document_id", "source", "language", "media_type"])
async def test_a_callers_own_filter_only_narrows(vectors: Any, index: str, field: str) -> None:
    wanted = point(axis(1), **{field: "wanted"})
    rest = point(axis(1), **{field: "other"})
    foreign = point(axis(1), tenant="globex", **{field: "wanted"})
    await vectors.upsert(index, [wanted, rest, foreign])
    assert await found(vectors, index, replace(STAFF, narrow={field: ("wanted",)})) == [wanted.point_id]
    both = replace(STAFF, narrow={field: ("wanted", "other")})
    assert set(await found(vectors, index, both)) == {wanted.point_id, rest.point_id}
    assert await found(vectors, index, replace(STAFF, narrow={field: ("absent",)})) == []


async def test_a_narrowing_field_called_like_an_access_field_does_not_replace_it(vectors: Any, index: str) -> None:
    foreign = point(axis(1), tenant="globex")
    await vectors.upsert(index, [foreign])
    assert await found(vectors, index, replace(STAFF, narrow={"tenant": ("globex",)})) == []
    assert await found(vectors, index, replace(STAFF, narrow={"principals": ("group:board",)})) == []


# -- indexes ------------------------------------------------------------------------------------------------------------


async def test_creating_an_index_again_keeps_its_points(vectors: Any, index: str) -> None:
    await vectors.upsert(index, [point(axis(1))])
    await asyncio.gather(*(vectors.create(IndexSpec(index, SIZE)) for _ in range(3)))
    assert await vectors.count(index) == 1


async def test_an_index_of_another_size_is_a_conflict(vectors: Any, index: str) -> None:
    with pytest.raises(Conflict, match="dimensions"):
        await vectors.create(IndexSpec(index, SIZE * 2))


async def test_indexes_do_not_see_each_other(vectors: Any, index: str) -> None:
    other = IndexSpec(uuid.uuid4().hex[:16], SIZE)
    await vectors.create(other)
    await vectors.upsert(other.index_id, [point(axis(1))])
    assert await found(vectors, index) == []
    assert await vectors.count(other.index_id) == 1


async def test_an_index_that_is_not_built_is_unavailable(vectors: Any) -> None:
    absent = uuid.uuid4().hex[:16]
    with pytest.raises(Unavailable, match="not built"):
        await vectors.upsert(absent, [point(axis(1))])
    with pytest.raises(Unavailable, match="not built"):
        await vectors.delete(absent, [str(uuid.uuid4())])
    with pytest.raises(Unavailable, match="not built"):
        await found(vectors, absent)
    with pytest.raises(Unavailable, match="not built"):
        await vectors.count(absent)
    with pytest.raises(Unavailable, match="not built"):
        [one async for one in vectors.scroll(absent)]
    with pytest.raises(Unavailable, match="not built"):
        await vectors.retrieve(absent, [str(uuid.uuid4())])


async def test_the_first_index_is_live_and_a_second_one_does_not_take_over() -> None:
    client = AsyncQdrantClient(":memory:")
    memory, double = MemoryVectors(), QdrantIndex(client)
    specs = [IndexSpec("1" * 16, SIZE), IndexSpec("2" * 16, SIZE)]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Payload indexes have no effect")
        for spec in specs:
            await memory.create(spec)
            await double.create(spec)
    aliases = {one.alias_name: one.collection_name for one in (await client.get_aliases()).aliases}
    assert memory.aliases == aliases == {"documents": specs[0].collection}


@pytest.mark.heavy
async def test_a_qdrant_that_does_not_answer_or_refuses_the_key_is_unavailable(server_url: str) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        dead = f"http://127.0.0.1:{probe.getsockname()[1]}"
    async with QdrantIndex.open(dead) as index:
        with pytest.raises(Unavailable, match="QDRANT_URL"):
            await index.count("0" * 16)
    async with QdrantIndex.open(server_url, "wrong") as index:
        with pytest.raises(Unavailable, match="QDRANT_API_KEY"):
            await index.count("0" * 16)


# -- a server, whether the local one or a real one ------------------------------------------------------------------------


async def test_processes_that_create_one_index_at_once_all_succeed(server: Access) -> None:
    spec = IndexSpec(uuid.uuid4().hex[:16], SIZE)
    async with AsyncExitStack() as stack:
        opened = [await stack.enter_async_context(QdrantIndex.open(server.url, server.key)) for _ in range(4)]
        await asyncio.gather(*(each.create(spec) for each in opened))
        assert [await each.count(spec.index_id) for each in opened] == [0] * 4


async def test_a_collection_has_the_shards_and_replicas_that_it_was_created_with(server: Access) -> None:
    spec = IndexSpec(uuid.uuid4().hex[:16], SIZE)
    async with QdrantIndex.open(server.url, server.key, Layout(shards=2, replicas=2)) as opened:
        await opened.create(spec)
    async with server.client() as client:
        info = (await client.get(f"/collections/{spec.collection}")).json()
        await client.delete(f"/collections/{spec.collection}")
    params = info["result"]["config"]["params"]
    assert (params["shard_number"], params["replication_factor"]) == (2, 2)


async def test_a_read_only_key_is_enough_for_a_gateway_and_for_nothing_more(server: Access) -> None:
    if not server.read_key:
        pytest.skip("NOT TESTED: QDRANT_TEST_READ_ONLY_API_KEY is not set")
    spec, written = IndexSpec(uuid.uuid4().hex[:16], SIZE), point(axis(1))
    async with (
        QdrantIndex.open(server.url, server.key) as writer,
        QdrantIndex.open(server.url, server.read_key) as reader,
    ):
        with pytest.raises(Unavailable, match="QDRANT_READ_ONLY_API_KEY"):
            await reader.create(spec)
        await writer.create(spec)
        await writer.upsert(spec.index_id, [written])
        await reader.create(spec)
        assert await found(reader, spec.index_id) == [written.point_id]
        assert [each async for each, _ in reader.scroll(spec.index_id)] == [written.point_id]
        assert [each.point_id for each in await reader.retrieve(spec.index_id, [written.point_id])] == [
            written.point_id
        ]
        with pytest.raises(Unavailable, match="allows only reads"):
            await reader.upsert(spec.index_id, [point(axis(1))])
        with pytest.raises(Unavailable, match="allows only reads"):
            await reader.delete(spec.index_id, [written.point_id])
        assert await reader.count(spec.index_id) == 1


async def test_a_server_refuses_these_requests_with_these_answers(server: Access) -> None:
    spec = IndexSpec(uuid.uuid4().hex[:16], SIZE)
    async with QdrantIndex.open(server.url, server.key) as opened:
        await opened.create(spec)
    points = f"/collections/{spec.collection}/points"
    fusion = {"prefetch": [{"query": axis(1).tolist(), "using": "dense"}], "query": {"rrf": {"k": 0}}}
    async with server.client() as client:
        assert (await client.post(f"{points}/query", json=fusion)).status_code == 422
        assert (await client.put(points, json={"points": []})).status_code == 400
        assert (await client.post(f"{points}/delete", json={"points": []})).status_code == 400
        assert (await client.post(f"{points}/count", content=b" " * (33 * 2**20))).status_code == 400
        assert (await client.post(f"{points}/count", json={})).status_code == 200
    if server.key:
        async with server.client("wrong") as client:
            assert (await client.post(f"{points}/count", json={})).status_code == 401


async def test_batches_of_aliases_and_operations_are_not_all_or_nothing(server: Access) -> None:
    spec, alias, point_id = IndexSpec(uuid.uuid4().hex[:16], SIZE), uuid.uuid4().hex, str(uuid.uuid4())
    async with QdrantIndex.open(server.url, server.key) as opened:
        await opened.create(spec)
    create = {"create_alias": {"collection_name": spec.collection, "alias_name": alias}}
    failing = {"create_alias": {"collection_name": uuid.uuid4().hex, "alias_name": alias}}
    fits = {"id": point_id, "vector": {"dense": axis(1).tolist()}}
    operations = [
        {"upsert": {"points": [{**fits, "vector": {"dense": vector}}]}} for vector in (axis(1).tolist(), [1.0])
    ]
    async with server.client() as client:
        for _ in range(2):  # the second create finds the alias and overwrites it
            assert (await client.post("/collections/aliases", json={"actions": [create]})).status_code == 200
        drop = {"delete_alias": {"alias_name": alias}}
        assert (await client.post("/collections/aliases", json={"actions": [drop, failing]})).status_code == 404
        assert (await client.get(f"/collections/{alias}")).status_code == 404
        path = f"/collections/{spec.collection}/points"
        assert (await client.post(f"{path}/batch?wait=true", json={"operations": operations})).status_code == 400
        assert (await client.get(f"{path}/{point_id}")).status_code == 200
