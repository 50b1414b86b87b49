"""The local Qdrant as its clients meet it: an unmodified QdrantClient, and hostile requests."""

from __future__ import annotations

import random
import time
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.parse import quote

import httpx
import pytest
from qdrant_client import QdrantClient
from qdrant_client import models as rest
from qdrant_client.http.exceptions import UnexpectedResponse

from deploy.local.qdrant.routes import ROUTES, WRITE

KEY, READ_KEY = "a-key-of-the-test", "a-key-that-reads"
HEADERS = {"api-key": KEY}
DENSE = {"dense": rest.VectorParams(size=2, distance=rest.Distance.COSINE)}
SPARSE = {"bm25": rest.SparseVectorParams(modifier=rest.Modifier.IDF)}


@pytest.fixture(scope="module")
def server(run_server: Callable[..., Any]) -> str:
    return str(
        run_server("qdrant", "/readyz", environment={"QDRANT_API_KEY": KEY, "QDRANT_READ_ONLY_API_KEY": READ_KEY}).url
    )


@pytest.fixture
def url(server: str) -> Iterator[str]:
    """The server, emptied after every test."""
    yield server
    with httpx.Client(base_url=server, headers=HEADERS, timeout=30) as opened:
        for held in opened.get("/collections").json()["result"]["collections"]:
            assert opened.delete(f"/collections/{quote(held['name'], safe='')}").json()["result"] is True


@pytest.fixture
def client(url: str) -> Iterator[QdrantClient]:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Api key is used with an insecure connection")
        opened = QdrantClient(url=url, api_key=KEY, timeout=30)
    yield opened
    opened.close()


@pytest.fixture
def http(url: str) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=url, headers=HEADERS, timeout=30) as opened:
        made = opened.put(
            "/collections/docs",
            json={
                "vectors": {"dense": {"size": 2, "distance": "Cosine"}},
                "sparse_vectors": {"bm25": {"modifier": "idf"}},
            },
        )
        assert made.status_code == 200, made.text
        points = [{"id": i, "vector": {"dense": [1, i]}, "payload": {"n": i, "k": f"v{i % 2}"}} for i in range(1, 6)]
        assert opened.put("/collections/docs/points?wait=true", json={"points": points}).status_code == 200
        yield opened


def count(http: httpx.Client) -> int:
    return int(http.post("/collections/docs/points/count", json={"exact": True}).json()["result"]["count"])


# -- an unmodified client -----------------------------------------------------------------------------------------------


def test_collections_indexes_and_aliases_by_the_client(client: QdrantClient) -> None:
    assert not client.collection_exists("docs")
    client.create_collection("docs", DENSE, sparse_vectors_config=SPARSE, hnsw_config=rest.HnswConfigDiff(m=8))
    client.create_payload_index("docs", "tenant", rest.KeywordIndexParams(type="keyword", is_tenant=True))
    client.create_payload_index("docs", "n", rest.PayloadSchemaType.INTEGER)
    client.update_collection_aliases([make_alias("docs", "live")])
    assert client.collection_exists("live")
    assert [one.name for one in client.get_collections().collections] == ["docs"]
    info = client.get_collection("live")
    assert info.status == rest.CollectionStatus.GREEN
    assert info.config.params.vectors == DENSE
    assert info.config.params.sparse_vectors == SPARSE
    assert info.config.hnsw_config.m == 8
    assert {field: held.data_type for field, held in info.payload_schema.items()} == {
        "tenant": "keyword",
        "n": "integer",
    }
    client.delete_payload_index("docs", "n")
    assert set(client.get_collection("docs").payload_schema) == {"tenant"}
    assert [one.alias_name for one in client.get_collection_aliases("docs").aliases] == ["live"]
    assert client.delete_collection("docs")
    assert client.get_aliases().aliases == []
    assert not client.delete_collection("docs")


def make_alias(collection: str, alias: str) -> rest.CreateAliasOperation:
    return rest.CreateAliasOperation(create_alias=rest.CreateAlias(collection_name=collection, alias_name=alias))


