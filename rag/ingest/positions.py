"""The position of an index in the log: the epoch that its offsets belong to, and the offset at which each partition goes on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Protocol

from rag.ports import Cursors, EventLog, Positions, TopicState
from rag.telemetry import EVENTS_LOST, logger

_log = logger(__name__)
_REMEDY = "python -m consumers reconcile"


class PositionStore(Positions, Cursors, Protocol):
    """The ledger's part that ``locate`` needs."""


def consumer_group(index_id: str) -> str:
    """Return the group of an index's stream lane. The Dagster lane stays idle while the group has members."""
    return f"tidemark-{index_id}"


async def locate(index_id: str, topic: str, log: EventLog, store: PositionStore) -> tuple[TopicState, dict[int, int]]:
    """Return the state of the topic, and partition → next offset.

    The epoch of the state is the log's, with a generation. A log that ends before a recorded position has lost its tail, and its
    offsets will be used for other events. Such a log starts a new generation: every partition is read again from its first offset,
    which changes nothing for documents that are up to date.
    """
    state = await log.describe(topic)
    cursor = f"epoch/{index_id}/{topic}"
    saved = await store.cursor(cursor)
    generation = int(saved.get("generation", 0)) if saved.get("epoch") == state.epoch else 0
    while True:
        located = replace(state, epoch=f"{state.epoch}#{generation}" if generation else state.epoch)
        positions = await store.positions(index_id, topic, located.epoch)
        if all(positions.get(partition, 0) <= end for partition, (_, end) in state.bounds.items()):
            break
        generation += 1
        _log.error("events.log_ends_before_position", topic=topic, generation=generation, remedy=_REMEDY)
        await store.set_cursor(cursor, {"epoch": state.epoch, "generation": generation})
    if not positions and await store.epochs(index_id, topic):
        _log.warning("events.new_epoch", topic=topic, epoch=located.epoch, remedy=_REMEDY)
    return located, {partition: _next(positions.get(partition), low) for partition, (low, _) in state.bounds.items()}


def report_lost(state: TopicState, positions: Mapping[int, int]) -> None:
    """Count and log the events between the recorded positions and the first offsets that the log still holds."""
    for partition, (low, _) in state.bounds.items():
        lost = low - positions.get(partition, low)
        if lost > 0:
            EVENTS_LOST.inc(lost)
            _log.error("events.lost", partition=partition, lost=lost, remedy=_REMEDY)


def _next(position: int | None, low: int) -> int:
    return low if position is None else position
