"""The translation of a collection's settings and payload indexes for the engine and back."""

from __future__ import annotations

from typing import Any

import qdrant_edge as edge
from pydantic import BaseModel
from qdrant_client.http import models as rest

from deploy.local.qdrant.errors import Refused, only

HNSW = {"m": 16, "ef_construct": 100, "full_scan_threshold": 10_000}  # Qdrant's defaults
LAYOUT = ("shard_number", "replication_factor", "write_consistency_factor")
COLLECTION = ("vectors", "sparse_vectors", "on_disk_payload", "hnsw_config", "optimizers_config", "quantization_config")
OPTIMIZERS = ("deleted_threshold", "vacuum_min_vector_number", "default_segment_number", "max_segment_size")
INDEXES = {
    rest.PayloadSchemaType.KEYWORD: edge.KeywordIndexParams,
    rest.PayloadSchemaType.INTEGER: edge.IntegerIndexParams,
    rest.PayloadSchemaType.FLOAT: edge.FloatIndexParams,
    rest.PayloadSchemaType.DATETIME: edge.DatetimeIndexParams,
    rest.PayloadSchemaType.UUID: edge.UuidIndexParams,
}


def dense(wanted: rest.CreateCollection) -> dict[str, rest.VectorParams]:
    vectors = wanted.vectors or {}
    return {"": vectors} if isinstance(vectors, rest.VectorParams) else vectors


def engine(wanted: rest.CreateCollection, index_from: int) -> edge.EdgeConfig:
    """Return the settings for the engine, which builds no graph under `index_from` points: until then a scan costs less than a graph."""
    only(wanted, *COLLECTION, *LAYOUT)
    for name in LAYOUT:  # kept and shown, as a single node of Qdrant does
        if (given := getattr(wanted, name)) is not None and given < 1:
            raise Refused(f"Validation error in JSON body: [{name}: value {given} invalid, must be 1 or larger]", 422)
    if not dense(wanted) and not wanted.sparse_vectors:
        raise Refused("a collection needs vectors or sparse_vectors")
    optimizers = wanted.optimizers_config or rest.OptimizersConfigDiff()
    only(optimizers, *OPTIMIZERS, "indexing_threshold")
    largest = max((params.size for params in dense(wanted).values()), default=1)
    threshold = (
        optimizers.indexing_threshold if optimizers.indexing_threshold is not None else index_from * largest * 4 // 1024
    )
    return edge.EdgeConfig(
        vectors={name: _dense(params) for name, params in dense(wanted).items()},
        sparse_vectors={name: _sparse(params) for name, params in (wanted.sparse_vectors or {}).items()},
        on_disk_payload=wanted.on_disk_payload,
        hnsw_config=_hnsw(wanted.hnsw_config),
        quantization_config=_quantization(wanted.quantization_config),
        optimizers=edge.EdgeOptimizersConfig(
            **{name: getattr(optimizers, name) for name in OPTIMIZERS}, indexing_threshold=max(threshold, 1)
        ),
    )


def _dense(wanted: rest.VectorParams) -> edge.EdgeVectorParams:
    only(wanted, "size", "distance", "on_disk", "datatype", "hnsw_config", "quantization_config")
    if not 1 <= wanted.size <= 65_536:
        raise Refused(f"vector size {wanted.size} is not within 1..65536")
    return edge.EdgeVectorParams(
        wanted.size,
        getattr(edge.Distance, wanted.distance.value),
        on_disk=wanted.on_disk,
        datatype=_datatype(wanted.datatype),
        hnsw_config=_hnsw(wanted.hnsw_config),
        quantization_config=_quantization(wanted.quantization_config),
    )


def _sparse(wanted: rest.SparseVectorParams) -> edge.EdgeSparseVectorParams:
    only(wanted, "index", "modifier")
    index = wanted.index or rest.SparseIndexParams()
    only(index, "full_scan_threshold", "on_disk", "datatype")
    return edge.EdgeSparseVectorParams(
        full_scan_threshold=index.full_scan_threshold,
        on_disk=index.on_disk,
        modifier=edge.Modifier.Idf if wanted.modifier is rest.Modifier.IDF else None,
        datatype=_datatype(index.datatype),
    )


def _datatype(wanted: rest.Datatype | None) -> Any:
    if wanted is None:
        return None
    found = getattr(edge.VectorStorageDatatype, wanted.value.capitalize(), None)
    if found is None:
        raise Refused(f"datatype {wanted.value} is not supported by this local server")
    return found


def _hnsw(wanted: rest.HnswConfigDiff | None) -> edge.HnswIndexConfig | None:
    if wanted is None:
        return None
    only(wanted, *HNSW, "max_indexing_threads", "on_disk", "payload_m")
    return edge.HnswIndexConfig(**HNSW | _given(wanted))


def _quantization(wanted: Any) -> Any:
    if wanted is None:
        return None
    if not isinstance(wanted, rest.ScalarQuantization):
        raise Refused(f"{type(wanted).__name__} is not supported by this local server: use scalar quantization")
    only(wanted.scalar, "type", "quantile", "always_ram")
    return edge.ScalarQuantizationConfig(edge.ScalarType.Int8, wanted.scalar.quantile, wanted.scalar.always_ram)


def index(wanted: rest.CreateFieldIndex) -> edge.UpdateOperation:
    schema = wanted.field_schema
    kind = (
        schema if isinstance(schema, rest.PayloadSchemaType) else schema and rest.PayloadSchemaType(schema.type.value)
    )
    if kind not in INDEXES:
        known = ", ".join(one.value for one in INDEXES)
        raise Refused(f"index on `{wanted.field_name}` of type {kind and kind.value}: this local server has {known}")
    params = {} if isinstance(schema, rest.PayloadSchemaType) or schema is None else _given(schema)
    params.pop("type", None)
    if "memory" in params:
        raise Refused(f"index on `{wanted.field_name}`: memory is not supported by this local server")
    return edge.UpdateOperation.create_field_index(wanted.field_name, INDEXES[kind](**params))


def info(wanted: rest.CreateCollection, shard: edge.EdgeShard) -> dict[str, Any]:
    """Return the description of a collection. `points_count` is counted, because the engine's own figure is wrong after a kill."""
    state = shard.info()
    points = shard.count(edge.CountRequest(exact=True))
    given = wanted.model_dump(mode="json", exclude_none=True)
    return {
        "status": "green",
        "optimizer_status": "ok",
        "indexed_vectors_count": state.indexed_vectors_count,
        "points_count": points,
        "segments_count": state.segments_count,
        "config": {
            "params": {
                "vectors": given.get("vectors", {}),
                "sparse_vectors": given.get("sparse_vectors", {}),
                "on_disk_payload": wanted.on_disk_payload is not False,
                **{name: given.get(name, 1) for name in LAYOUT},
            },
            "hnsw_config": HNSW | given.get("hnsw_config", {}),
            "optimizer_config": {"default_segment_number": 0, "flush_interval_sec": 5}
            | given.get("optimizers_config", {}),
            "quantization_config": given.get("quantization_config"),
        },
        "payload_schema": {
            field: {"data_type": str(held.data_type).rpartition(".")[2].lower(), "points": held.points}
            for field, held in state.payload_schema.items()
        },
    }


def _given(model: BaseModel) -> dict[str, Any]:
    return {name: value for name, value in model if value is not None}