def test_every_kind_of_write_by_the_client(client: QdrantClient) -> None:
    client.create_collection("docs", DENSE, sparse_vectors_config=SPARSE)
    client.upsert(
        "docs", rest.Batch(ids=[1, 2], vectors={"dense": [[1, 0], [0, 1]]}, payloads=[{"a": 1}, {"a": 2, "b": 1}])
    )
    client.upsert("docs", [rest.PointStruct(id=3, vector={"bm25": rest.SparseVector(indices=[9, 4], values=[1, 2])})])
    client.set_payload("docs", {"c": 3}, points=[1])
    client.overwrite_payload("docs", {"d": 4}, points=rest.Filter(must=[rest.HasIdCondition(has_id=[2, 99])]))
    assert [one.payload for one in client.retrieve("docs", [1, 2, 3])] == [{"a": 1, "c": 3}, {"d": 4}, {}]
    (third,) = client.retrieve("docs", [3], with_vectors=True)
    assert third.vector == {"bm25": rest.SparseVector(indices=[4, 9], values=[2, 1])}
    done = client.batch_update_points(
        "docs",
        [
            rest.UpsertOperation(upsert=rest.PointsList(points=[rest.PointStruct(id=4, vector={"dense": [1, 1]})])),
            rest.SetPayloadOperation(set_payload=rest.SetPayload(payload={"e": 5}, points=[4])),
            rest.DeletePayloadOperation(delete_payload=rest.DeletePayload(keys=["a"], points=[1])),
            rest.ClearPayloadOperation(clear_payload=rest.PointIdsList(points=[2])),
            rest.DeleteOperation(delete=rest.PointIdsList(points=[3])),
        ],
    )
    assert {one.status for one in done} == {rest.UpdateStatus.COMPLETED}
    found, following = client.scroll("docs")
    assert [(one.id, one.payload) for one in found] == [(1, {"c": 3}), (2, {}), (4, {"e": 5})]
    assert following is None
    client.delete("docs", rest.FilterSelector(filter=rest.Filter(must=[rest.HasIdCondition(has_id=[1, 2])])))
    assert client.count("docs").count == 1


def test_pages_orders_selectors_and_facets_by_the_client(client: QdrantClient) -> None:
    client.create_collection("docs", DENSE, sparse_vectors_config=SPARSE)
    client.create_payload_index("docs", "n", rest.PayloadSchemaType.INTEGER)
    points = [rest.PointStruct(id=i, vector={"dense": [1, i]}, payload={"n": i % 4, "k": "x"}) for i in range(10)]
    client.upsert("docs", points)
    page, following = client.scroll("docs", limit=4, with_payload=["n"])
    assert ([one.id for one in page], following) == ([0, 1, 2, 3], 4)
    assert page[1].payload == {"n": 1}
    page, following = client.scroll("docs", limit=10, offset=following, with_payload=False)
    assert ([one.id for one in page], following, page[0].payload) == ([4, 5, 6, 7, 8, 9], None, None)
    down = client.scroll("docs", limit=2, order_by=rest.OrderBy(key="n", direction="desc"))[0]
    assert {one.id for one in down} == {3, 7}
    assert {hit.value: hit.count for hit in client.facet("docs", "n").hits} == {0: 3, 1: 3, 2: 2, 3: 2}
    near = client.query_points("docs", [1.0, 9.0], using="dense", limit=2, score_threshold=0.99, with_vectors=["dense"])
    assert [one.id for one in near.points] == [9, 8]
    assert near.points[0].vector is not None
    both = client.query_batch_points("docs", [rest.QueryRequest(query=[1, 0], using="dense", limit=1)] * 2)
    assert [[one.id for one in each.points] for each in both] == [[0], [0]]


