"""parsed_documents → chunks → embeddings → vector_index, by Kafka partition, a few partitions in a run.

Each asset calls one piece of ``rag.ingest.lane``. It hands on a batch of references per partition, kept in the ledger under the run.
An asset that is materialized without the one before it, or by a backfill, works on every document that the ledger has for the partition.
"""

import time
from collections import Counter
from typing import Any

import dagster as dg
from pydantic import Field

from assets.checks import CHECKS, Finding, partition_findings, together
from assets.partitions import EVENTS, backfill_policy, documents_partitions
from assets.resources import OpenServices
from governance.admission import find_suppressed
from rag.ingest.lane import Lane
from rag.ingest.tasks import Report
from rag.models import Batch, OffsetRange
from rag.ports import TopicState
from rag.wiring import Services
from schemas.topics import CHANGED

COMMON: dict[str, Any] = {
    "partitions_def": documents_partitions,
    "backfill_policy": backfill_policy,
    "group_name": "index",
    "owners": ["team:data-platform"],
}


class EventRanges(dg.Config):
    """First and end offset by partition, as the sensor requests them. A run without offsets is a backfill: it derives every document
    of its partitions again."""

    epoch: str = ""
    offsets: dict[str, list[int]] = Field(default_factory=dict)


def lane(services: Services) -> Lane:
    return Lane(services.pipeline, services.events, services.ledger, find_suppressed(services.ledger))


@dg.asset(**COMMON, kinds={"python"})
async def parsed_documents(
    context: dg.AssetExecutionContext, config: EventRanges, tidemark: dg.ResourceParam[OpenServices]
) -> None:
    """Source objects, read at their current version and parsed to text with structure."""
    async with tidemark() as services:
        await services.pipeline.prepare()
        log = await services.events.describe(CHANGED) if config.offsets else None
        for key in context.partition_keys:
            started = time.perf_counter()
            batch = await _batch(context, config, key, log, services)
            parsed = await lane(services).parse(batch)
            await services.ledger.save(context.run.run_id, "parsed_documents", parsed)
            statuses = Counter(task.status.value for task in parsed.tasks)
            unchanged = len(batch.tasks) - len(parsed.tasks)
            _describe(context, key, started, documents=len(batch.tasks), unchanged=unchanged, **statuses)


@dg.asset(**COMMON, kinds={"python"}, deps=[parsed_documents])
async def chunks(context: dg.AssetExecutionContext, tidemark: dg.ResourceParam[OpenServices]) -> None:
    """Token-bounded pieces of text. Their boundaries depend on the content near them."""
    async with tidemark() as services:
        for key in context.partition_keys:
            started = time.perf_counter()
            batch = await _handed_on(context, key, services, "parsed_documents")
            chunked = await lane(services).chunk(batch)
            await services.ledger.save(context.run.run_id, "chunks", chunked)
            _describe(context, key, started, documents=len(chunked.tasks))


@dg.asset(**COMMON, kinds={"python", "onnx"}, deps=[chunks])
async def embeddings(context: dg.AssetExecutionContext, tidemark: dg.ResourceParam[OpenServices]) -> None:
    """Dense and sparse vectors. A known input takes its vector from the cache."""
    async with tidemark() as services:
        for key in context.partition_keys:
            started = time.perf_counter()
            batch = await _handed_on(context, key, services, "chunks")
            embedded = await lane(services).embed(batch)
            await services.ledger.save(context.run.run_id, "embeddings", embedded)
            fresh = sum(task.fresh for task in embedded.tasks)
            _describe(context, key, started, documents=len(embedded.tasks), embedded=fresh)


