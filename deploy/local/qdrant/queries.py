"""The translation of queries for the engine: retrieve, scroll, count, facet, query with prefetches."""

from __future__ import annotations

from typing import Any

import qdrant_edge as edge
from qdrant_client.http import models as rest

from deploy.local.qdrant.errors import Refused, only, parse
from deploy.local.qdrant.filters import optional
from deploy.local.qdrant.points import Vectors, records

LIMIT = 10  # Qdrant's default
LONGEST = 100_000  # a result is built in memory
RRF_K = 2  # Qdrant's default


def retrieve(shard: edge.EdgeShard, raw: Any, _: Vectors) -> Any:
    wanted = parse(rest.PointRequest, raw)
    only(wanted, "ids", "with_payload", "with_vector")
    found = shard.retrieve(wanted.ids, _payload(wanted.with_payload, True), _vector(wanted.with_vector))
    return records(found)


def scroll(shard: edge.EdgeShard, raw: Any, _: Vectors) -> Any:
    wanted = parse(rest.ScrollRequest, raw)
    only(wanted, "offset", "limit", "filter", "with_payload", "with_vector", "order_by")
    found, following = shard.scroll(
        edge.ScrollRequest(
            offset=wanted.offset,
            limit=_limit(wanted.limit),
            filter=optional(wanted.filter),
            with_payload=_payload(wanted.with_payload, True),
            with_vector=_vector(wanted.with_vector),
            order_by=_order(wanted.order_by),
        )
    )
    following = following if following is None or isinstance(following, int) else str(following)
    return {"points": records(found), "next_page_offset": following}


def count(shard: edge.EdgeShard, raw: Any, _: Vectors) -> Any:
    """Count exactly, even if the request accepts an estimate."""
    wanted = parse(rest.CountRequest, raw)
    only(wanted, "filter", "exact")
    return {"count": shard.count(edge.CountRequest(exact=True, filter=optional(wanted.filter)))}


def facet(shard: edge.EdgeShard, raw: Any, _: Vectors) -> Any:
    wanted = parse(rest.FacetRequest, raw)
    only(wanted, "key", "limit", "filter", "exact")
    found = shard.facet(edge.FacetRequest(wanted.key, _limit(wanted.limit), exact=True, filter=optional(wanted.filter)))
    return {"hits": [{"value": hit.value, "count": hit.count} for hit in found.hits]}


def query(shard: edge.EdgeShard, raw: Any, vectors: Vectors) -> Any:
    return {"points": records(shard.query(_request(parse(rest.QueryRequest, raw), vectors)))}


def query_batch(shard: edge.EdgeShard, raw: Any, vectors: Vectors) -> Any:
    requests = [_request(one, vectors) for one in parse(rest.QueryRequestBatch, raw).searches]
    return [{"points": records(found)} for found in shard.query_batch(edge.QueryBatchRequest(requests))]


def _request(wanted: rest.QueryRequest, vectors: Vectors) -> edge.QueryRequest:
    only(wanted, *STAGE, "offset", "with_payload", "with_vector")
    return edge.QueryRequest(
        **_stage(wanted, vectors),
        offset=_offset(wanted.offset),
        with_payload=_payload(wanted.with_payload, False),
        with_vector=_vector(wanted.with_vector),
    )


STAGE = ("prefetch", "query", "using", "filter", "params", "score_threshold", "limit")


def _stage(wanted: rest.QueryRequest | rest.Prefetch, vectors: Vectors) -> dict[str, Any]:
    """Return the arguments that a query and its prefetches have in common."""
    only(wanted, *STAGE, "offset", "with_payload", "with_vector")
    before = wanted.prefetch if isinstance(wanted.prefetch, list) else [wanted.prefetch] if wanted.prefetch else []
    return {
        "prefetches": [edge.Prefetch(**_stage(one, vectors)) for one in before],
        "query": _scoring(wanted.query, wanted.using, vectors),
        "filter": optional(wanted.filter),
        "params": _params(wanted.params),
        "score_threshold": wanted.score_threshold,
        "limit": _limit(wanted.limit),
    }


def _scoring(wanted: Any, using: str | None, vectors: Vectors) -> Any:
    if isinstance(wanted, rest.NearestQuery):
        only(wanted, "nearest")
        wanted = wanted.nearest
    if isinstance(wanted, rest.SparseVector):
        return edge.Query.Nearest(vectors.named(using or "", wanted.model_dump()), using)
    if isinstance(wanted, list):
        return edge.Query.Nearest(vectors.named(using or "", wanted), using)
    if using is not None:
        raise Refused(f"using {using!r} without a vector to compare with")
    if wanted is None:
        return None
    if isinstance(wanted, rest.FusionQuery):
        return edge.Fusion.Rrf(RRF_K) if wanted.fusion is rest.Fusion.RRF else edge.Fusion.Dbsf()
    if isinstance(wanted, rest.RrfQuery):
        k = RRF_K if wanted.rrf.k is None else wanted.rrf.k
        if k < 1:
            raise Refused(f"Validation error in JSON body: [query.rrf.k: value {k} invalid, must be 1 or larger]", 422)
        return edge.Fusion.Rrf(k, wanted.rrf.weights)
    if isinstance(wanted, rest.OrderByQuery):
        return _order(wanted.order_by)
    raise Refused(
        f"query of type {type(wanted).__name__} is not supported by this local server: give a vector or a fusion"
    )


def _order(wanted: rest.OrderBy | str | None) -> edge.OrderBy | None:
    if wanted is None or isinstance(wanted, str):
        return edge.OrderBy(wanted) if wanted else None
    start = wanted.start_from if isinstance(wanted.start_from, int | float | None) else wanted.start_from.isoformat()
    direction = edge.Direction.Desc if wanted.direction is rest.Direction.DESC else edge.Direction.Asc
    return edge.OrderBy(wanted.key, direction, start)


def _params(wanted: rest.SearchParams | None) -> edge.SearchParams | None:
    if wanted is None:
        return None
    only(wanted, "hnsw_ef", "exact", "quantization", "indexed_only")
    return edge.SearchParams(
        hnsw_ef=wanted.hnsw_ef,
        exact=bool(wanted.exact),
        indexed_only=bool(wanted.indexed_only),
        quantization=_quantized(wanted.quantization),
    )


def _quantized(wanted: rest.QuantizationSearchParams | None) -> edge.QuantizationSearchParams | None:
    if wanted is None:
        return None
    only(wanted, "ignore", "rescore", "oversampling")
    return edge.QuantizationSearchParams(bool(wanted.ignore), wanted.rescore, wanted.oversampling)


def _payload(wanted: Any, default: bool) -> Any:
    if wanted is None:
        return default
    if isinstance(wanted, rest.PayloadSelectorInclude):
        return edge.PayloadSelector.Include(wanted.include)
    if isinstance(wanted, rest.PayloadSelectorExclude):
        return edge.PayloadSelector.Exclude(wanted.exclude)
    return wanted


def _vector(wanted: Any) -> Any:
    return False if wanted is None else wanted


def _limit(wanted: int | None) -> int:
    if wanted is None:
        return LIMIT
    if not 1 <= wanted <= LONGEST:
        raise Refused(f"limit {wanted} is not within 1..{LONGEST}")
    return wanted


def _offset(wanted: int | None) -> int:
    if wanted is None:
        return 0
    if not 0 <= wanted <= LONGEST:
        raise Refused(f"offset {wanted} is not within 0..{LONGEST}")
    return wanted
