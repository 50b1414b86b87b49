"""parsed_documents → chunks → embeddings → vector_index, one Kafka partition at a time.

What they hand on is a batch of references, kept in the ledger under the run. An asset that is materialized without the one
before it, or by a backfill, works on every document that the ledger has for the partition.
"""

import time
from collections import Counter
from typing import Any

import dagster as dg

from assets.checks import CHECKS, partition_findings
from assets.partitions import documents_partitions
from assets.resources import Open
from governance.admission import admit
from rag.arrivals import CHANGED, announce, collect, refuse
from rag.models import Batch, OffsetRange
from rag.telemetry import span
from rag.wiring import Services

COMMON: dict[str, Any] = {
    "partitions_def": documents_partitions,
    "group_name": "index",
    "owners": ["team:data-platform"],
}


class EventRange(dg.Config):
    """Offsets to process, given by the sensor. Left out (a backfill), every live document of the partition is derived again."""

    epoch: str = ""
    start: int = -1
    end: int = -1
    traceparent: str = ""


@dg.asset(**COMMON, kinds={"python"})
async def parsed_documents(
    context: dg.AssetExecutionContext, config: EventRange, tidemark: dg.ResourceParam[Open]
) -> dg.MaterializeResult:
    """Source objects read at their current version and parsed to text with structure."""
    started = time.perf_counter()
    async with tidemark() as services:
        batch = await _batch(context, config, services)
        with span("documents.run", parent=_parent(batch), documents=len(batch.works)):
            parsed = await services.pipeline.parse(batch, admit=admit(services.ledger), force=batch.range is None)
        await services.ledger.save(context.run_id, "parsed_documents", parsed)
    statuses = Counter(work.status.value for work in parsed.works)
    unchanged = len(batch.works) - len(parsed.works)
    return dg.MaterializeResult(
        metadata=_metadata(started, documents=len(batch.works), unchanged=unchanged, **statuses)
    )


@dg.asset(**COMMON, kinds={"python"}, deps=[parsed_documents])
async def chunks(context: dg.AssetExecutionContext, tidemark: dg.ResourceParam[Open]) -> dg.MaterializeResult:
    """Token-bounded pieces whose boundaries depend on the content near them."""
    started = time.perf_counter()
    async with tidemark() as services:
        batch, is_handed_on = await _handed_on(context, services, "parsed_documents")
        with span("documents.run", parent=_parent(batch), documents=len(batch.works)):
            cut = await services.pipeline.chunk(batch, force=_is_backfill(batch, is_handed_on))
        await services.ledger.save(context.run_id, "chunks", cut)
    return dg.MaterializeResult(metadata=_metadata(started, documents=len(cut.works)))


@dg.asset(**COMMON, kinds={"python", "onnx"}, deps=[chunks])
async def embeddings(context: dg.AssetExecutionContext, tidemark: dg.ResourceParam[Open]) -> dg.MaterializeResult:
    """Dense and sparse vectors; what was embedded before is taken from the cache."""
    started = time.perf_counter()
    async with tidemark() as services:
        batch, is_handed_on = await _handed_on(context, services, "chunks")
        with span("documents.run", parent=_parent(batch), documents=len(batch.works)):
            embedded = await services.pipeline.embed(batch, force=_is_backfill(batch, is_handed_on))
        await services.ledger.save(context.run_id, "embeddings", embedded)
    fresh = sum(work.fresh for work in embedded.works)
    return dg.MaterializeResult(metadata=_metadata(started, documents=len(embedded.works), embedded=fresh))


@dg.asset(
    **COMMON,
    kinds={"qdrant"},
    deps=[embeddings],
    check_specs=[dg.AssetCheckSpec(name, asset="vector_index") for name in CHECKS],
)
async def vector_index(context: dg.AssetExecutionContext, tidemark: dg.ResourceParam[Open]) -> dg.MaterializeResult:
    """Points in Qdrant and rows in the ledger, swapped in one transaction; then the position moves."""
    started = time.perf_counter()
    async with tidemark() as services:
        batch, is_handed_on = await _handed_on(context, services, "embeddings")
        with span("documents.run", parent=_parent(batch), documents=len(batch.works)):
            report = await services.pipeline.index(
                batch,
                admit=admit(services.ledger),
                tell=lambda applied: announce(applied, batch, services.events),
                force=_is_backfill(batch, is_handed_on),
            )
        if batch.range:
            await services.ledger.advance(batch.index_id, batch.range)
            await _mirror(context, services, batch.range)
        findings = await partition_findings(services.spec, batch.partition, services.ledger, services.vectors)
    return dg.MaterializeResult(
        metadata=_metadata(
            started,
            documents=report.documents,
            chunks=report.chunks,
            written=report.written,
            embedded=report.embedded,
            reused=report.chunks - report.embedded,
            tokens=report.tokens,
            dead=report.dead,
            **({"first offset": batch.range.start, "end offset": batch.range.end} if batch.range else {}),
        ),
        check_results=[
            dg.AssetCheckResult(
                passed=finding.passed,
                check_name=finding.name,
                asset_key="vector_index",
                severity=dg.AssetCheckSeverity.ERROR,
                metadata=dict(finding.details),
            )
            for finding in findings
        ],
    )


async def _batch(context: dg.AssetExecutionContext, config: EventRange, services: Services) -> Batch:
    """The events of the range, or every document of the partition."""
    partition = int(context.partition_key)
    await services.vectors.create(services.spec)
    await services.ledger.open_index(services.spec)
    if config.start < 0:
        return await services.pipeline.partition(partition, run_id=context.run_id)
    due = OffsetRange(CHANGED, config.epoch, partition, config.start, config.end)
    records = await services.events.read(CHANGED, partition, due.start, due.end)
    arrived = await collect(
        records,
        due,
        index_id=services.spec.index_id,
        ids=services.ids,
        sources=services.sources,
        ledger=services.ledger,
        run_id=context.run_id,
    )
    await refuse(arrived.unusable, services.events)
    return arrived.batch


async def _handed_on(context: dg.AssetExecutionContext, services: Services, step: str) -> tuple[Batch, bool]:
    """What ``step`` left in this run, or in the run that this one retries; else the whole partition."""
    partition = int(context.partition_key)
    for run_id in (context.run_id, context.run.parent_run_id):
        batch = await services.ledger.load(run_id, step, partition) if run_id else None
        if batch and batch.index_id == services.spec.index_id:
            return batch, True
    return await services.pipeline.partition(partition, run_id=context.run_id), False


def _is_backfill(batch: Batch, is_handed_on: bool) -> bool:
    return not is_handed_on or batch.range is None


async def _mirror(context: dg.AssetExecutionContext, services: Services, done: OffsetRange) -> None:
    group = f"tidemark-{services.spec.index_id}"
    if not await services.events.mirror(group, done.topic, {done.partition: done.end}):
        context.log.info(
            f"consumer group {group} has members: the stream lane took over, the position stands in the ledger"
        )


def _parent(batch: Batch) -> dict[str, str] | None:
    """A batch of events goes on with the trace of its first event."""
    return next(({"traceparent": w.cause.traceparent} for w in batch.works if w.cause.traceparent), None)


def _metadata(started: float, **values: int) -> dict[str, Any]:
    return {**values, "seconds": round(time.perf_counter() - started, 3)}
