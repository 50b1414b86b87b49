"""The comparison of a stack's index with one that is derived from nothing, from the sources as they are."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from governance.admission import find_suppressed
from rag.adapters.memory.ledger import MemoryLedger
from rag.adapters.memory.objects import MemoryObjects
from rag.adapters.memory.vectors import MemoryVectors
from rag.ingest.artifacts import CONTAINER, Artifacts, shards
from rag.ingest.indexing import sweep
from rag.ingest.lane import Lane
from rag.ingest.repair import Repairs, repair_documents, repair_points
from rag.models import Point
from rag.settings import load
from rag.wiring import Services, services
from schemas.topics import CHANGED

SETTLED_SECONDS = 240


async def require_clean_build(folder: Path) -> int:
    """Compare every point of the index of the stack in ``folder`` with a clean build, and return their number. Raises AssertionError
    for a point that is missing, extra, stale or doubled."""
    async with services(load(folder)) as made:
        await settle(made)
        ledger, vectors, index_id = MemoryLedger(), MemoryVectors(), made.spec.index_id
        await vectors.create(made.spec)
        artifacts = Artifacts(MemoryObjects(CONTAINER))
        clean = replace(
            made.pipeline, vectors=vectors, ledger=ledger, catalog=ledger, cache=ledger, artifacts=artifacts
        )
        check, total = find_suppressed(ledger), 0
        for partition in range(made.settings.kafka_partitions):
            batch = await made.pipeline.live_batch(partition)
            derived = await clean.embed(await clean.chunk(await clean.parse(batch, find_suppressed=check)))
            await clean.index(derived, find_suppressed=check)
            current = await _points(made.ledger, made.vectors, index_id, partition)
            expected = await _points(ledger, vectors, index_id, partition)
            held = [point_id async for point_id, _ in made.vectors.scroll(index_id, partition=partition)]
            assert sorted(held) == sorted(point.point_id for point in current.values())
            _require_same(current, expected)
            total += len(current)
    return total


async def repair(folder: Path) -> Repairs:
    """Do at once what maintenance does in a day, also for the garbage of the last minute, and return the number of repairs."""
    async with services(load(folder)) as made:
        await settle(made)
        lane = Lane(made.pipeline, made.events, made.ledger, find_suppressed(made.ledger))
        await lane.publish()
        await sweep(made.spec.index_id, ledger=made.ledger, vectors=made.vectors, older_than=0)
        total = Repairs()
        for shard in shards():
            total += await repair_documents(lane, shard, abandoned_seconds=0)
        points, _ = await repair_points(lane)
    return total + points


async def settle(made: Services) -> None:
    """Wait until every event is applied."""
    deadline = time.monotonic() + SETTLED_SECONDS
    while True:
        state = await made.events.describe(CHANGED)
        positions = await made.ledger.positions(made.spec.index_id, state.topic, state.epoch)
        if all(positions.get(partition, 0) >= end for partition, (_, end) in state.bounds.items()):
            return
        assert time.monotonic() < deadline, (state, positions)
        await asyncio.sleep(0.5)


async def _points(ledger: Any, vectors: Any, index_id: str, partition: int) -> dict[str, Point]:
    """Return chunk id → current point."""
    chunks = {
        placement.point_id: chunk_id
        for record in await ledger.live(index_id, partition)
        for chunk_id, placement in record.chunks.items()
    }
    return {chunks[point.point_id]: point for point in await vectors.retrieve(index_id, list(chunks))}


def _require_same(index: Mapping[str, Point], clean: Mapping[str, Point]) -> None:
    assert index.keys() == clean.keys()
    for chunk_id, point in index.items():
        assert point.payload == clean[chunk_id].payload
        assert float(np.dot(point.embedding.dense, clean[chunk_id].embedding.dense)) >= 0.9999