@pytest.mark.parametrize(
    "fusion", [rest.FusionQuery(fusion="rrf"), rest.RrfQuery(rrf=rest.Rrf(k=10)), rest.FusionQuery(fusion="dbsf")]
)
def test_fusion_ranks_as_the_clients_own_double(client: QdrantClient, fusion: Any) -> None:
    double, rng = QdrantClient(":memory:"), random.Random(3)
    points = [
        rest.PointStruct(
            id=i,
            vector={
                "dense": [rng.random(), rng.random()],
                "bm25": rest.SparseVector(indices=[i % 3, 3 + i % 4], values=[1 + rng.random(), 1 + rng.random()]),
            },
            payload={"k": f"v{i % 2}"},
        )
        for i in range(60)
    ]
    own = rest.Filter(must=[rest.FieldCondition(key="k", match=rest.MatchValue(value="v1"))])
    answers = []
    for one in (client, double):
        one.create_collection("docs", DENSE, sparse_vectors_config=SPARSE)
        one.upsert("docs", points)
        found = one.query_points(
            "docs",
            prefetch=[
                rest.Prefetch(query=[1, 0.5], using="dense", limit=15, filter=own),
                rest.Prefetch(
                    query=rest.SparseVector(indices=[1, 5], values=[1, 1]), using="bm25", limit=15, filter=own
                ),
            ],
            query=fusion,
            limit=8,
        ).points
        answers.append({hit.id: pytest.approx(hit.score, rel=1e-4) for hit in found})
    assert len(answers[0]) == 8
    # equal scores at the cut may fall either way
    assert sorted(map(float, (a.expected for a in answers[0].values()))) == pytest.approx(
        sorted(float(a.expected) for a in answers[1].values()), rel=1e-4
    )


def test_every_condition_matches_as_the_clients_own_double(client: QdrantClient) -> None:
    """Random filters over random payloads: one condition that is dropped or bent shows as a different count."""
    rng, double = random.Random(11), QdrantClient(":memory:")
    points = [rest.PointStruct(id=i, vector={"dense": [1, i]}, payload=some_payload(rng)) for i in range(200)]
    for one in (client, double):
        one.create_collection("docs", DENSE, sparse_vectors_config=SPARSE)
        one.upsert("docs", points)
    filters = [some_filter(rng, 3) for _ in range(300)]
    counts = [[one.count("docs", each).count for each in filters] for one in (client, double)]
    assert counts[0] == counts[1], [f for f, a, b in zip(filters, *counts, strict=True) if a != b][:3]
    assert len(set(counts[0])) > 50


def some_payload(rng: random.Random) -> dict[str, Any]:
    payload: dict[str, Any] = {
        "k": rng.choice(["a", "b", "c"]),
        "n": rng.randrange(6),
        "list": [rng.choice("abc") for _ in range(rng.randrange(3))],
        "at": f"2024-01-0{rng.randrange(1, 10)}T00:00:00Z",
        "deep": {"k": rng.choice("ab")},
        "objects": [{"k": rng.choice("ab"), "n": rng.randrange(3)} for _ in range(2)],
        "none": None,
    }
    return {name: value for name, value in payload.items() if rng.random() < 0.8}


def some_filter(rng: random.Random, depth: int) -> rest.Filter:
    def some() -> list[Any] | None:
        return [some_condition(rng, depth - 1) for _ in range(rng.randrange(1, 3))] if rng.random() < 0.5 else None

    at_least = rest.MinShould(conditions=[some_condition(rng, 0) for _ in range(3)], min_count=2)
    return rest.Filter(must=some(), should=some(), must_not=some(), min_should=at_least if rng.random() < 0.2 else None)


def some_condition(rng: random.Random, depth: int) -> Any:
    if depth > 0 and rng.random() < 0.3:
        return some_filter(rng, depth)
    key = rng.choice(["k", "n", "list", "deep.k", "none", "absent", "objects[].k"])
    nested = rest.Filter(
        must=[field("k", match=rest.MatchValue(value="a")), field("n", match=rest.MatchValue(value=1))]
    )
    return rng.choice(
        [
            field(key, match=rest.MatchValue(value=rng.choice(["a", "b", 1, 2]))),
            field(key, match=rest.MatchAny(any=rng.choice([["a", "c"], [1, 3]]))),
            field(key, match=rest.MatchExcept(**{"except": rng.choice([["a"], [2, 3]])})),
            field("n", range=rest.Range(gt=rng.randrange(3), lte=rng.randrange(6))),
            field("at", range=rest.DatetimeRange(gte=f"2024-01-0{rng.randrange(1, 10)}T00:00:00Z")),
            field("list", values_count=rest.ValuesCount(gte=1)),
            rest.IsEmptyCondition(is_empty=rest.PayloadField(key=key)),
            rest.IsNullCondition(is_null=rest.PayloadField(key=key)),
            rest.HasIdCondition(has_id=rng.sample(range(200), 60)),
            rest.NestedCondition(nested=rest.Nested(key="objects", filter=nested)),
        ]
    )


