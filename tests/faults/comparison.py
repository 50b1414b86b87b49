"""The comparison of an index with a clean build of the same sources, rules and suppressions."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from rag.ingest.artifacts import CONTAINER
from rag.ingest.embedding import load
from rag.models import DocumentRecord, DocumentStatus, Point
from tests.fakes.world import SPEC, World

HISTORY = {"revision", "cause", "artifacts"}  # fields that depend on the history of a document


async def assert_equal(world: World, clean: World) -> None:
    """Raises AssertionError unless ledger, points, artifacts and catalog of ``world`` are those of a ``clean`` build."""
    rows, wanted = rows_of(world), rows_of(clean)
    facts, wanted_facts = _facts(rows), _facts(wanted)
    for document_id in facts.keys() | wanted_facts.keys():
        ours, theirs = facts.get(document_id, {}), wanted_facts.get(document_id, {})
        differing = {name: (ours.get(name), each) for name, each in theirs.items() if ours.get(name) != each}
        assert ours.keys() == theirs.keys(), (
            f"a document is recorded and a clean build has none, or the other way: {ours or theirs}"
        )
        assert not differing, f"the record of {theirs['uri']} differs from a clean build (recorded, clean): {differing}"
    points, expected = world.vectors._points[SPEC.index_id], clean.vectors._points[SPEC.index_id]
    for document_id, row in rows.items():
        for chunk_id, placement in row.chunks.items():
            point = points.get(placement.point_id)
            assert point, f"the point of a current chunk of {row.uri} is missing"
            _assert_same(point, expected[wanted[document_id].chunks[chunk_id].point_id], row.uri)
    current = {placement.point_id for row in rows.values() for placement in row.chunks.values()}
    extra = [point.payload["text"] for point_id, point in points.items() if point_id not in current]
    assert not extra, f"the vector index has points that are not current: {extra}"
    _assert_same_artifacts(world, clean)


def rows_of(world: World) -> dict[str, DocumentRecord]:
    """Return the recorded documents by id. An absent object may have a row or none."""
    records = (record for record, _ in world.ledger._documents.values())
    return {each.document_id: each for each in records if each.status is not DocumentStatus.DELETED or each.chunks}


def _facts(rows: Mapping[str, DocumentRecord]) -> dict[str, dict[str, Any]]:
    """Return document id → the record's fields that do not depend on the document's history, without the ids of its points."""
    facts = {}
    for document_id, row in rows.items():
        fields = {each.name: getattr(row, each.name) for each in dataclasses.fields(row) if each.name not in HISTORY}
        placements = {chunk_id: replace(each, point_id="") for chunk_id, each in row.chunks.items()}
        facts[document_id] = fields | {"chunks": placements}
    return facts


def _assert_same(point: Point, wanted: Point, uri: str) -> None:
    assert point.payload == wanted.payload, f"a payload of {uri} differs from a clean build"
    ours, theirs = point.embedding, wanted.embedding
    assert np.allclose(ours.dense, theirs.dense), f"a vector of {uri} differs from a clean build"
    assert np.array_equal(ours.sparse.indices, theirs.sparse.indices), f"the terms of {uri} differ from a clean build"
    assert np.allclose(ours.sparse.values, theirs.sparse.values), f"the weights of {uri} differ from a clean build"


def _assert_same_artifacts(world: World, clean: World) -> None:
    listed, wanted = _listed_artifacts(world), _listed_artifacts(clean)
    assert listed.keys() == wanted.keys(), f"other artifacts are listed: {listed.keys() ^ wanted.keys()}"
    for (document_id, step), content in listed.items():
        other = wanted[document_id, step]
        same = _same_vectors(content, other) if step.endswith(".npz") else content == other
        assert same, f"the artifact {step} of {document_id} differs from a clean build"
    keys = {f"{CONTAINER}/{key}" for row in rows_of(world).values() for key in row.artifacts}
    extra = sorted(world.artifacts._objects.keys() - keys)
    assert not extra, f"artifacts are left over that no document lists: {extra}"


def _listed_artifacts(world: World) -> dict[tuple[str, str], bytes]:
    """Return (document id, step) → content. A key also holds a revision, which depends on the history of the document."""
    stored = world.artifacts._objects
    listed = [(row, key, stored.get(f"{CONTAINER}/{key}")) for row in rows_of(world).values() for key in row.artifacts]
    missing = [key for _, key, found in listed if found is None]
    assert not missing, f"listed artifacts are missing: {missing}"
    return {(row.document_id, key.rsplit("/", 1)[-1]): found.content for row, key, found in listed if found}


def _same_vectors(ours: bytes, theirs: bytes) -> bool:
    mine, other = load(ours), load(theirs)
    return mine.keys() == other.keys() and all(np.allclose(mine[each].dense, other[each].dense) for each in mine)
