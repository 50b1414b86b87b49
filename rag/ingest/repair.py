"""Anti-entropy: ledger, vector index and artifact store are compared in small steps, and the ledger decides.

A document whose points or artifacts are missing is written again from its artifacts, without an embedding, or derived again from its
source. Points that the ledger does not know and artifacts that no swap can list any more are deleted. Every step is safe at any time and
beside any lane: a document that changes meanwhile loses nothing, because the repair is an apply like any other.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from datetime import UTC, datetime, timedelta
from itertools import groupby

from rag.errors import LostIndex, TidemarkError
from rag.ingest.artifacts import Stored, is_superseded, shards
from rag.ingest.lane import Lane
from rag.ingest.pipeline import REBUILD_REMEDY, Pipeline
from rag.ingest.tasks import backfill_task, windows
from rag.models import Batch, DocumentRecord, DocumentStatus
from rag.ports import Cursors
from rag.telemetry import REPAIRS, logger

SHARDS_PER_STEP = 11  # 24 steps take all 256 shards: every document is compared once a day by an hourly step
POINTS_PER_STEP = 50_000
ABANDONED_SECONDS = 86_400.0  # age at which the artifacts of a derivation that was never applied are deleted
WINDOW = 200  # documents whose points are read together

_SHOWN = {DocumentStatus.LIVE, DocumentStatus.PARKED}
_log = logger(__name__)


@dataclass(frozen=True, slots=True)
class Repairs:
    """The numbers of documents written again, of orphans deleted, and of leftover artifacts deleted."""

    documents: int = 0
    points: int = 0
    artifacts: int = 0

    def __add__(self, other: Repairs) -> Repairs:
        return Repairs(*(getattr(self, each.name) + getattr(other, each.name) for each in fields(self)))


async def repair_step(
    lane: Lane,
    cursors: Cursors,
    *,
    run_id: str = "",
    number: int = SHARDS_PER_STEP,
    points: int = POINTS_PER_STEP,
    abandoned_seconds: float = ABANDONED_SECONDS,
) -> Repairs:
    """Compare the next ``number`` shards of documents and the next ``points`` points, and repair the differences.

    The cursor moves first, so that a shard that fails does not hold up the others. It comes again with the next round.
    """
    name, names = f"repair/{lane.pipeline.spec.index_id}", shards()
    cursor = await cursors.cursor(name)
    first = int(cursor.get("shard", 0))
    await cursors.set_cursor(name, {**cursor, "shard": (first + number) % len(names)})
    total = Repairs()
    for offset in range(number):
        shard = names[(first + offset) % len(names)]
        total += await repair_documents(lane, shard, run_id=run_id, abandoned_seconds=abandoned_seconds)
    repairs, following = await repair_points(lane, start=cursor.get("point", ""), limit=points)
    await cursors.set_cursor(name, {"shard": (first + number) % len(names), "point": following})
    return total + repairs


async def repair_documents(
    lane: Lane, shard: str, *, run_id: str = "", abandoned_seconds: float = ABANDONED_SECONDS
) -> Repairs:
    """Compare the documents of a shard with their points and artifacts. Write damaged ones again, and delete leftover artifacts."""
    pipeline, index_id = lane.pipeline, lane.pipeline.spec.index_id
    # The listing comes before the ledger: an artifact of a derivation that ends in between is listed by the ledger then.
    stored = await pipeline.artifacts.listed(index_id, shard)
    records = {record.document_id: record for record in await pipeline.catalog.shard(index_id, shard)}
    oldest = datetime.now(UTC) - timedelta(seconds=abandoned_seconds)
    leftovers = [each.key for each in stored if _is_leftover(each, records.get(each.document_id), oldest)]
    if leftovers:
        await pipeline.artifacts.delete(leftovers)
        REPAIRS.labels("leftover_artifact").inc(len(leftovers))
    damaged = await _damaged(lane, list(records.values()), {each.key for each in stored})
    await _write_again(lane, damaged, run_id)
    return Repairs(documents=len(damaged), artifacts=len(leftovers))


async def repair_points(lane: Lane, *, start: str = "", limit: int = POINTS_PER_STEP) -> tuple[Repairs, str]:
    """Delete orphans among the next ``limit`` points. Return the start of the next page, or an empty text at the end.

    An orphan is never a point that a writer still needs: an intent is recorded before its point is written, and no id is used again.
    """
    pipeline, index_id = lane.pipeline, lane.pipeline.spec.index_id
    seen: list[str] = []
    async for point_id, _ in pipeline.vectors.scroll(index_id, start=start):
        seen.append(point_id)
        if len(seen) > limit:
            break
    page, following = (seen[:limit], seen[limit]) if len(seen) > limit else (seen, "")
    unknown = await pipeline.ledger.unknown_points(index_id, page) if page else set()
    orphans = [point.point_id for point in await pipeline.vectors.retrieve(index_id, sorted(unknown))]
    if orphans:
        await pipeline.vectors.delete(index_id, orphans)
        REPAIRS.labels("orphan_point").inc(len(orphans))
    return Repairs(points=len(orphans)), following


async def rebuild(lane: Lane, cursors: Cursors, *, report: Callable[[str], None] = lambda _: None) -> Repairs:
    """Create the collection and write every point of the ledger from the artifacts. Until the end, ``require_rebuilt`` raises.

    A rebuild that was interrupted goes on where points are missing. Raises LostIndex when a shard failed.
    """
    pipeline, total, failed = lane.pipeline, Repairs(), 0
    await cursors.set_cursor(_rebuild_key(pipeline), {"since": datetime.now(UTC).isoformat()})
    await pipeline.vectors.create(pipeline.spec)
    for number, shard in enumerate(shards(), 1):
        try:
            total += await repair_documents(lane, shard, run_id="rebuild")
        except TidemarkError as error:
            failed += 1
            _log.error("repair.shard_failed", shard=shard, why=str(error))
        if number % 16 == 0:
            report(
                f"{number} of {len(shards())} shards, {total.documents} documents written again, {failed} shards failed"
            )
    if failed:
        raise LostIndex(
            f"{failed} of {len(shards())} shards could not be rebuilt: see the log, and run the command again"
        )
    await cursors.set_cursor(_rebuild_key(pipeline), {})
    return total


async def require_rebuilt(pipeline: Pipeline, cursors: Cursors) -> None:
    """Raise LostIndex when the collection is lost, or while it is being rebuilt."""
    await pipeline.require_index()
    if await cursors.cursor(_rebuild_key(pipeline)):
        raise LostIndex(f"the rebuild of {pipeline.spec.collection} has not ended: wait, or {REBUILD_REMEDY}")


def _rebuild_key(pipeline: Pipeline) -> str:
    return f"rebuild/{pipeline.spec.index_id}"


def _is_leftover(stored: Stored, record: DocumentRecord | None, oldest: datetime) -> bool:
    """Return whether no document needs the artifact: superseded, or abandoned by a derivation that was never applied."""
    if record is not None and (stored.key in record.artifacts or is_superseded(stored, record)):
        return stored.key not in record.artifacts
    return stored.modified <= oldest


async def _damaged(lane: Lane, records: Sequence[DocumentRecord], stored: set[str]) -> list[DocumentRecord]:
    """Return the shown documents that lack a point or an artifact, or have a point with another payload."""
    pipeline, index_id, found = lane.pipeline, lane.pipeline.spec.index_id, []
    shown = [record for record in records if record.status in _SHOWN and record.artifacts]
    for window in windows(shown, WINDOW):
        scroll = pipeline.vectors.scroll(index_id, documents=[record.document_id for record in window])
        points = dict([point async for point in scroll])
        for record in window:
            has_points = all(points.get(each.point_id) == each.payload_hash for each in record.chunks.values())
            if not has_points or await _lacks_artifact(lane, record, stored):
                found.append(record)
    current = await pipeline.ledger.recorded(index_id, [record.document_id for record in found])
    return [record for record in found if current[record.document_id].revision == record.revision]


async def _lacks_artifact(lane: Lane, record: DocumentRecord, stored: set[str]) -> bool:
    """Return whether an artifact is missing. One that was written after the listing exists."""
    missing = [key for key in record.artifacts if key not in stored]
    return bool(missing) and not all([await lane.pipeline.artifacts.exists(key) for key in missing])


async def _write_again(lane: Lane, records: Sequence[DocumentRecord], run_id: str) -> None:
    index_id = lane.pipeline.spec.index_id
    for partition, group in groupby(sorted(records, key=_partition), key=_partition):
        tasks = tuple(backfill_task(record, run_id) for record in group)
        _log.warning("repair.documents", partition=partition, documents=len(tasks))
        await lane.index(Batch(index_id, partition, tasks))
        REPAIRS.labels("document").inc(len(tasks))
    if records:
        await lane.publish()


def _partition(record: DocumentRecord) -> int:
    return record.partition