def field(key: str, **test: Any) -> rest.FieldCondition:
    return rest.FieldCondition(key=key, **test)


# -- refusals -----------------------------------------------------------------------------------------------------------

A_MATCH = {"key": "k", "match": {"value": "v1"}}
BAD_CONDITIONS = {
    "unknown condition": {"looks_like": {"key": "k"}},
    "unknown test": {"key": "k", "equals": "v1"},
    "unknown field beside a known one": {**A_MATCH, "boost": 2},
    "unknown match": {"key": "k", "match": {"regex": ".*"}},
    "match of text, not served": {"key": "k", "match": {"text": "v1"}},
    "boolean match": {"key": "k", "match": {"value": True}},
    "boolean among any": {"key": "k", "match": {"any": [True, False]}},
    "no test": {"key": "k"},
    "two tests": {**A_MATCH, "range": {"gt": 1}},
    "unbounded range": {"key": "n", "range": {}},
    "range of a word": {"key": "n", "range": {"gt": "1"}},
    "unknown bound": {"key": "n", "range": {"gt": 1, "at_most": 3}},
    "geo, not served": {"key": "k", "geo_radius": {"center": {"lon": 1, "lat": 1}, "radius": 5}},
    "bent boolean": {"key": "k", "is_empty": "yes"},
    "bad id": {"has_id": ["no-uuid"]},
    "unknown within nested": {"nested": {"key": "k", "filter": {"must": [A_MATCH], "mustnt": []}}},
    "bad path": {"key": "k[[", "match": {"value": "v1"}},
}


@pytest.mark.parametrize("clause", ["must", "should", "must_not", "deep"])
@pytest.mark.parametrize("condition", BAD_CONDITIONS.values(), ids=BAD_CONDITIONS)
def test_a_filter_that_is_not_understood_is_refused_wherever_it_stands(
    http: httpx.Client, clause: str, condition: dict[str, Any]
) -> None:
    where = {clause: [A_MATCH, condition]} if clause != "deep" else {"must": [{"should": [{"must_not": [condition]}]}]}
    query = {"query": [1, 0], "using": "dense"}
    for path, body in {
        "points/delete": {"filter": where},
        "points/batch": {"operations": [{"delete": {"filter": where}}]},
        "points/payload": {"filter": where, "payload": {"k": "taken"}},
        "points/count": {"filter": where},
        "points/scroll": {"filter": where},
        "points/query": {**query, "filter": where},
        "points/query/batch": {"searches": [query, {**query, "filter": where}]},
    }.items():
        refused = http.post(f"/collections/docs/{path}", json=body)
        assert refused.status_code == 400, (path, refused.text)
        assert refused.json()["status"]["error"]
    prefetched = {"prefetch": [{**query, "filter": where}], "query": {"fusion": "rrf"}}
    assert http.post("/collections/docs/points/query", json=prefetched).status_code == 400
    assert count(http) == 5


