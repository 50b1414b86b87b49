"""Vector index in Qdrant: one collection per pipeline fingerprint, and the alias ``documents`` for the live one.

The caller retries. Here, every call has a deadline, and every failure of Qdrant is raised as Unavailable. A request that Qdrant refuses
as invalid (4xx) is a bug of ours and is raised unchanged.
"""

from __future__ import annotations

import asyncio
import re
import warnings
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar
from urllib.parse import urlsplit

import numpy as np
import orjson
from pydantic import ValidationError
from qdrant_client import AsyncQdrantClient, models
from qdrant_client.common.client_exceptions import ResourceExhaustedResponse
from qdrant_client.http.exceptions import ResponseHandlingException, UnexpectedResponse
from tenacity import AsyncRetrying, retry_if_exception, stop_after_attempt, wait_random_exponential

from rag.adapters.fusion import RRF_K, depth
from rag.errors import Conflict, Unavailable
from rag.models import (
    AccessFilter,
    Embedding,
    HybridQuery,
    IndexSpec,
    Payload,
    Point,
    ScoredPoint,
    SparseVector,
)
from rag.telemetry import logger

_log = logger(__name__)

ALIAS = "documents"
DENSE, SPARSE = "dense", "bm25"
KEYWORD, INTEGER = models.PayloadSchemaType.KEYWORD, models.PayloadSchemaType.INTEGER
INDEXED: dict[str, models.PayloadSchemaType | models.KeywordIndexParams] = {
    "tenant": models.KeywordIndexParams(type=models.KeywordIndexType.KEYWORD, is_tenant=True),
    "principals": KEYWORD,
    "scopes": KEYWORD,
    "document_id": KEYWORD,
    "source": KEYWORD,
    "language": KEYWORD,
    "media_type": KEYWORD,
    "partition": INTEGER,
}

CALL_BYTES = 8 * 2**20  # Qdrant accepts 32 MiB; the real size may be twice the estimate
CALL_POINTS = 1_000
PAGE = 1_000
WRITE_SECONDS = 60  # also to connect; a large batch on a busy machine takes seconds
READ_SECONDS = 10
TIES = 16  # fetched beyond the limit: Qdrant returns equal scores in random order, and a tie at the cut would change the set
DELETED = 0.2  # share of deleted points above which Qdrant rewrites a segment, its default
DELETED_FOR_PURGE = 1e-9
VACUUM_FROM = 100  # points of a segment that may be rewritten, Qdrant's least
PURGE_SECONDS, PURGE_POLL = 600, 0.2
OLDEST = (1, 15, 4)  # the first version in which reciprocal rank fusion takes a k
SETTLE_ATTEMPTS = 8  # of `create` while replicas start; the waits between them add up to seven seconds at most
SETTLE_WAIT = wait_random_exponential(multiplier=0.1, max=2)


@dataclass(frozen=True)
class Layout:
    """The shards of a new collection, and the copies of each. An existing collection keeps its own.

    Each shard counts the frequencies of words by itself, so the ranks of BM25 depend on the number of shards.
    """

    shards: int = 1
    replicas: int = 1


