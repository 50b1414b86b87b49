"""The assets as Dagster runs them, over stores in memory."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import dagster as dg
import pytest

from assets import resources
from assets.batches import find_batch, is_applied
from assets.checks import vector_index_checks
from assets.documents import chunks, embeddings, parsed_documents, vector_index
from assets.maintenance import audit
from assets.partitions import RUN_PARTITIONS
from assets.schedules import nightly_audit
from assets.sensors import Attempts, due_ranges, index_job, requests
from assets.sources import topic_key
from rag.errors import LostEvents, Unavailable
from rag.ingest.findings import CHECKS
from rag.models import Batch, OffsetRange
from schemas.topics import CHANGED, INDEXED
from tests.fakes.world import IDS, SPEC, TEXT, World

ASSETS = [parsed_documents, chunks, embeddings, vector_index]


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.ephemeral() as ephemeral:
        yield ephemeral


@pytest.fixture(autouse=True)
def _retry_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resources, "FIRST_WAIT", 0.0)


def definitions(world: World) -> dg.Definitions:
    """A code location as ``assets.definitions``, on the world's stores."""

    @asynccontextmanager
    async def opened() -> AsyncIterator[Any]:
        yield SimpleNamespace(
            spec=SPEC, ids=IDS, sources=world.sources, events=world.log, ledger=world.ledger, vectors=world.vectors,
            pipeline=world.pipeline, settings=SimpleNamespace(kafka_partitions=8),
        )  # fmt: skip

    return dg.Definitions(
        assets=ASSETS, asset_checks=[vector_index_checks], jobs=[index_job, audit], resources={"tidemark": opened}
    )


def execute(
    world: World, instance: dg.DagsterInstance, request: dg.RunRequest, job_name: str = "index_documents"
) -> dg.ExecuteInProcessResult:
    job = definitions(world).resolve_job_def(job_name)
    return job.execute_in_process(
        run_config=request.run_config,
        tags=request.tags,
        partition_key=request.partition_key,
        instance=instance,
        raise_on_error=False,
    )


async def due_requests(world: World) -> list[dg.RunRequest]:
    """Return the requests that the sensor would make now."""
    state = await world.log.describe(CHANGED)
    positions = await world.ledger.positions(SPEC.index_id, CHANGED, state.epoch)
    return requests({due: Attempts() for due in due_ranges(state, positions)}, SPEC.index_id, state.epoch)


def shown(result: dg.ExecuteInProcessResult, asset: str, label: str) -> dict[str, Any]:
    """Return one metadata value of the asset's materializations, by partition."""
    materializations = result.asset_materializations_for_node(asset)
    own = [each for each in materializations if each.asset_key == dg.AssetKey(asset)]
    return {str(each.partition): each.metadata[label].value for each in own}


def fill(world: World, documents: int = 40) -> None:
    async def put() -> None:
        for number in range(documents):
            await world.put(f"{number}.md", TEXT.replace("Three", f"{number}"))

    asyncio.run(put())


def test_runs_over_ranges_index_everything_and_describe_each_partition(
    world: World, instance: dg.DagsterInstance
) -> None:
    fill(world)
    due = asyncio.run(due_requests(world))
    assert len(due) == 8 // RUN_PARTITIONS
    documents: dict[str, int] = {}
    for request in due:
        result = execute(world, instance, request)
        assert result.success
        documents |= shown(result, "vector_index", "documents")
        assert shown(result, "parsed_documents", "live") == shown(result, "vector_index", "documents")
        evaluations = result.get_asset_check_evaluations()
        assert all(each.passed for each in evaluations)
        assert sorted((each.partition, each.check_name) for each in evaluations) == sorted(
            (partition, name) for partition in offsets(request) for name in CHECKS
        )
    assert sorted(documents) == sorted(map(str, range(8)))
    assert sum(documents.values()) == 40
    assert asyncio.run(due_requests(world)) == []


def test_a_run_reports_the_events_that_it_published_as_updates_of_their_topics(
    world: World, instance: dg.DagsterInstance
) -> None:
    fill(world)
    request, *_ = asyncio.run(due_requests(world))
    result = execute(world, instance, request)
    events = [
        each.metadata["events"].value
        for each in result.asset_materializations_for_node("vector_index")
        if each.asset_key == topic_key(INDEXED)
    ]
    assert sum(map(int, events)) == len(asyncio.run(world.published(INDEXED)))  # type: ignore[arg-type]