BAD_REQUESTS = {
    "unknown field of a query": ("POST", "points/query", {"query": [1, 0], "using": "dense", "topk": 3}),
    "query of another collection": ("POST", "points/query", {"query": 1, "lookup_from": {"collection": "x"}}),
    "unknown fusion": ("POST", "points/query", {"prefetch": {"query": [1, 0]}, "query": {"fusion": "magic"}}),
    "query of a formula": ("POST", "points/query", {"query": {"formula": 1.0}}),
    "unknown search parameter": ("POST", "points/query", {"query": [1, 0], "using": "dense", "params": {"ef": 3}}),
    "vector of the wrong size": ("POST", "points/query", {"query": [1, 0, 0], "using": "dense"}),
    "vector of an unknown name": ("POST", "points/query", {"query": [1, 0], "using": "other"}),
    "limit 0": ("POST", "points/query", {"query": [1, 0], "using": "dense", "limit": 0}),
    "limit of a word": ("POST", "points/query", {"query": [1, 0], "using": "dense", "limit": "3"}),
    "limit beyond reason": ("POST", "points/query", {"query": [1, 0], "using": "dense", "limit": 10**9}),
    "negative offset": ("POST", "points/query", {"query": [1, 0], "using": "dense", "offset": -1}),
    "selector of a word": ("POST", "points/scroll", {"with_payload": "k"}),
    "order without an index": ("POST", "points/scroll", {"order_by": "n"}),
    "unknown field of a scroll": ("POST", "points/scroll", {"page": 2}),
    "delete of nothing named": ("POST", "points/delete", {}),
    "delete of both": ("POST", "points/delete", {"points": [1], "filter": {"must": [A_MATCH]}}),
    "payload for nobody": ("POST", "points/payload", {"payload": {"a": 1}}),
    "payload for both": ("POST", "points/payload", {"payload": {}, "points": [1], "filter": {"must": [A_MATCH]}}),
    "unknown operation": ("POST", "points/batch", {"operations": [{"truncate": {}}]}),
    "conditional upsert": ("PUT", "points", {"points": [], "update_filter": {"must": [A_MATCH]}}),
    "unknown field of a point": ("PUT", "points", {"points": [{"id": 9, "vector": {"dense": [1, 0]}, "ttl": 3}]}),
    "point without vector": ("PUT", "points", {"points": [{"id": 9}]}),
    "negative id": ("PUT", "points", {"points": [{"id": -1, "vector": {"dense": [1, 0]}}]}),
    "id of a word": ("PUT", "points", {"points": [{"id": "nine", "vector": {"dense": [1, 0]}}]}),
    "wrong size": ("PUT", "points", {"points": [{"id": 9, "vector": {"dense": [1, 0, 0]}}]}),
    "text for a number": ("PUT", "points", {"points": [{"id": 9, "vector": {"dense": [1, "0"]}}]}),
    "boolean for a number": ("PUT", "points", {"points": [{"id": 9, "vector": {"dense": [True, False]}}]}),
    "beyond float32": ("PUT", "points", {"points": [{"id": 9, "vector": {"dense": [1e39, 0]}}]}),
    "unknown vector": ("PUT", "points", {"points": [{"id": 9, "vector": {"other": [1, 0]}}]}),
    "repeated index": ("PUT", "points", {"points": [{"id": 9, "vector": {"bm25": {"indices": [1, 1], "values": [1, 2]}}}]}),
    "index beyond 32 bits": ("PUT", "points", {"points": [{"id": 9, "vector": {"bm25": {"indices": [2**32], "values": [1]}}}]}),
    "uneven sparse": ("PUT", "points", {"points": [{"id": 9, "vector": {"bm25": {"indices": [1, 2], "values": [1]}}}]}),
    "uneven batch": ("PUT", "points", {"batch": {"ids": [9, 10], "vectors": {"dense": [[1, 0]]}}}),
    "boolean index": ("PUT", "index", {"field_name": "b", "field_schema": "bool"}),
    "unknown index parameter": ("PUT", "index", {"field_name": "b", "field_schema": {"type": "keyword", "fast": True}}),
    "unknown query parameter": ("PUT", "points?wait=true&force=true", {"points": []}),
    "unknown consistency": ("POST", "points/count?consistency=most", {}),
    "repeated parameter": ("PUT", "points?wait=true&wait=false", {"points": []}),
    "an array": ("POST", "points/count", []),
}  # fmt: skip


@pytest.mark.parametrize(("method", "path", "body"), BAD_REQUESTS.values(), ids=BAD_REQUESTS)
def test_a_request_that_is_not_understood_is_refused(http: httpx.Client, method: str, path: str, body: Any) -> None:
    refused = http.request(method, f"/collections/docs/{path}", json=body)
    assert refused.status_code == 400, refused.text
    assert refused.json()["status"]["error"]
    assert count(http) == 5