@dg.asset(
    **COMMON,
    kinds={"qdrant"},
    deps=[embeddings],
    check_specs=[dg.AssetCheckSpec(name, asset="vector_index") for name in CHECKS],
)
async def vector_index(
    context: dg.AssetExecutionContext, tidemark: dg.ResourceParam[OpenServices]
) -> dg.MaterializeResult:
    """Points in Qdrant and rows in the ledger, swapped in one transaction. Then the position moves."""
    found: list[Finding] = []
    async with tidemark() as services:
        for key in context.partition_keys:
            started = time.perf_counter()
            batch = await _handed_on(context, key, services, "embeddings")
            report = Report() if await _is_applied(batch, services) else await lane(services).index(batch)
            await lane(services).advance(batch)
            if batch.range:
                await _mirror(context, services, batch.range)
            touched = None if batch.is_backfill else [task.document_id for task in batch.tasks]
            found += await partition_findings(
                services.spec, batch.partition, services.ledger, services.vectors, documents=touched
            )
            _describe(
                context,
                key,
                started,
                documents=report.documents,
                chunks=report.chunks,
                written=report.written,
                embedded=report.embedded,
                reused=report.chunks - report.embedded,
                tokens=report.tokens,
                dead=report.dead,
                **({"first offset": batch.range.start, "end offset": batch.range.end} if batch.range else {}),
            )
    return dg.MaterializeResult(
        check_results=[
            dg.AssetCheckResult(
                passed=finding.passed,
                check_name=finding.name,
                asset_key="vector_index",
                severity=dg.AssetCheckSeverity.ERROR,
                metadata=dict(finding.details),
            )
            for finding in together(found)
        ],
    )


async def _batch(
    context: dg.AssetExecutionContext, config: EventRanges, key: str, log: TopicState | None, services: Services
) -> Batch:
    """Collect the events of the range and those that came while the run was queued, or every document of the partition."""
    run_id = context.run.run_id
    if log is None:
        return await services.pipeline.live_batch(int(key), run_id=run_id)
    due = _due(config, key, log)
    records = await lane(services).read(due)
    collected = await lane(services).collect(records, due, run_id=run_id)
    await lane(services).dead_letter(collected.dead_letters)
    return collected.batch


def _due(config: EventRanges, key: str, log: TopicState) -> OffsetRange:
    """The requested range, extended to the newest event. Fails for a range that does not fit the run or the topic."""
    if len(config.offsets.get(key, ())) != 2:
        raise dg.Failure(
            f"the run's offsets {config.offsets} have no pair for its partition {key}: give a pair for each partition or none at all"
        )
    if log.epoch != config.epoch:
        raise dg.Failure(
            f"{CHANGED} was recreated after the run was requested (epoch {config.epoch}, now {log.epoch}): the sensor requests a new run"
        )
    start, end = config.offsets[key]
    newest = min(log.bounds[int(key)][1], start + EVENTS)
    return OffsetRange(CHANGED, config.epoch, int(key), start, max(end, newest))


async def _handed_on(context: dg.AssetExecutionContext, key: str, services: Services, step: str) -> Batch:
    """Load the batch that ``step`` left in this run or in a run that this one retries, else the whole partition as a backfill."""
    run: dg.DagsterRun | None = context.run
    while run is not None:
        batch = await services.ledger.load(run.run_id, step, int(key))
        if batch and batch.index_id == services.spec.index_id:
            return batch
        run = context.instance.get_run_by_id(run.parent_run_id) if run.parent_run_id else None
    return await services.pipeline.live_batch(int(key), run_id=context.run.run_id)


async def _is_applied(batch: Batch, services: Services) -> bool:
    """Whether an earlier attempt of this run finished the range, before another partition of it failed."""
    if batch.range is None:
        return False
    positions = await services.ledger.positions(batch.index_id, batch.range.topic, batch.range.epoch)
    return positions.get(batch.partition, 0) >= batch.range.end


async def _mirror(context: dg.AssetExecutionContext, services: Services, done: OffsetRange) -> None:
    group = f"tidemark-{services.spec.index_id}"
    if not await services.events.mirror(group, done.topic, {done.partition: done.end}):
        context.log.info(
            f"consumer group {group} has members: the stream lane took over, the position stands in the ledger"
        )


def _describe(context: dg.AssetExecutionContext, key: str, started: float, **values: int) -> None:
    """What the partition's materialization shows in the UI."""
    seconds = round(time.perf_counter() - started, 3)
    context.add_asset_metadata({**values, "seconds": seconds}, partition_key=key)
