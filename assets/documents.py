"""parsed_documents → chunks → embeddings → vector_index, by Kafka partition, a few partitions in a run.

What they hand on is a batch of references per partition, kept in the ledger under the run. An asset that is materialized without the
one before it, or by a backfill, works on every document that the ledger has for the partition.
"""

import time
from collections import Counter
from functools import partial
from typing import Any

import dagster as dg
from pydantic import Field

from assets.checks import CHECKS, Finding, partition_findings, together
from assets.partitions import EVENTS, backfill_policy, documents_partitions
from assets.resources import Open
from governance.admission import admit
from rag.ingest.change_events import CHANGED, announce, collect, refuse
from rag.ingest.tasks import Report
from rag.models import Batch, OffsetRange
from rag.ports import TopicState
from rag.telemetry import span
from rag.wiring import Services

COMMON: dict[str, Any] = {
    "partitions_def": documents_partitions,
    "backfill_policy": backfill_policy,
    "group_name": "index",
    "owners": ["team:data-platform"],
}


class EventRanges(dg.Config):
    """Offsets to process, from and at least to, by partition, given by the sensor. Left out (a backfill), every live document of the
    run's partitions is derived again."""

    epoch: str = ""
    offsets: dict[str, list[int]] = Field(default_factory=dict)


@dg.asset(**COMMON, kinds={"python"})
async def parsed_documents(
    context: dg.AssetExecutionContext, config: EventRanges, tidemark: dg.ResourceParam[Open]
) -> None:
    """Source objects read at their current version and parsed to text with structure."""
    async with tidemark() as services:
        await services.vectors.create(services.spec)
        await services.ledger.open_index(services.spec)
        log = await services.events.describe(CHANGED) if config.offsets else None
        for key in context.partition_keys:
            started = time.perf_counter()
            batch = await _batch(context, config, key, log, services)
            with span("documents.run", parent=_parent(batch), documents=len(batch.works)):
                parsed = await services.pipeline.parse(batch, admit=admit(services.ledger), force=batch.range is None)
            await services.ledger.save(context.run.run_id, "parsed_documents", parsed)
            statuses = Counter(work.status.value for work in parsed.works)
            unchanged = len(batch.works) - len(parsed.works)
            _describe(context, key, started, documents=len(batch.works), unchanged=unchanged, **statuses)


@dg.asset(**COMMON, kinds={"python"}, deps=[parsed_documents])
async def chunks(context: dg.AssetExecutionContext, tidemark: dg.ResourceParam[Open]) -> None:
    """Token-bounded pieces whose boundaries depend on the content near them."""
    async with tidemark() as services:
        for key in context.partition_keys:
            started = time.perf_counter()
            batch, is_backfill = await _handed_on(context, key, services, "parsed_documents")
            with span("documents.run", parent=_parent(batch), documents=len(batch.works)):
                cut = await services.pipeline.chunk(batch, force=is_backfill)
            await services.ledger.save(context.run.run_id, "chunks", cut)
            _describe(context, key, started, documents=len(cut.works))


@dg.asset(**COMMON, kinds={"python", "onnx"}, deps=[chunks])
async def embeddings(context: dg.AssetExecutionContext, tidemark: dg.ResourceParam[Open]) -> None:
    """Dense and sparse vectors; what was embedded before is taken from the cache."""
    async with tidemark() as services:
        for key in context.partition_keys:
            started = time.perf_counter()
            batch, is_backfill = await _handed_on(context, key, services, "chunks")
            with span("documents.run", parent=_parent(batch), documents=len(batch.works)):
                embedded = await services.pipeline.embed(batch, force=is_backfill)
            await services.ledger.save(context.run.run_id, "embeddings", embedded)
            fresh = sum(work.fresh for work in embedded.works)
            _describe(context, key, started, documents=len(embedded.works), embedded=fresh)


@dg.asset(
    **COMMON,
    kinds={"qdrant"},
    deps=[embeddings],
    check_specs=[dg.AssetCheckSpec(name, asset="vector_index") for name in CHECKS],
)
async def vector_index(context: dg.AssetExecutionContext, tidemark: dg.ResourceParam[Open]) -> dg.MaterializeResult:
    """Points in Qdrant and rows in the ledger, swapped in one transaction; then the position moves."""
    found: list[Finding] = []
    async with tidemark() as services:
        for key in context.partition_keys:
            started = time.perf_counter()
            batch, is_backfill = await _handed_on(context, key, services, "embeddings")
            report = Report()
            if not await _is_applied(batch, services):
                with span("documents.run", parent=_parent(batch), documents=len(batch.works)):
                    report = await services.pipeline.index(
                        batch,
                        admit=admit(services.ledger),
                        tell=partial(announce, batch=batch, events=services.events),
                        force=is_backfill,
                    )
            if batch.range:
                await services.ledger.advance(batch.index_id, batch.range)
                await _mirror(context, services, batch.range)
            touched = [work.document_id for work in batch.works] if batch.range else None
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
    """The events of the range and those that came while the run waited for its turn, or every document of the partition."""
    if log is None:
        return await services.pipeline.partition(int(key), run_id=context.run.run_id)
    if len(config.offsets.get(key, ())) != 2:
        raise dg.Failure(
            f"the run's offsets {config.offsets} have no pair for its partition {key}: leave all or none out"
        )
    if log.epoch != config.epoch:
        raise dg.Failure(
            f"{CHANGED} was made anew since the run was asked for (epoch {config.epoch}, now {log.epoch}): the sensor asks again"
        )
    start, end = config.offsets[key]
    end = max(end, min(log.bounds[int(key)][1], start + EVENTS))
    due = OffsetRange(CHANGED, config.epoch, int(key), start, end)
    records = await services.events.read(CHANGED, due.partition, due.start, due.end)
    arrived = await collect(
        records,
        due,
        index_id=services.spec.index_id,
        ids=services.ids,
        sources=services.sources,
        ledger=services.ledger,
        run_id=context.run.run_id,
    )
    await refuse(arrived.unusable, services.events)
    return arrived.batch


async def _handed_on(context: dg.AssetExecutionContext, key: str, services: Services, step: str) -> tuple[Batch, bool]:
    """What ``step`` left in this run, or in the runs that this one goes on from; else the whole partition. And whether it is a
    backfill, which derives everything again."""
    run: dg.DagsterRun | None = context.run
    while run is not None:
        batch = await services.ledger.load(run.run_id, step, int(key))
        if batch and batch.index_id == services.spec.index_id:
            return batch, batch.range is None
        run = context.instance.get_run_by_id(run.parent_run_id) if run.parent_run_id else None
    return await services.pipeline.partition(int(key), run_id=context.run.run_id), True


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


def _parent(batch: Batch) -> dict[str, str] | None:
    """A batch of events goes on with the trace of its first event."""
    return next(({"traceparent": w.cause.traceparent} for w in batch.works if w.cause.traceparent), None)


def _describe(context: dg.AssetExecutionContext, key: str, started: float, **values: int) -> None:
    """What the partition's materialization shows in the UI."""
    seconds = round(time.perf_counter() - started, 3)
    context.add_asset_metadata({**values, "seconds": seconds}, partition_key=key)