def test_a_layout_of_a_cluster_is_kept_and_shown_as_on_a_single_node(client: QdrantClient, http: httpx.Client) -> None:
    client.create_collection("wide", DENSE, shard_number=3, replication_factor=2)
    params = client.get_collection("wide").config.params
    assert (params.shard_number, params.replication_factor, params.write_consistency_factor) == (3, 2, 1)
    for name in ("shard_number", "replication_factor", "write_consistency_factor"):
        body = {"vectors": {"size": 2, "distance": "Cosine"}, name: 0}
        assert http.put("/collections/none", json=body).status_code == 422, name
    assert client.get_collection("docs").config.params.shard_number == 1


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"vectors": {"dense": {"size": 0, "distance": "Cosine"}}},
        {"vectors": {"dense": {"size": 2, "distance": "Hamming"}}},
        {"vectors": {"dense": {"size": 2, "distance": "Cosine", "colour": "red"}}},
        {"vectors": {"size": 2, "distance": "Cosine"}, "strict_mode_config": {"enabled": True}},
        {"vectors": {"size": 2, "distance": "Cosine"}, "init_from": {"collection": "docs"}},
        {"vectors": {"size": 2, "distance": "Cosine"}, "quantization_config": {"binary": {"always_ram": True}}},
        {"vectors": {"size": 2, "distance": "Cosine"}, "optimizers_config": {"flush_interval_sec": 1}},
    ],
)
def test_settings_that_the_engine_does_not_have_are_refused(http: httpx.Client, settings: dict[str, Any]) -> None:
    assert http.put("/collections/other", json=settings).status_code == 400
    assert http.get("/collections/other/exists").json()["result"] == {"exists": False}


def test_bytes_that_are_no_json_are_refused(http: httpx.Client) -> None:
    for body in (b"", b"{", b'{"exact": NaN}', b"\xff\xfe", b"[" * 100_000, b'{"filter":' * 5_000, b'"\\ud800"'):
        refused = http.post("/collections/docs/points/count", content=body)
        assert refused.status_code == 400, body[:20]
    nan = b'{"points": [{"id": 9, "vector": {"dense": [NaN, 1]}}]}'
    assert http.put("/collections/docs/points", content=nan).status_code == 400
    deep: Any = A_MATCH
    for _ in range(400):
        deep = {"must": [deep]}
    assert http.post("/collections/docs/points/count", json={"filter": deep}).status_code == 400


def test_a_body_over_the_limit_is_refused_and_the_server_lives_on(http: httpx.Client) -> None:
    pieces = (b" " * 2**20 for _ in range(40))
    assert http.post("/collections/docs/points/count", content=pieces).status_code == 400
    assert count(http) == 5


@pytest.mark.parametrize(
    "malformed", [{"upsert": {"points": [{"id": 9, "vector": {"dense": [1, 0]}, "ttl": 3}]}}, {"truncate": {}}, {}]
)
def test_a_malformed_operation_keeps_the_rest_of_its_batch_from_happening(http: httpx.Client, malformed: Any) -> None:
    unfit = {"upsert": {"points": [{"id": 9, "vector": {"dense": [1]}}]}}
    operations = [{"delete": {"points": [1]}}, unfit, malformed]
    assert http.post("/collections/docs/points/batch", json={"operations": operations}).status_code == 400
    assert count(http) == 5


@pytest.mark.parametrize(
    ("failing", "status", "why"),
    [
        ({"set_payload": {"points": [77], "payload": {"k": "v9"}}}, 404, "77"),
        ({"upsert": {"points": [{"id": 9, "vector": {"dense": [1]}}]}}, 400, "dimension"),
        ({"upsert": {"points": [{"id": 9, "vector": {"other": [1]}}]}}, 400, "other"),
        ({"delete": {"points": []}}, 400, "Empty update"),
    ],
)
def test_an_operation_that_fails_leaves_the_earlier_ones_of_its_batch_applied(
    http: httpx.Client, failing: Any, status: int, why: str
) -> None:
    """As in Qdrant: a batch is in order, not all or nothing."""
    operations = [{"delete": {"points": [1]}}, failing, {"delete": {"points": [2]}}]
    failed = http.post("/collections/docs/points/batch", json={"operations": operations})
    assert failed.status_code == status
    assert why in failed.json()["status"]["error"]
    assert count(http) == 4


