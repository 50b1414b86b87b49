"""Parked documents, whose objects cannot be read now. A parked document waits for its next try and does not stop its partition."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from rag.ingest import indexing
from rag.models import DocumentRecord, DocumentStatus, IndexingTask, Parking
from rag.ports import Delta


@dataclass(frozen=True, slots=True)
class ParkingPolicy:
    """The waits between two tries, which double, and the time for which the older version is served. All are seconds."""

    first_wait: float = 60.0
    longest_wait: float = 3600.0  # also the longest delay after the object becomes readable again
    stale_seconds: float = 7 * 86_400.0  # 0: the older version is withdrawn at once


def plan_parked(
    task: IndexingTask, recorded: DocumentRecord, partition: int, policy: ParkingPolicy, now: datetime
) -> Delta:
    """Decide how the index shows a document whose object cannot be read now.

    The older version is served and marked as stale, unless its time is over or the object now names other principals. A try falls
    due when its time is over, so that the version is withdrawn then.
    """
    parking = _next(recorded.parking, policy, now)
    withdrawn_at = parking.since + timedelta(seconds=policy.stale_seconds)
    if recorded.chunks and now < withdrawn_at and task.principals == recorded.principals:
        record = replace(
            recorded,
            revision=task.base_revision,
            status=DocumentStatus.PARKED,
            reason=task.reason,
            change_token=task.change_token or recorded.change_token,
            config_hash=task.config_hash or recorded.config_hash,
            parking=replace(parking, next_try=min(parking.next_try, withdrawn_at)),
        )
        return Delta(record, is_visible=recorded.status is not DocumentStatus.PARKED)
    withdrawn = indexing.plan(indexing.desired(task, partition), recorded)
    return replace(withdrawn, record=replace(withdrawn.record, parking=parking))


def _next(earlier: Parking | None, policy: ParkingPolicy, now: datetime) -> Parking:
    attempts = earlier.attempts + 1 if earlier else 1
    wait = min(policy.longest_wait, policy.first_wait * 2.0 ** min(attempts - 1, 30))
    return Parking(attempts, earlier.since if earlier else now, now + timedelta(seconds=wait))
