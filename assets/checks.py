"""What must hold of a partition. Plain functions: the stream lane calls them too."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from rag.models import IndexSpec
from rag.ports import Catalog, VectorIndex

SAMPLE = 32  # points whose vectors are read back
SHOWN = 10  # ids named in a failed check


@dataclass(frozen=True, slots=True)
class Finding:
    name: str
    passed: bool
    details: Mapping[str, Any]


async def partition_findings(
    spec: IndexSpec, partition: int, catalog: Catalog, vectors: VectorIndex, *, documents: Sequence[str] | None = None
) -> list[Finding]:
    """Ledger against vector index: every chunk has a vector, vectors have the right shape, nothing is there that should not be.

    Of the whole partition, or of ``documents`` alone: what looks at a partition of a million points is not run for every edit.
    """
    wanted = await catalog.chunks(spec.index_id, partition, documents=documents)
    points = vectors.scroll(spec.index_id, partition=partition, documents=documents)
    held = dict([point async for point in points])
    missing = sorted(wanted.keys() - held.keys())
    orphans = sorted(held.keys() - wanted.keys())
    stale = sorted(chunk_id for chunk_id in wanted.keys() & held.keys() if wanted[chunk_id] != held[chunk_id])
    sample = await vectors.retrieve(spec.index_id, sorted(wanted.keys() & held.keys())[:SAMPLE])
    misshapen = [
        point.chunk_id
        for point in sample
        if point.embedding.dense.shape != (spec.dimensions,)
        or not np.isclose(float(np.linalg.norm(point.embedding.dense)), 1.0, atol=1e-3)
    ]
    return [
        Finding("every_chunk_has_a_vector", not missing, {"chunks": len(wanted), "missing": missing[:SHOWN]}),
        Finding("vectors_are_well_formed", not misshapen, {"sampled": len(sample), "misshapen": misshapen[:SHOWN]}),
        Finding("no_orphans", not orphans, {"points": len(held), "orphans": orphans[:SHOWN]}),
        Finding("payloads_are_current", not stale, {"stale": stale[:SHOWN]}),
    ]


def together(findings: Iterable[Finding]) -> list[Finding]:
    """The findings of several partitions as one of each name: numbers added up, ids that are shown one after the other."""
    merged: dict[str, Finding] = {}
    for each in findings:
        before = merged.get(
            each.name, Finding(each.name, True, {name: type(value)() for name, value in each.details.items()})
        )
        details = {name: before.details[name] + value for name, value in each.details.items()}
        merged[each.name] = Finding(each.name, before.passed and each.passed, details)
    return list(merged.values())


CHECKS = ("every_chunk_has_a_vector", "vectors_are_well_formed", "no_orphans", "payloads_are_current")
