"""The assets as Dagster runs them, over stores in memory."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import dagster as dg
import pytest

from assets.checks import CHECKS, Finding, partition_findings, together
from assets.documents import _handed_on, _is_applied, chunks, embeddings, parsed_documents, vector_index
from assets.maintenance import audit
from assets.partitions import RUN_PARTITIONS
from assets.sensors import Attempts, due_ranges, requests
from rag.errors import Unavailable
from rag.models import Batch, OffsetRange
from schemas.topics import CHANGED, INDEXED
from tests.fakes.world import IDS, SPEC, TEXT, World

ASSETS = [parsed_documents, chunks, embeddings, vector_index]


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.ephemeral() as made:
        yield made


def definitions(world: World) -> dg.Definitions:
    """A code location as ``assets.definitions``, on the world's stores."""

    @asynccontextmanager
    async def opened() -> AsyncIterator[Any]:
        yield SimpleNamespace(
            spec=SPEC, ids=IDS, sources=world.sources, events=world.log, ledger=world.ledger, vectors=world.vectors,
            pipeline=world.pipeline, settings=SimpleNamespace(kafka_partitions=8),
        )  # fmt: skip

    job = dg.define_asset_job("index_documents", dg.AssetSelection.all(), executor_def=dg.in_process_executor)
    return dg.Definitions(assets=ASSETS, jobs=[job], resources={"tidemark": opened})


def execute(world: World, instance: dg.DagsterInstance, request: dg.RunRequest) -> dg.ExecuteInProcessResult:
    job = definitions(world).resolve_job_def("index_documents")
    return job.execute_in_process(
        run_config=request.run_config,
        tags=request.tags,
        partition_key=request.partition_key,
        instance=instance,
        raise_on_error=False,
    )


async def asked(world: World) -> list[dg.RunRequest]:
    """What the sensor would ask for now."""
    state = await world.log.describe(CHANGED)
    positions = await world.ledger.positions(SPEC.index_id, CHANGED, state.epoch)
    return requests({due: Attempts() for due in due_ranges(state, positions)}, state.epoch)


def shown(result: dg.ExecuteInProcessResult, asset: str, label: str) -> dict[str, Any]:
    """Metadata by partition."""
    made = result.asset_materializations_for_node(asset)
    return {str(each.partition): each.metadata[label].value for each in made}


def fill(world: World, documents: int = 40) -> None:
    async def put() -> None:
        for number in range(documents):
            await world.put(f"{number}.md", TEXT.replace("Three", f"{number}"))

    asyncio.run(put())


def test_runs_over_ranges_index_everything_and_tell_of_each_partition(
    world: World, instance: dg.DagsterInstance
) -> None:
    fill(world)
    wanted = asyncio.run(asked(world))
    assert len(wanted) == 8 // RUN_PARTITIONS
    documents: dict[str, int] = {}
    for request in wanted:
        result = execute(world, instance, request)
        assert result.success
        documents |= shown(result, "vector_index", "documents")
        assert shown(result, "parsed_documents", "live") == shown(result, "vector_index", "documents")
        assert all(each.passed for each in result.get_asset_check_evaluations())
        assert {each.check_name for each in result.get_asset_check_evaluations()} == set(CHECKS)
    assert sorted(documents) == sorted(map(str, range(8)))
    assert sum(documents.values()) == 40
    assert asyncio.run(asked(world)) == []


def test_a_run_takes_along_what_came_while_it_waited(world: World, instance: dg.DagsterInstance) -> None:
    fill(world)
    first, *_ = asyncio.run(asked(world))
    fill(world, documents=80)
    result = execute(world, instance, first)
    read = sum(shown(result, "parsed_documents", "documents").values())
    assert read > sum(end - start for start, end in offsets(first).values())
    left = asyncio.run(asked(world))
    assert not {key for each in left for key in offsets(each)} & {*offsets(first)}