def test_an_update_of_no_points_is_an_error(http: httpx.Client) -> None:
    for method, path, body in (
        ("PUT", "points", {"points": []}),
        ("POST", "points/delete", {"points": []}),
        ("POST", "points/payload", {"points": [], "payload": {"k": "v9"}}),
        ("POST", "points/payload/clear", {"points": []}),
    ):
        refused = http.request(method, f"/collections/docs/{path}", json=body)
        assert (refused.status_code, "Empty update request" in refused.text) == (400, True), path


def test_a_fusion_with_a_k_below_one_is_invalid(http: httpx.Client) -> None:
    for k in (0, -1):
        body = {"prefetch": [{"query": [1, 0], "using": "dense"}], "query": {"rrf": {"k": k}}}
        assert http.post("/collections/docs/points/query", json=body).status_code == 422


# -- names and keys -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["..", ".", "%2e%2e", "..%2f..%2fetc", "a%2fb", "a%5cb", "a%00b", "a%0ab", "%20%7c", "x" * 256, "*"]
)
def test_a_name_that_could_be_a_path_is_refused(url: str, name: str) -> None:
    body = {"vectors": {"size": 2, "distance": "Cosine"}}
    with httpx.Client(base_url=url, headers=HEADERS) as client:
        request = client.build_request("PUT", f"{url}/collections/x", json=body)
        request.url = request.url.copy_with(raw_path=f"/collections/{name}".encode())
        assert client.send(request).status_code in (400, 404)
        assert client.get("/collections").json()["result"]["collections"] == []


def test_a_slash_within_a_name_reaches_no_other_route(http: httpx.Client) -> None:
    http.put("/collections/docs/index", json={"field_name": "k", "field_schema": "keyword"})
    assert http.delete("/collections/docs%2Findex%2Fk").status_code == 400
    assert set(http.get("/collections/docs").json()["result"]["payload_schema"]) == {"k"}


def test_strange_but_valid_names_are_kept_apart(client: QdrantClient) -> None:
    names = ["claim", "registry.json", "..a", "Ünïcode 🚀", "a b%41"]
    for name in names:
        client.create_collection(name, DENSE)
    assert sorted(one.name for one in client.get_collections().collections) == sorted(names)
    assert client.count(names[3]).count == 0


def test_only_the_key_opens(url: str) -> None:
    refused = httpx.get(f"{url}/collections")
    assert (refused.status_code, "api-key" not in refused.headers) == (401, True)
    assert refused.json()["status"]["error"].startswith("Must provide an API key")
    for headers in ({"api-key": ""}, {"api-key": KEY + "x"}, {"api-key": KEY[:-1]}, {"authorization": "Bearer no"}):
        assert httpx.get(f"{url}/collections", headers=headers).status_code == 401, headers
    assert httpx.get(f"{url}/collections", headers={"authorization": f"Basic {KEY}"}).status_code == 401
    assert httpx.get(f"{url}/collections", headers={"authorization": f"Bearer {KEY}"}).status_code == 200
    for path in ("/", "/healthz", "/readyz", "/livez"):
        assert httpx.get(url + path).status_code == 200


def test_the_read_only_key_reads_everything_and_writes_nothing(http: httpx.Client, url: str) -> None:
    query = {"query": [1, 0], "using": "dense"}
    reads = {
        "GET": ("collections", "aliases", "collections/docs", "collections/docs/exists", "collections/docs/points/1"),
        "POST": tuple(
            f"collections/docs/{path}" for path in ("points", "points/scroll", "points/count", "points/query")
        ),
    }
    bodies = {"points": {"ids": [1]}, "query": query}
    with httpx.Client(base_url=url, headers={"api-key": READ_KEY}) as reader:
        for method, paths in reads.items():
            for path in paths:
                body = bodies.get(path.rpartition("/")[2], {}) if method == "POST" else None
                assert reader.request(method, f"/{path}", json=body).status_code == 200, path
        written = [
            (method, path.format(name="docs", field="k", id=1))
            for method, path, _, allowed in ROUTES
            if allowed == WRITE
        ]
        assert len(written) > 10
        for method, path in written:
            refused = reader.request(method, path, json={})
            assert (refused.status_code, refused.json()["status"]["error"][:9]) == (403, "Forbidden"), (method, path)
    assert count(http) == 5


