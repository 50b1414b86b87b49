"""The findings of a partition: the ledger compared with the vector index. Dagster's checks and the stream lane report them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from rag.models import IndexSpec
from rag.ports import Catalog, Ledger, VectorIndex

SAMPLE = 32  # points whose vectors are read back
SHOWN = 10  # ids named in a failed check
CHECKS = {
    "every_chunk_has_a_vector": "Each current chunk of the ledger has its point in Qdrant. A missing point hides text from answers.",
    "vectors_are_well_formed": "A sample of vectors has the dimensions of the index and unit length.",
    "no_orphans": "Each point in Qdrant is recorded by the ledger. An orphan costs space, and answers never use it.",
    "payloads_are_current": "Each point has the payload that the ledger records: text, section and access rights.",
}


class Store(Catalog, Ledger, Protocol):
    """The ledger's part that the findings need."""


@dataclass(frozen=True, slots=True)
class Finding:
    """The result of one check."""

    name: str
    passed: bool
    details: Mapping[str, Any]


async def partition_findings(
    spec: IndexSpec, partition: int, store: Store, vectors: VectorIndex, *, documents: Sequence[str] | None = None
) -> list[Finding]:
    """Compare the ledger with the vector index, for a partition or for ``documents`` of it.

    A partition may have a million points, so a run over events checks the documents that it touched and no others.
    """
    current = await store.points(spec.index_id, partition, documents=documents)
    scroll = vectors.scroll(spec.index_id, partition=partition, documents=documents)
    points = dict([point async for point in scroll])
    missing = sorted(current.keys() - points.keys())
    # Points of a running apply, and retired ones that wait for the sweep, are recorded and are not orphans.
    orphans = sorted(await store.unknown_points(spec.index_id, sorted(points.keys() - current.keys())))
    stale = sorted(point_id for point_id in current.keys() & points.keys() if current[point_id] != points[point_id])
    sample = await vectors.retrieve(spec.index_id, sorted(current.keys() & points.keys())[:SAMPLE])
    misshapen = [
        point.point_id
        for point in sample
        if point.embedding.dense.shape != (spec.dimensions,)
        or not np.isclose(float(np.linalg.norm(point.embedding.dense)), 1.0, atol=1e-3)
    ]
    return [
        Finding("every_chunk_has_a_vector", not missing, {"chunks": len(current), "missing": missing[:SHOWN]}),
        Finding("vectors_are_well_formed", not misshapen, {"sampled": len(sample), "misshapen": misshapen[:SHOWN]}),
        Finding("no_orphans", not orphans, {"points": len(points), "orphans": orphans[:SHOWN]}),
        Finding("payloads_are_current", not stale, {"stale": stale[:SHOWN]}),
    ]
