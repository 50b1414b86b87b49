"""Batches of an asset run: collected from the requested offset range, or found in the ledger where an earlier step left them."""

from __future__ import annotations

import dagster as dg
from pydantic import Field

from assets.partitions import EVENTS
from governance.admission import find_suppressed
from rag.ingest.lane import Lane
from rag.ingest.positions import consumer_group, locate
from rag.models import Batch, OffsetRange
from rag.ports import TopicState
from rag.wiring import Services
from schemas.topics import CHANGED


class EventRanges(dg.Config):
    """First and end offset by partition, as the sensor requests them. A run without offsets is a backfill: it derives every document
    of its partitions again."""

    index: str = ""
    epoch: str = ""
    offsets: dict[str, list[int]] = Field(default_factory=dict)


async def locate_topic(services: Services) -> TopicState:
    """Return the state of the topic of changes, with the epoch that the index's offsets belong to."""
    return (await locate(services.spec.index_id, CHANGED, services.events, services.ledger))[0]


def lane(services: Services) -> Lane:
    return Lane(services.pipeline, services.events, services.ledger, find_suppressed(services.ledger))


async def start_batch(run_id: str, config: EventRanges, key: str, log: TopicState | None, services: Services) -> Batch:
    """Collect the events of the range and those that came while the run was queued. Without a ``log``, take every document of the
    partition."""
    if log is None:
        return await services.pipeline.live_batch(int(key), run_id=run_id)
    due = _due(config, key, log)
    records = await lane(services).read(due)
    return await lane(services).collect(records, due, run_id=run_id)


def _due(config: EventRanges, key: str, log: TopicState) -> OffsetRange:
    """Return the requested range, extended to the newest event. Raises Failure for a range that does not fit the run or the topic."""
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


async def find_batch(
    context: dg.AssetExecutionContext | dg.AssetCheckExecutionContext, key: str, services: Services, step: str
) -> Batch:
    """Load the batch that ``step`` left in this run or in a run that this one retries, else the whole partition as a backfill."""
    run: dg.DagsterRun | None = context.run
    while run is not None:
        batch = await services.ledger.load(run.run_id, step, int(key))
        if batch and batch.index_id == services.spec.index_id:
            return batch
        run = context.instance.get_run_by_id(run.parent_run_id) if run.parent_run_id else None
    return await services.pipeline.live_batch(int(key), run_id=context.run.run_id)


async def is_applied(batch: Batch, services: Services) -> bool:
    """Return whether an earlier attempt of this run finished the range, before another partition of it failed."""
    if batch.range is None:
        return False
    positions = await services.ledger.positions(batch.index_id, batch.range.topic, batch.range.epoch)
    return positions.get(batch.partition, 0) >= batch.range.end


async def mirror_position(context: dg.AssetExecutionContext, services: Services, done: OffsetRange | None) -> None:
    """Commit the position to the consumer group, for lag tools. A group with members belongs to the stream lane."""
    if done is None:
        return
    group = consumer_group(services.spec.index_id)
    if not await services.events.mirror(group, done.topic, {done.partition: done.end}):
        context.log.info(
            f"consumer group {group} has members: the stream lane took over, the position stands in the ledger"
        )
