"""From "something happened to this object" to an event of ``documents.changed.v1``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from rag.ids import Ids
from rag.ingest.change_events import CHANGED
from rag.ports import EventLog
from rag.sources import Source
from rag.telemetry import EVENTS_ANNOUNCED, span, trace_headers
from schemas.events import ChangeKind, DocumentChanged


@dataclass(frozen=True, slots=True)
class Notice:
    """A hint that the object at the canonical ``uri`` changed or went. Who handles the event looks for itself."""

    uri: str
    occurred_at: datetime
    origin: str  # notification | listing | poll | upload | sampler
    is_deletion: bool = False
    version: str | None = None


def event(notice: Notice, source: Source, ids: Ids) -> DocumentChanged:
    return DocumentChanged(
        document_id=ids.document_id(source.tenant, source.name, notice.uri),
        tenant=source.tenant,
        source=source.name,
        uri=notice.uri,
        kind=ChangeKind.DELETED if notice.is_deletion else ChangeKind.CHANGED,
        version=notice.version,
        origin=notice.origin,
        occurred_at=notice.occurred_at,
        announced_at=datetime.now(UTC),
    )


async def publish(notices: Sequence[Notice], source: Source, ids: Ids, events: EventLog) -> list[DocumentChanged]:
    """All acknowledged by the log when it returns, in the order of the notices."""
    made = [event(notice, source, ids) for notice in notices]
    if made:
        with span("events.publish", events=len(made)):
            await events.publish(CHANGED, [(each.document_id, each) for each in made], headers=trace_headers())
    for notice in notices:
        EVENTS_ANNOUNCED.labels(source.name, notice.origin).inc()
    return made