def test_an_absent_collection_is_reported_as_qdrant_reports_it(client: QdrantClient, http: httpx.Client) -> None:
    absent = http.get("/collections/other")
    assert absent.status_code == 404
    assert absent.json()["status"] == {"error": "Not found: Collection `other` doesn't exist!"}
    assert absent.json()["time"] >= 0
    with pytest.raises(UnexpectedResponse) as conflict:
        client.create_collection("docs", DENSE)
    assert conflict.value.status_code == 409
    assert http.get("/collections/docs/points/1").json()["result"]["payload"] == {"n": 1, "k": "v1"}
    assert http.get("/collections/docs/points/99").status_code == 404
    assert http.post("/collections/docs/points/search", json={}).status_code == 404
    assert http.patch("/collections/other", json={}).status_code == 404
    assert http.patch("/collections/docs", json={"vectors": {}}).status_code == 400


# -- aliases ------------------------------------------------------------------------------------------------------------


def test_an_alias_is_repointed_by_one_create_and_lost_by_a_delete_before_a_failing_create(client: QdrantClient) -> None:
    for name in ("blue", "green"):
        client.create_collection(name, DENSE)
    client.upsert("green", [rest.PointStruct(id=1, vector={"dense": [1, 0]})])
    client.update_collection_aliases([make_alias("blue", "live")])
    drop = rest.DeleteAliasOperation(delete_alias=rest.DeleteAlias(alias_name="live"))
    with pytest.raises(UnexpectedResponse):
        client.update_collection_aliases([make_alias("absent", "live")])
    assert client.count("live").count == 0
    client.update_collection_aliases([make_alias("green", "live")])
    assert client.count("live").count == 1
    with pytest.raises(UnexpectedResponse):
        client.update_collection_aliases([drop, make_alias("absent", "live")])
    assert not client.collection_exists("live")
    client.update_collection_aliases([make_alias("green", "live")])
    rename = rest.RenameAliasOperation(rename_alias=rest.RenameAlias(old_alias_name="live", new_alias_name="next"))
    client.update_collection_aliases([rename])
    assert not client.collection_exists("live")
    assert client.count("next").count == 1
    for clash in (make_alias("blue", "green"), rename, make_alias("blue", "a/b")):
        with pytest.raises(UnexpectedResponse):
            client.update_collection_aliases([clash])
    with pytest.raises(UnexpectedResponse):
        client.create_collection("next", DENSE)


def test_no_reader_meets_an_alias_without_a_collection(client: QdrantClient) -> None:
    for name in ("blue", "green"):
        client.create_collection(name, DENSE)
    client.update_collection_aliases([make_alias("blue", "live")])
    with ThreadPoolExecutor(1) as pool:

        def switch() -> None:
            for at in range(30):
                client.update_collection_aliases([make_alias(("blue", "green")[at % 2], "live")])

        switching = pool.submit(switch)
        reads = 0
        while not switching.done():
            assert client.count("live").count == 0
            reads += 1
        switching.result()
        assert reads > 5


def test_health_answers_while_points_are_written(http: httpx.Client, url: str) -> None:
    """The engine holds the interpreter during its calls, so they must be short: nothing here may keep a probe waiting."""
    batch = [{"id": i, "vector": {"dense": [1, i]}, "payload": {"text": "x" * 500}} for i in range(1, 2_001)]
    waits = []
    with ThreadPoolExecutor(1) as pool:
        writing = pool.submit(lambda: [http.put("/collections/docs/points", json={"points": batch}) for _ in range(5)])
        while not writing.done():
            started = time.perf_counter()
            assert httpx.get(f"{url}/healthz").status_code == 200
            waits.append(time.perf_counter() - started)
        assert {one.status_code for one in writing.result()} == {200}
    assert max(waits) < 2
