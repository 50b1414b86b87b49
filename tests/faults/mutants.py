"""Mutants: the code with one protection removed. Each is a function that patches the running process; no file changes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest

from governance.erasing import Eraser
from rag import ids
from rag.adapters.memory import ledger
from rag.adapters.memory.events import MemoryEventLog
from rag.adapters.memory.ledger import MemoryLedger, _Garbage
from rag.answer import retrieval
from rag.ingest import change_events, indexing, lane, pipeline
from rag.ingest.pipeline import Pipeline
from rag.models import AccessFilter, Batch, Cause, Hit, OffsetRange, Provenance, ScoredPoint
from rag.ports import Delta, EventLog, Outbox, SwapResult

Patch = Callable[[pytest.MonkeyPatch], None]


def commit_before_publish(patch: pytest.MonkeyPatch) -> None:
    """Delete events from the outbox before the log has acknowledged them."""

    async def publish(outbox: Outbox, log: EventLog) -> int:
        async with outbox.unpublished() as events:
            taken = list(events)
        for event in taken:
            await log.publish(event.topic, [(event.key, event.value)])
        return len(taken)

    patch.setattr(change_events, "publish_outbox", publish)


def commit_before_apply(patch: pytest.MonkeyPatch) -> None:
    """Move the position when the range was read."""
    collect = lane.Lane.collect

    async def early(self: Any, records: Any, due: OffsetRange, **options: Any) -> Batch:
        await self.pipeline.ledger.advance(self.pipeline.spec.index_id, due)
        return await collect(self, records, due, **options)

    patch.setattr(lane.Lane, "collect", early)


def ids_by_position(patch: pytest.MonkeyPatch) -> None:
    """Number the chunks of a document instead of hashing their content."""

    def chunk_ids(self: ids.Ids, tenant: str, document_id: str, inputs: Sequence[str]) -> list[str]:
        return [f"{document_id[:-4]}{number:04}" for number in range(len(inputs))]

    patch.setattr(ids.Ids, "chunk_ids", chunk_ids)


def ids_reused(patch: pytest.MonkeyPatch) -> None:
    """Give every version of a chunk the same point."""

    def with_points(delta: Delta) -> Delta:
        chunks = {
            chunk_id: replace(each, point_id=chunk_id if chunk_id in delta.writes else each.point_id)
            for chunk_id, each in delta.record.chunks.items()
        }
        retired = tuple(set(delta.retired) - {each.point_id for each in chunks.values()})
        return replace(delta, record=replace(delta.record, chunks=chunks), retired=retired)

    patch.setattr(indexing, "_with_points", with_points)
    _tolerate_lost_intents(patch)


def no_fence(patch: pytest.MonkeyPatch) -> None:
    """Accept every delta, whatever was applied, condemned or suppressed meanwhile."""
    patch.setattr(MemoryLedger, "_compare", lambda self, index_id, deltas: SwapResult(tuple(deltas), ()))
    _tolerate_lost_intents(patch)


def no_fence_on_intents(patch: pytest.MonkeyPatch) -> None:
    """Accept a delta whose points the sweep has deleted."""
    compare = MemoryLedger._compare

    def lenient(self: MemoryLedger, index_id: str, deltas: Sequence[Delta]) -> SwapResult:
        for delta in deltas:
            for point in delta.new_points:
                self._garbage[index_id, point] = _Garbage(0.0, is_intent=True)
        return compare(self, index_id, deltas)

    patch.setattr(MemoryLedger, "_compare", lenient)


def no_fence_on_suppressions(patch: pytest.MonkeyPatch) -> None:
    """Accept and show documents that were suppressed while they were indexed."""
    patch.setattr(MemoryLedger, "_hidden", lambda self, record: False)


def no_epoch(patch: pytest.MonkeyPatch) -> None:
    """Take a topic that was created again for the old one."""
    describe = MemoryEventLog.describe

    async def same(self: MemoryEventLog, topic: str) -> Any:
        return replace(await describe(self, topic), epoch="memory:1:2")

    patch.setattr(MemoryEventLog, "describe", same)


def eof_believed(patch: pytest.MonkeyPatch) -> None:
    """Take the end of the log for the end of the range."""
    read = MemoryEventLog.read

    async def short(self: MemoryEventLog, topic: str, partition: int, start: int, end: int, **options: Any) -> Any:
        return await read(self, topic, partition, start, min(end, self._partition(topic, partition).end), **options)

    patch.setattr(MemoryEventLog, "read", short)


def backfill_without_compare(patch: pytest.MonkeyPatch) -> None:
    """Let a backfill win over a change that was applied meanwhile."""
    compare = MemoryLedger._compare

    def lenient(self: MemoryLedger, index_id: str, deltas: Sequence[Delta]) -> SwapResult:
        forced = [d for d in deltas if d.record.cause and d.record.cause.is_backfill]
        result = compare(self, index_id, [delta for delta in deltas if delta not in forced])
        return SwapResult((*result.accepted, *forced), result.lost)

    patch.setattr(MemoryLedger, "_compare", lenient)
    _tolerate_lost_intents(patch)


def settings_unchecked(patch: pytest.MonkeyPatch) -> None:
    """Let a worker that was started with older settings change documents."""
    patch.setattr(ledger, "require_settings", lambda declared, settings: None)


def ledger_read_off(patch: pytest.MonkeyPatch) -> None:
    """Show every point that the vector index returns."""

    async def current(
        points: Sequence[ScoredPoint], access: AccessFilter, ledger: MemoryLedger, index_id: str
    ) -> list[Hit]:
        visible = await ledger.visible(index_id, [point.point_id for point in points], access)
        return [
            hit
            for point in points
            if (hit := retrieval.hit(point, visible.get(point.point_id) or await _guess(point, ledger, index_id)))
        ]

    patch.setattr(retrieval, "_current", current)


def revokes_ignored(patch: pytest.MonkeyPatch) -> None:
    """Let grants decide alone."""
    scopes = MemoryLedger._scopes
    patch.setattr(MemoryLedger, "_scopes", lambda self, access: scopes(self, access)._replace(revoked=()))


def grants_unknown_to_the_index(patch: pytest.MonkeyPatch) -> None:
    """Search the vector index by the principals alone."""
    patch.setattr(AccessFilter, "under", lambda self, ruled: self)


def erasures_unverified(patch: pytest.MonkeyPatch) -> None:
    """Certify what the stores were asked to do, without a look at what is left."""

    async def nothing(self: Eraser, *_: Any) -> list[Any]:
        return []

    patch.setattr(Eraser, "_remains", nothing)


def names_learned_again(patch: pytest.MonkeyPatch) -> None:
    """Let a late event write the name of an erased document to the ledger again."""
    patch.setattr(pipeline, "ERASED", "never")


async def _guess(point: ScoredPoint, ledger: MemoryLedger, index_id: str) -> Provenance:
    document_id, text = point.payload["document_id"], point.payload["text"]
    row = (await ledger.recorded(index_id, [document_id]))[document_id]
    cause = row.cause or Cause("", "", -1, -1)
    return Provenance(
        document_id, row.revision, row.uri, row.title, row.version, cause, point.point_id, 0, 0, len(text), None,
        row.source, row.language, row.media_type,
    )  # fmt: skip


def derive_again_dropped(patch: pytest.MonkeyPatch) -> None:
    """Drop the documents that were overtaken."""

    async def nothing(self: Pipeline, batch: Batch, *_: Any) -> Batch:
        return replace(batch, tasks=())

    patch.setattr(Pipeline, "_derive_again", nothing)


def publish_before_swap(patch: pytest.MonkeyPatch) -> None:
    """Forget the events of a window, as a worker does that publishes them itself and dies before."""
    swap = MemoryLedger.swap

    async def silent(self: MemoryLedger, index_id: str, deltas: Sequence[Delta], **options: Any) -> SwapResult:
        return await swap(self, index_id, deltas, **(options | {"events": None}))

    patch.setattr(MemoryLedger, "swap", silent)


def constant_run_key(patch: pytest.MonkeyPatch) -> None:
    """Give equal ranges equal run keys, in every epoch and after every failure."""
    from assets import sensors

    request = sensors._request

    def constant(group: Sequence[sensors.Due], index_id: str, epoch: str, attempts: sensors.Attempts) -> Any:
        made = request(group, index_id, epoch, attempts)
        return made._replace(run_key=", ".join(f"{each.partition}: {each.start}-{each.end}" for each in group))

    patch.setattr(sensors, "_request", constant)


def _tolerate_lost_intents(patch: pytest.MonkeyPatch) -> None:
    """Let the ledger record a delta whose intents are gone, so that the mutant fails by its result and not by a KeyError."""
    record = MemoryLedger._record

    def lenient(self: MemoryLedger, index_id: str, delta: Delta) -> None:
        for point in delta.new_points:
            self._garbage.setdefault((index_id, point), None)  # type: ignore[arg-type]
        record(self, index_id, delta)

    patch.setattr(MemoryLedger, "_record", lenient)


MUTANTS: dict[str, Patch] = {
    "commit before publish": commit_before_publish,
    "commit before apply": commit_before_apply,
    "ids by position": ids_by_position,
    "no fence": no_fence,
    "no fence on suppressions": no_fence_on_suppressions,
    "no epoch": no_epoch,
    "EOF believed": eof_believed,
    "backfill without compare-and-swap": backfill_without_compare,
    "settings unchecked": settings_unchecked,
    "ledger read switched off": ledger_read_off,
    "names of erased documents learned again": names_learned_again,
    "revokes ignored": revokes_ignored,
    "grants unknown to the index": grants_unknown_to_the_index,
    "_derive_again dropped": derive_again_dropped,
    "events not in the transaction": publish_before_swap,
}
ELSEWHERE: dict[str, tuple[Patch, str]] = {
    "no fence on intents": (no_fence_on_intents, "tests/faults/test_takeovers.py"),
    "erasures unverified": (erasures_unverified, "tests/walks/test_erasures.py"),
    "ids reused": (ids_reused, "tests/faults/test_takeovers.py"),
    "constant run key": (constant_run_key, "tests/assets/test_sensors.py"),
}
"""Mutants that schedules seldom or never meet → the tests that must fail."""
