"""The checks of a partition of the index. The findings are plain functions, which the stream lane calls too."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import dagster as dg
import numpy as np

from assets.batches import find_batch
from assets.partitions import documents_partitions
from assets.resources import OpenServices, open_for_run
from rag.models import IndexSpec
from rag.ports import Catalog, VectorIndex

SAMPLE = 32  # points whose vectors are read back
SHOWN = 10  # ids named in a failed check
CHECKS = {
    "every_chunk_has_a_vector": "Each current chunk of the ledger has its point in Qdrant. A missing point hides text from answers.",
    "vectors_are_well_formed": "A sample of vectors has the dimensions of the index and unit length.",
    "no_orphans": "Each point in Qdrant is a current chunk of the ledger. An orphan costs space, and answers never use it.",
    "payloads_are_current": "Each point has the payload that the ledger records: text, section and access rights.",
}


@dataclass(frozen=True, slots=True)
class Finding:
    """The result of one check."""

    name: str
    passed: bool
    details: Mapping[str, Any]


async def partition_findings(
    spec: IndexSpec, partition: int, catalog: Catalog, vectors: VectorIndex, *, documents: Sequence[str] | None = None
) -> list[Finding]:
    """Compare the ledger with the vector index, for a partition or for ``documents`` of it.

    A partition may have a million points, so a run over events checks the documents that it touched and no others.
    """
    current = await catalog.points(spec.index_id, partition, documents=documents)
    scroll = vectors.scroll(spec.index_id, partition=partition, documents=documents)
    points = dict([point async for point in scroll])
    missing = sorted(current.keys() - points.keys())
    orphans = sorted(points.keys() - current.keys())
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


# A check without partitions counts as evaluated only for the newest materialization of any partition, so after two concurrent
# runs the UI showed it as not evaluated. ``can_subset``: a step of several partitions yields evaluations by itself, no outputs.
@dg.multi_asset_check(
    specs=[
        dg.AssetCheckSpec(name, asset="vector_index", description=description, partitions_def=documents_partitions)
        for name, description in CHECKS.items()
    ],
    can_subset=True,
)
async def vector_index_checks(  # type: ignore[no-untyped-def]  # Dagster takes no annotation of an async generator
    context: dg.AssetCheckExecutionContext, tidemark: dg.ResourceParam[OpenServices]
):
    """Compare the ledger with Qdrant: the documents that this run touched, or whole partitions when the checks run alone."""
    names = {key.name for key in context.selected_asset_check_keys}
    async with open_for_run(context, tidemark) as services:
        for key in _partition_keys(context):
            batch = await find_batch(context, key, services, "embeddings")
            documents = None if batch.is_backfill else [task.document_id for task in batch.tasks]
            for finding in await partition_findings(
                services.spec, int(key), services.ledger, services.vectors, documents=documents
            ):
                if finding.name in names:
                    yield _evaluation(finding, key)


def _partition_keys(context: dg.AssetCheckExecutionContext) -> Sequence[str]:
    """Return the partitions of the run. A run that the checks page starts has none, and means all of them."""
    has_partitions = context.has_partition_key or context.has_partition_key_range
    return context.partition_keys if has_partitions else documents_partitions.get_partition_keys()


def _evaluation(finding: Finding, key: str) -> dg.AssetCheckEvaluation:
    """Report a finding. Its values are texts, because the UI would draw numbers of all partitions as one line."""
    texts = {
        name: str(value) if isinstance(value, int) else ", ".join(value) for name, value in finding.details.items()
    }
    return dg.AssetCheckEvaluation(
        dg.AssetKey("vector_index"),
        finding.name,
        passed=finding.passed,
        partition=key,
        severity=dg.AssetCheckSeverity.ERROR,
        metadata={name: text for name, text in texts.items() if text},
    )
