"""parsed_documents → chunks → embeddings → vector_index, by Kafka partition, a few partitions in a run.

Each asset calls one piece of ``rag.ingest.lane``. It hands on a batch of references per partition, kept in the ledger under the run.
An asset that is materialized without the one before it, or by a backfill, works on every document that the ledger has for the partition.
"""

import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import dagster as dg

from assets.batches import EventRanges, find_batch, is_applied, lane, locate_topic, mirror_position, start_batch
from assets.partitions import backfill_policy, documents_partitions
from assets.resources import OpenServices, open_for_run
from assets.sources import CHANGED_KEY, topic_key
from rag.ingest.tasks import Report
from schemas.topics import DEAD, INDEXED

COMMON: dict[str, Any] = {
    "partitions_def": documents_partitions,
    "backfill_policy": backfill_policy,
    "group_name": "index",
}


@dg.asset(**COMMON, kinds={"python"}, deps=[CHANGED_KEY])
async def parsed_documents(
    context: dg.AssetExecutionContext, config: EventRanges, tidemark: dg.ResourceParam[OpenServices]
) -> None:
    """Text with structure, parsed from the current version of each source object that an event names.

    The text is an artifact in the object store. A document that cannot be parsed goes to `documents.dead.v1` with a reason.
    """
    async with open_for_run(context, tidemark) as services:
        await services.pipeline.prepare()
        log = await locate_topic(services) if config.offsets else None
        for key in context.partition_keys:
            with _described(context, key) as metadata:
                batch = await start_batch(context.run.run_id, config, key, log, services)
                parsed = await lane(services).parse(batch)
                await services.ledger.save(context.run.run_id, "parsed_documents", parsed)
                metadata["documents"] = len(batch.tasks)
                metadata["unchanged"] = len(batch.tasks) - len(parsed.tasks)
                metadata |= Counter(task.status.value for task in parsed.tasks)


@dg.asset(**COMMON, kinds={"python"}, deps=[parsed_documents])
async def chunks(context: dg.AssetExecutionContext, tidemark: dg.ResourceParam[OpenServices]) -> None:
    """Token-bounded pieces of text. Their boundaries depend on the content near them, so an edit changes few of them."""
    async with open_for_run(context, tidemark) as services:
        for key in context.partition_keys:
            with _described(context, key) as metadata:
                batch = await find_batch(context, key, services, "parsed_documents")
                chunked = await lane(services).chunk(batch)
                await services.ledger.save(context.run.run_id, "chunks", chunked)
                metadata["documents"] = len(chunked.tasks)


@dg.asset(**COMMON, kinds={"python", "onnx"}, deps=[chunks])
async def embeddings(context: dg.AssetExecutionContext, tidemark: dg.ResourceParam[OpenServices]) -> None:
    """Dense and sparse vectors of the chunks. A known input takes its vector from the cache."""
    async with open_for_run(context, tidemark) as services:
        for key in context.partition_keys:
            with _described(context, key) as metadata:
                batch = await find_batch(context, key, services, "chunks")
                embedded = await lane(services).embed(batch)
                await services.ledger.save(context.run.run_id, "embeddings", embedded)
                metadata["documents"] = len(embedded.tasks)
                metadata["embedded"] = sum(task.fresh for task in embedded.tasks)


@dg.asset(**COMMON, kinds={"qdrant", "postgres"}, deps=[embeddings])
async def vector_index(context: dg.AssetExecutionContext, tidemark: dg.ResourceParam[OpenServices]) -> None:
    """Points in Qdrant and rows in the ledger, swapped in one transaction, which moves the position in the topic, too.

    The gateway answers from this index. `points of the partition` counts all of its points, the other values count this run alone.
    """
    async with open_for_run(context, tidemark) as services:
        for key in context.partition_keys:
            with _described(context, key) as metadata:
                batch = await find_batch(context, key, services, "embeddings")
                report = Report() if await is_applied(batch, services) else await lane(services).index(batch)
                await lane(services).publish()
                await mirror_position(context, services, batch.range)
                _report_outcomes(context, report)
                metadata |= _totals(report)
                metadata["points of the partition"] = await services.vectors.count(
                    services.spec.index_id, partition=batch.partition
                )
                if batch.range:
                    metadata |= {"first offset": batch.range.start, "end offset": batch.range.end}


def _report_outcomes(context: dg.AssetExecutionContext, report: Report) -> None:
    """Report the events that the lane published as updates of their topics."""
    for topic, events in ((INDEXED, report.documents), (DEAD, report.dead)):
        if events:
            context.log_event(dg.AssetMaterialization(topic_key(topic), metadata={"events": events}))


def _totals(report: Report) -> dict[str, int]:
    return {
        "documents": report.documents,
        "chunks": report.chunks,
        "written": report.written,
        "embedded": report.embedded,
        "reused": report.chunks - report.embedded,
        "tokens": report.tokens,
        "dead": report.dead,
    }


@contextmanager
def _described(context: dg.AssetExecutionContext, key: str) -> Iterator[dict[str, float]]:
    """Yield the metadata of the partition's materialization, and add its seconds."""
    metadata: dict[str, float] = {}
    started = time.perf_counter()
    yield metadata
    metadata["seconds"] = round(time.perf_counter() - started, 3)
    context.add_asset_metadata(metadata, partition_key=key)
