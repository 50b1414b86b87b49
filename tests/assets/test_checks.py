"""Each check of the index finds the fault that it is there for, and no other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from rag.ingest.findings import CHECKS, partition_findings
from tests.fakes.world import SPEC, World


async def findings(world: World, partition: int, documents: Sequence[str] | None = None) -> dict[str, bool]:
    results = await partition_findings(SPEC, partition, world.ledger, world.vectors, documents=documents)
    return {each.name: each.passed for each in results}


async def test_each_check_fails_for_its_own_fault() -> None:
    world = World()
    await world.put("a.md")
    await world.run_lane()
    row = await world.row("a.md")
    lost, kept = sorted(each.point_id for each in row.chunks.values())
    (point,) = await world.vectors.retrieve(SPEC.index_id, [kept])
    assert await findings(world, row.partition) == dict.fromkeys(CHECKS, True)

    await world.vectors.delete(SPEC.index_id, [lost])
    assert not (await findings(world, row.partition))["every_chunk_has_a_vector"]
    askew = type(point)(kept, replace(point.embedding, dense=2 * point.embedding.dense), point.payload)
    await world.vectors.upsert(SPEC.index_id, [askew])
    assert not (await findings(world, row.partition))["vectors_are_well_formed"]
    older = type(point)(kept, point.embedding, {**point.payload, "payload_hash": "older"})
    await world.vectors.upsert(SPEC.index_id, [older])
    assert not (await findings(world, row.partition))["payloads_are_current"]
    orphan = type(point)("00000000-0000-0000-0000-000000000001", point.embedding, point.payload)
    await world.vectors.upsert(SPEC.index_id, [orphan])
    assert not (await findings(world, row.partition))["no_orphans"]
    assert not (await findings(world, row.partition, [row.document_id]))["no_orphans"]
    assert set((await findings(world, row.partition, ["another"])).values()) == {True}