def test_offsets_for_some_of_a_runs_partitions_only_are_refused(world: World, instance: dg.DagsterInstance) -> None:
    fill(world)
    request, *_ = asyncio.run(asked(world))
    config = request.run_config["ops"]["parsed_documents"]["config"]
    lacking = {key: value for key, value in config["offsets"].items() if key != "0"}
    broken = request.with_replaced_attrs(
        run_config={"ops": {"parsed_documents": {"config": {**config, "offsets": lacking}}}}
    )
    result = execute(world, instance, broken)
    assert not result.success
    assert "partition 0" in str(result.failure_data_for_node("parsed_documents").user_failure_data)


def test_a_run_whose_topic_was_made_anew_does_nothing(world: World, instance: dg.DagsterInstance) -> None:
    fill(world)
    request, *_ = asyncio.run(asked(world))
    world.log.recreate(CHANGED)
    fill(world)
    result = execute(world, instance, request)
    assert not result.success
    assert "recreated" in str(result.failure_data_for_node("parsed_documents").user_failure_data)
    assert asyncio.run(points(world)) == {}


def test_partitions_before_the_one_that_fails_are_done_and_the_others_asked_for_again(
    world: World, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(world)
    request, *_ = asyncio.run(asked(world))
    upsert = world.vectors.upsert

    async def broken(index_id: str, given: Any) -> None:
        if any(point.payload["partition"] == 2 for point in given):
            raise Unavailable("the line is cut")
        await upsert(index_id, given)

    monkeypatch.setattr(world.vectors, "upsert", broken)
    assert not execute(world, instance, request).success
    monkeypatch.setattr(world.vectors, "upsert", upsert)
    left = {int(key) for each in asyncio.run(asked(world)) for key in offsets(each)}
    assert left & set(range(RUN_PARTITIONS)) == set(range(2, RUN_PARTITIONS))
    for each in asyncio.run(asked(world)):
        assert execute(world, instance, each).success
    assert asyncio.run(asked(world)) == []
    told = asyncio.run(world.published(INDEXED))
    assert len(told) == len({event.document_id for event in told}) == 40


async def test_a_run_goes_on_from_what_any_run_before_it_left(world: World) -> None:
    await world.put("a.md")
    partition = (await world.log.describe(CHANGED)).bounds
    (number,) = [each for each, (low, end) in partition.items() if end > low]
    batch = Batch(SPEC.index_id, number, (), OffsetRange(CHANGED, "e", number, 0, 1))
    await world.ledger.save("first", "parsed_documents", batch)
    runs = {"second": SimpleNamespace(run_id="second", parent_run_id="first"),
            "first": SimpleNamespace(run_id="first", parent_run_id=None)}  # fmt: skip
    context: Any = SimpleNamespace(
        run=SimpleNamespace(run_id="third", parent_run_id="second"), instance=SimpleNamespace(get_run_by_id=runs.get)
    )
    services: Any = SimpleNamespace(ledger=world.ledger, spec=SPEC, pipeline=world.pipeline)
    assert await _handed_on(context, str(number), services, "parsed_documents") == batch
    assert (await _handed_on(context, str(number), services, "chunks")).is_backfill


async def test_a_range_that_an_earlier_attempt_finished_is_not_applied_again(world: World) -> None:
    batch = Batch(SPEC.index_id, 0, (), OffsetRange(CHANGED, "e", 0, 0, 5))
    services: Any = SimpleNamespace(ledger=world.ledger)
    assert not await _is_applied(batch, services)
    await world.ledger.advance(SPEC.index_id, OffsetRange(CHANGED, "e", 0, 0, 5))
    assert await _is_applied(batch, services)
    assert not await _is_applied(replace(batch, range=None), services)


def test_the_audit_looks_at_whole_partitions_and_reports_to_the_index(
    world: World, instance: dg.DagsterInstance
) -> None:
    fill(world)
    for request in asyncio.run(asked(world)):
        execute(world, instance, request)
    lost = sorted(asyncio.run(points(world)))[0]
    asyncio.run(world.vectors.delete(SPEC.index_id, [lost]))
    assert audit.execute_in_process(instance=instance, resources=resources(world)).success
    reported = {
        name: instance.event_log_storage.get_asset_check_execution_history(key, limit=1)[0].status.value
        for name in CHECKS
        for key in [dg.AssetCheckKey(dg.AssetKey("vector_index"), name)]
    }
    assert reported == {**dict.fromkeys(CHECKS, "SUCCEEDED"), "every_chunk_has_a_vector": "FAILED"}


def offsets(request: dg.RunRequest) -> dict[str, list[int]]:
    found: dict[str, list[int]] = request.run_config["ops"]["parsed_documents"]["config"]["offsets"]
    return found


def test_an_asset_alone_works_on_every_live_document_of_its_partition(
    world: World, instance: dg.DagsterInstance
) -> None:
    fill(world)
    for request in asyncio.run(asked(world)):
        execute(world, instance, request)
    before = asyncio.run(points(world))
    partition = next(iter(before.values()))
    assets = {"selection": [vector_index], "partition_key": str(partition)}
    result = dg.materialize(ASSETS, instance=instance, resources=resources(world), **assets)  # type: ignore[arg-type]
    assert result.success
    assert shown(result, "vector_index", "written")[str(partition)] == list(before.values()).count(partition)
    assert asyncio.run(points(world)) == before


def resources(world: World) -> dict[str, Any]:
    return dict(definitions(world).resources or {})


async def points(world: World) -> dict[str, int]:
    """chunk id → partition."""
    found = {}
    for partition in range(8):
        found |= {chunk: partition async for chunk, _ in world.vectors.scroll(SPEC.index_id, partition=partition)}
    return found


async def findings(world: World, partition: int, documents: Sequence[str] | None = None) -> dict[str, bool]:
    found = await partition_findings(SPEC, partition, world.ledger, world.vectors, documents=documents)
    return {each.name: each.passed for each in found}


async def test_each_check_fails_for_what_it_is_there_for(world: World) -> None:
    await world.put("a.md")
    await world.run_lane()
    row = await world.row("a.md")
    lost, kept = sorted(row.chunks)
    (point,) = await world.vectors.retrieve(SPEC.index_id, [kept])
    assert set((await findings(world, row.partition)).values()) == {True}

    await world.vectors.delete(SPEC.index_id, [lost])
    assert not (await findings(world, row.partition))["every_chunk_has_a_vector"]
    askew = type(point)(kept, replace(point.embedding, dense=2 * point.embedding.dense), point.payload)
    await world.vectors.upsert(SPEC.index_id, [askew])
    assert not (await findings(world, row.partition))["vectors_are_well_formed"]
    await world.vectors.set_payloads(SPEC.index_id, {kept: {**point.payload, "payload_hash": "older"}})
    assert not (await findings(world, row.partition))["payloads_are_current"]
    orphan = type(point)("00000000-0000-0000-0000-000000000001", point.embedding, point.payload)
    await world.vectors.upsert(SPEC.index_id, [orphan])
    assert not (await findings(world, row.partition))["no_orphans"]
    assert not (await findings(world, row.partition, [row.document_id]))["no_orphans"]
    assert set((await findings(world, row.partition, ["another"])).values()) == {True}


def test_findings_of_several_partitions_add_up_to_one_of_each_name() -> None:
    merged = together(
        [
            Finding("no_orphans", True, {"points": 3, "orphans": []}),
            Finding("no_orphans", False, {"points": 4, "orphans": ["x"]}),
            Finding("payloads_are_current", True, {"stale": []}),
        ]
    )
    assert merged == [
        Finding("no_orphans", False, {"points": 7, "orphans": ["x"]}),
        Finding("payloads_are_current", True, {"stale": []}),
    ]