def test_a_run_takes_along_the_events_that_came_while_it_waited(world: World, instance: dg.DagsterInstance) -> None:
    fill(world)
    first, *_ = asyncio.run(due_requests(world))
    fill(world, documents=80)
    result = execute(world, instance, first)
    read = sum(shown(result, "parsed_documents", "documents").values())
    assert read > sum(end - start for start, end in offsets(first).values())
    left = asyncio.run(due_requests(world))
    assert not {key for each in left for key in offsets(each)} & {*offsets(first)}


def test_offsets_for_only_some_of_a_runs_partitions_are_refused(world: World, instance: dg.DagsterInstance) -> None:
    fill(world)
    request, *_ = asyncio.run(due_requests(world))
    config = request.run_config["ops"]["parsed_documents"]["config"]
    lacking = {key: value for key, value in config["offsets"].items() if key != "0"}
    broken = request.with_replaced_attrs(
        run_config={"ops": {"parsed_documents": {"config": {**config, "offsets": lacking}}}}
    )
    result = execute(world, instance, broken)
    assert not result.success
    assert "partition 0" in str(result.failure_data_for_node("parsed_documents").user_failure_data)


def test_a_run_whose_topic_was_recreated_does_nothing(world: World, instance: dg.DagsterInstance) -> None:
    fill(world)
    request, *_ = asyncio.run(due_requests(world))
    world.log.recreate(CHANGED)
    fill(world)
    result = execute(world, instance, request)
    assert not result.success
    assert "recreated" in str(result.failure_data_for_node("parsed_documents").user_failure_data)
    assert asyncio.run(points(world)) == {}