@dataclass(frozen=True, slots=True)
class _Hit:
    id: str | int
    score: float
    payload: dict[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class _Hits:
    points: list[_Hit]


@dataclass(frozen=True, slots=True)
class _Found:
    result: _Hits


@dataclass(frozen=True, slots=True)
class _Written:
    result: dict[str, Any]


_Answer = TypeVar("_Answer", _Found, _Written)


class QdrantIndex:
    """VectorIndex of ``rag.ports``. Raises Unavailable when Qdrant does not answer, refuses the key, or does not have the index."""

    def __init__(self, client: AsyncQdrantClient, layout: Layout | None = None) -> None:
        self._client = client
        self._layout = layout or Layout()
        self._is_recent = False

    @classmethod
    @asynccontextmanager
    async def open(
        cls, url: str, api_key: str | None = None, layout: Layout | None = None
    ) -> AsyncIterator[QdrantIndex]:
        """Open the index. The client connects on first use. With a read-only key, only an existing index can be used."""
        with warnings.catch_warnings():
            if urlsplit(url).hostname in {"127.0.0.1", "::1", "localhost"}:
                warnings.filterwarnings("ignore", message="Api key is used with an insecure connection")
            # The compatibility check would connect here and now, and block.
            client = AsyncQdrantClient(url=url, api_key=api_key, timeout=WRITE_SECONDS, check_compatibility=False)
        try:
            yield cls(client, layout)
        finally:
            await client.close()

    async def create(self, spec: IndexSpec) -> None:
        """Create the parts of the index that are missing. When all are there, only read. Repeat while replicas start."""
        attempts = AsyncRetrying(
            retry=retry_if_exception(_is_settling),
            wait=SETTLE_WAIT,
            stop=stop_after_attempt(SETTLE_ATTEMPTS),
            reraise=True,
        )
        with _failures():
            await self._require_version()
            async for attempt in attempts:
                with attempt:
                    await self._create_missing(spec)

    async def _require_version(self) -> None:
        if self._is_recent:
            return
        version = (await self._client.info()).version
        if tuple(int(number) for number in re.findall(r"\d+", version)[:3]) < OLDEST:
            oldest = ".".join(map(str, OLDEST))
            raise Unavailable(
                f"the Qdrant of QDRANT_URL has version {version}: upgrade it to {oldest} or newer, which fuses with a chosen k"
            )
        self._is_recent = True

    async def _create_missing(self, spec: IndexSpec) -> None:
        if not await self._client.collection_exists(spec.collection):
            await self._create_collection(spec)
        collection = await self._client.get_collection(spec.collection)
        self._check(spec, collection.config.params)
        for field, schema in INDEXED.items():
            if field not in collection.payload_schema:
                await self._client.create_payload_index(spec.collection, field, schema, wait=True)
        if ALIAS not in {alias.alias_name for alias in (await self._client.get_aliases()).aliases}:
            # To repoint an alias, send one create as well: Qdrant applies a delete and a create one by one.
            alias = models.CreateAlias(collection_name=spec.collection, alias_name=ALIAS)
            await self._client.update_collection_aliases([models.CreateAliasOperation(create_alias=alias)])

    async def _create_collection(self, spec: IndexSpec) -> None:
        try:
            await self._client.create_collection(
                spec.collection,
                vectors_config={DENSE: models.VectorParams(size=spec.dimensions, distance=models.Distance.COSINE)},
                sparse_vectors_config={SPARSE: models.SparseVectorParams(modifier=models.Modifier.IDF)},
                shard_number=self._layout.shards,
                replication_factor=self._layout.replicas,
            )
        except UnexpectedResponse as error:
            if error.status_code != 409:  # another process has created it meanwhile
                raise

    def _check(self, spec: IndexSpec, params: models.CollectionParams) -> None:
        vectors = params.vectors
        size = vectors[DENSE].size if isinstance(vectors, dict) and DENSE in vectors else None
        if size != spec.dimensions:
            raise Conflict(f"collection {spec.collection} has vectors of {size} dimensions, not of {spec.dimensions}")
        found = Layout(params.shard_number or 1, params.replication_factor or 1)
        if found != self._layout:
            _log.warning(
                "index.other_layout",
                collection=spec.collection,
                shards=found.shards,
                replicas=found.replicas,
                why="QDRANT_SHARD_NUMBER and QDRANT_REPLICATION_FACTOR shape new collections only: change this one in Qdrant",
            )

    async def exists(self, index_id: str) -> bool:
        with _failures():
            return await self._client.collection_exists(_collection(index_id))

    async def upsert(self, index_id: str, points: Sequence[Point]) -> None:
        with _failures():
            for batch in _batches([_structure(point) for point in points], [_point_bytes(point) for point in points]):
                await self._send(_Written, "PUT", index_id, "points", {"points": batch}, wait="true")

    async def delete(self, index_id: str, point_ids: Sequence[str]) -> None:
        with _failures():
            for page in _pages(point_ids):
                await self._client.delete(_collection(index_id), models.PointIdsList(points=page), wait=True)

    async def search(self, index_id: str, query: HybridQuery, access: AccessFilter, *, limit: int) -> list[ScoredPoint]:
        allowed, candidates = _filter(access), depth(limit)
        prefetch = [{"query": query.dense, "using": DENSE, "filter": allowed, "limit": candidates}]
        if query.sparse.indices.size:  # a question that has only stop words has no terms
            prefetch.append({"query": _sparse(query.sparse), "using": SPARSE, "filter": allowed, "limit": candidates})
        fused = {
            "prefetch": prefetch, "query": {"rrf": {"k": RRF_K}}, "limit": limit + TIES, "with_payload": True,
        }  # fmt: skip
        with _failures():
            answer = await self._send(_Found, "POST", index_id, "points/query", fused, timeout=str(READ_SECONDS))
        points = [ScoredPoint(str(hit.id), hit.score, hit.payload or {}) for hit in answer.result.points]
        return sorted(points, key=lambda point: (-point.score, point.point_id))[:limit]

    async def _send(
        self, answer: type[_Answer], method: str, index_id: str, path: str, body: dict[str, Any], **params: str
    ) -> _Answer:
        """Send a body of plain values and arrays by qdrant_client's connection, with its errors.

        For what every change and every question sends: to build the client's models of a body costs several times its sending
        (decision 0043).
        """
        return await self._client.http.client.request(
            type_=answer,
            method=method,
            url=f"/collections/{_collection(index_id)}/{path}",
            params=params,
            headers={"Content-Type": "application/json"},
            content=orjson.dumps(body, default=np.ndarray.tolist, option=orjson.OPT_SERIALIZE_NUMPY),
        )

    async def purge(self, index_id: str) -> None:
        collection = _collection(index_id)
        with _failures():
            await self._optimize(collection, DELETED_FOR_PURGE)
            try:
                async with asyncio.timeout(PURGE_SECONDS):
                    while not await self._is_settled(collection):  # noqa: ASYNC110  (Qdrant reports no event)
                        await asyncio.sleep(PURGE_POLL)
            except TimeoutError:
                raise Unavailable(
                    f"{collection} is still being rewritten after {PURGE_SECONDS} s: its deleted points are not purged yet"
                ) from None
            finally:
                await self._optimize(collection, DELETED)

    async def _optimize(self, collection: str, deleted: float) -> None:
        """Have segments rewritten in which more than this share of the points is deleted. Qdrant leaves those under ``VACUUM_FROM``."""
        changed = models.OptimizersConfigDiff(deleted_threshold=deleted, vacuum_min_vector_number=VACUUM_FROM)
        await self._client.update_collection(collection, optimizers_config=changed, timeout=WRITE_SECONDS)

    async def _is_settled(self, collection: str) -> bool:
        info = await self._client.get_collection(collection)
        return info.status is models.CollectionStatus.GREEN

    async def scroll(
        self, index_id: str, *, partition: int | None = None, documents: Sequence[str] | None = None, start: str = ""
    ) -> AsyncIterator[tuple[str, str]]:
        following: Any = start or None
        while True:
            with _failures():
                page, following = await self._client.scroll(
                    _collection(index_id),
                    scroll_filter=_selection(partition, documents),
                    limit=PAGE,
                    offset=following,
                    with_payload=["payload_hash"],
                    timeout=READ_SECONDS,
                )
            for record in page:
                yield str(record.id), (record.payload or {}).get("payload_hash", "")
            if following is None:
                return

    async def retrieve(self, index_id: str, point_ids: Sequence[str]) -> list[Point]:
        found: dict[str, Point] = {}
        with _failures():
            for page in _pages(list(dict.fromkeys(point_ids))):
                records = await self._client.retrieve(
                    _collection(index_id), page, with_payload=True, with_vectors=True, timeout=READ_SECONDS
                )
                found |= {str(record.id): _point(record) for record in records}
        return [found[point_id] for point_id in dict.fromkeys(point_ids) if point_id in found]

    async def count(self, index_id: str, *, partition: int | None = None) -> int:
        with _failures():
            counted = await self._client.count(
                _collection(index_id), count_filter=_selection(partition), exact=True, timeout=READ_SECONDS
            )
        return counted.count


@contextmanager
def _failures() -> Iterator[None]:
    try:
        yield
    except ResourceExhaustedResponse as error:
        raise Unavailable(
            f"qdrant is out of capacity: {error.message}", retry_after=float(error.retry_after_s)
        ) from error
    except ResponseHandlingException as error:
        if isinstance(error.source, ValidationError):
            raise  # the server's answer is not one of Qdrant's
        raise Unavailable(f"qdrant does not answer ({type(error.source).__name__}): check QDRANT_URL") from error
    except UnexpectedResponse as error:
        if error.status_code == 404 and b"Collection" in error.content:
            raise Unavailable(f"the index is not built, run create() first: {error}") from error
        if error.status_code == 401:
            raise Unavailable("qdrant refuses the API key: check QDRANT_API_KEY, QDRANT_READ_ONLY_API_KEY") from error
        if error.status_code == 403:
            raise Unavailable(
                "qdrant allows only reads with this API key (QDRANT_READ_ONLY_API_KEY): writes need QDRANT_API_KEY,"
                " and `python -m assets prepare` creates a missing index"
            ) from error
        if error.status_code in (408, 429) or (error.status_code or 0) >= 500:
            raise Unavailable(f"qdrant cannot serve now: status {error.status_code}") from error
        raise


def _is_settling(error: BaseException) -> bool:
    """Return whether a node does not know the new collection yet, or its replicas still start."""
    if not isinstance(error, UnexpectedResponse) or error.status_code is None:
        return False
    return error.status_code >= 500 or (error.status_code == 404 and b"Collection" in error.content)


# -- the domain's values to Qdrant's and back ---------------------------------------------------------------------------


def _collection(index_id: str) -> str:
    return IndexSpec(index_id, dimensions=0).collection


def _filter(access: AccessFilter) -> dict[str, Any]:
    """Return the filter for the tenant, and for any of the principals or granted scopes without the revoked ones.

    The caller's own fields are added to it, so they can only narrow it.
    """
    named = _any("principals", access.principals)
    if access.ruled.granted:
        named = {"should": [named, _any("scopes", access.ruled.granted)]}
    must = [_any("tenant", (access.tenant,)), named, *(_any(key, values) for key, values in access.narrow.items())]
    if not access.ruled.revoked:
        return {"must": must}
    return {"must": must, "must_not": [_any("scopes", access.ruled.revoked)]}


def _any(key: str, values: Sequence[str]) -> dict[str, Any]:
    return {"key": key, "match": {"any": list(values)}}


def _selection(partition: int | None, documents: Sequence[str] | None = None) -> models.Filter:
    must: list[models.Condition] = []
    if partition is not None:
        must.append(models.FieldCondition(key="partition", match=models.MatchValue(value=partition)))
    if documents is not None:
        must.append(models.FieldCondition(key="document_id", match=models.MatchAny(any=list(documents))))
    return models.Filter(must=must)


def _structure(point: Point) -> dict[str, Any]:
    vector: dict[str, Any] = {DENSE: point.embedding.dense}
    if point.embedding.sparse.indices.size:
        vector[SPARSE] = _sparse(point.embedding.sparse)
    return {"id": point.point_id, "vector": vector, "payload": point.payload}


def _sparse(vector: SparseVector) -> dict[str, Any]:
    return {"indices": vector.indices, "values": vector.values}


def _point(record: models.Record) -> Point:
    vector: Any = record.vector
    sparse = vector.get(SPARSE) or models.SparseVector(indices=[], values=[])
    embedding = Embedding(
        np.asarray(vector[DENSE], np.float32),
        SparseVector(np.asarray(sparse.indices, np.uint32), np.asarray(sparse.values, np.float32)),
    )
    return Point(str(record.id), embedding, record.payload or {})


def _point_bytes(point: Point) -> int:
    """Estimate the size of a point in JSON, at 22 characters per number."""
    numbers = point.embedding.dense.size + 2 * point.embedding.sparse.indices.size
    return 22 * numbers + _payload_bytes(point.payload)


def _payload_bytes(payload: Payload) -> int:
    return 500 + 2 * len(payload.get("text", ""))


def _batches(items: Sequence[Any], sizes: Sequence[int]) -> Iterator[list[Any]]:
    """Yield the items in as few batches as the limits of a call's body allow."""
    batch: list[Any] = []
    room = CALL_BYTES
    for item, size in zip(items, sizes, strict=True):
        if batch and (size > room or len(batch) == CALL_POINTS):
            yield batch
            batch, room = [], CALL_BYTES
        batch.append(item)
        room -= size
    if batch:
        yield batch


def _pages(ids: Sequence[str]) -> Iterator[list[str]]:
    return (list(ids[at : at + PAGE]) for at in range(0, len(ids), PAGE))