def test_partitions_before_the_one_that_fails_are_done_and_the_others_are_requested_again(
    world: World, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(world)
    request, *_ = asyncio.run(due_requests(world))
    upsert = world.vectors.upsert

    async def broken(index_id: str, points: Any) -> None:
        if any(point.payload["partition"] == 2 for point in points):
            raise Unavailable("the line is cut")
        await upsert(index_id, points)

    monkeypatch.setattr(world.vectors, "upsert", broken)
    assert not execute(world, instance, request).success
    monkeypatch.setattr(world.vectors, "upsert", upsert)
    left = {int(key) for each in asyncio.run(due_requests(world)) for key in offsets(each)}
    assert left & set(range(RUN_PARTITIONS)) == set(range(2, RUN_PARTITIONS))
    for each in asyncio.run(due_requests(world)):
        assert execute(world, instance, each).success
    assert asyncio.run(due_requests(world)) == []
    published = asyncio.run(world.published(INDEXED))
    assert len(published) == len({event.document_id for event in published}) == 40


async def test_a_run_continues_from_the_batch_of_any_run_that_it_retries(world: World) -> None:
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
    assert await find_batch(context, str(number), services, "parsed_documents") == batch
    assert (await find_batch(context, str(number), services, "chunks")).is_backfill


async def test_a_range_that_an_earlier_attempt_finished_is_not_applied_again(world: World) -> None:
    batch = Batch(SPEC.index_id, 0, (), OffsetRange(CHANGED, "e", 0, 0, 5))
    services: Any = SimpleNamespace(ledger=world.ledger)
    assert not await is_applied(batch, services)
    await world.ledger.advance(SPEC.index_id, OffsetRange(CHANGED, "e", 0, 0, 5))
    assert await is_applied(batch, services)
    assert not await is_applied(replace(batch, range=None), services)


def test_the_audit_checks_each_partition_as_a_whole(world: World, instance: dg.DagsterInstance) -> None:
    fill(world)
    for request in asyncio.run(due_requests(world)):
        execute(world, instance, request)
    lost, partition = sorted(asyncio.run(points(world)).items())[0]
    asyncio.run(world.vectors.delete(SPEC.index_id, [lost]))
    audit_request: Any = nightly_audit(dg.build_schedule_context(instance))
    assert isinstance(audit_request, dg.RunRequest)
    assert execute(world, instance, audit_request, "audit").success
    expected = {(name, str(number)): "SUCCEEDED" for name in CHECKS for number in range(8)}
    assert statuses(instance) == expected | {("every_chunk_has_a_vector", str(partition)): "FAILED"}
    history = instance.event_log_storage.get_asset_check_execution_history(
        check_key("every_chunk_has_a_vector"), limit=8
    )
    (failed,) = [each.evaluation for each in history if each.evaluation and not each.evaluation.passed]
    assert failed.metadata["missing"].value == lost


def test_checks_of_every_partition_are_current_after_several_runs(world: World, instance: dg.DagsterInstance) -> None:
    fill(world)
    first, second = asyncio.run(due_requests(world))
    execute(world, instance, first)
    execute(world, instance, second)
    infos = instance.event_log_storage.get_asset_check_partition_info([check_key(name) for name in CHECKS])
    assert len(infos) == 8 * len(CHECKS)
    assert {info.latest_planned_run_id for info in infos if str(info.partition_key) in offsets(first)} == {
        instance.get_run_records()[1].dagster_run.run_id
    }


def test_checks_that_are_started_without_a_partition_look_at_all_of_them(
    world: World, instance: dg.DagsterInstance
) -> None:
    fill(world)
    for request in asyncio.run(due_requests(world)):
        execute(world, instance, request)
    result = execute(world, instance, dg.RunRequest(), "audit")
    assert result.success
    assert {each.partition for each in result.get_asset_check_evaluations()} == set(map(str, range(8)))


def check_key(name: str) -> dg.AssetCheckKey:
    return dg.AssetCheckKey(dg.AssetKey("vector_index"), name)


def statuses(instance: dg.DagsterInstance) -> dict[tuple[str, str | None], str]:
    """Return the status of the newest evaluation, by check and partition."""
    infos = instance.event_log_storage.get_asset_check_partition_info([check_key(name) for name in CHECKS])
    return {(info.check_key.name, info.partition_key): info.latest_execution_status.value for info in infos}


class Outage:
    """Fails the next ``times`` calls of a method with ``error``, then passes calls on."""

    def __init__(self, method: Any, times: int, error: Exception) -> None:
        self.method, self.times, self.error = method, times, error

    async def __call__(self, *arguments: Any, **named: Any) -> Any:
        if self.times:
            self.times -= 1
            raise self.error
        return await self.method(*arguments, **named)


def retried(result: dg.ExecuteInProcessResult) -> list[str | None]:
    return [event.step_key for event in result.all_events if event.event_type_value == "STEP_RESTARTED"]


def test_a_run_survives_a_log_that_times_out_once(
    world: World, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(world)
    monkeypatch.setattr(world.log, "read", Outage(world.log.read, 1, Unavailable("kafka: timed out after 10 s")))
    for request in asyncio.run(due_requests(world)):
        assert execute(world, instance, request).success
    assert asyncio.run(due_requests(world)) == []
    assert len(asyncio.run(world.published(INDEXED))) == 40


@pytest.mark.parametrize(
    ("error", "retries"),
    [(Unavailable("no answer"), resources.RETRIES), (LostEvents("offset 3 is gone"), 0), (ZeroDivisionError(), 0)],
)
def test_only_an_unavailable_dependency_is_retried_and_not_for_ever(
    world: World, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch, error: Exception, retries: int
) -> None:
    fill(world)
    request, *_ = asyncio.run(due_requests(world))
    monkeypatch.setattr(world.log, "read", Outage(world.log.read, 99, error))
    result = execute(world, instance, request)
    assert not result.success
    assert retried(result) == ["parsed_documents"] * retries


def test_a_failed_step_starts_no_new_run_but_a_killed_process_does() -> None:
    for job in (index_job, audit):
        tags = job.tags or {}
        assert tags["dagster/retry_on_asset_or_op_failure"] == "false"
        assert int(tags["dagster/max_retries"]) > 0


def offsets(request: dg.RunRequest) -> dict[str, list[int]]:
    ranges: dict[str, list[int]] = request.run_config["ops"]["parsed_documents"]["config"]["offsets"]
    return ranges


def test_an_asset_alone_works_on_every_live_document_of_its_partition(
    world: World, instance: dg.DagsterInstance
) -> None:
    fill(world)
    for request in asyncio.run(due_requests(world)):
        execute(world, instance, request)
    before = asyncio.run(points(world))
    partition = next(iter(before.values()))
    assets = {"selection": [vector_index], "partition_key": str(partition)}
    result = dg.materialize(ASSETS, instance=instance, resources=dict(definitions(world).resources or {}), **assets)  # type: ignore[arg-type]
    assert result.success
    assert shown(result, "vector_index", "written")[str(partition)] == list(before.values()).count(partition)
    after = asyncio.run(points(world))  # every point of the partition is a new one, the others stay
    assert Counter(after.values()) == Counter(before.values())
    assert {number for _, number in before.items() ^ after.items()} == {partition}


async def points(world: World) -> dict[str, int]:
    """Return point id → partition."""
    partitions: dict[str, int] = {}
    for partition in range(8):
        scroll = world.vectors.scroll(SPEC.index_id, partition=partition)
        partitions |= {chunk: partition async for chunk, _ in scroll}
    return partitions
