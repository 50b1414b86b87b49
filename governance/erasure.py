"""Suppression of a document: it hides the document at once and keeps it out for ever. No other step of an erasure exists yet."""

from __future__ import annotations

from datetime import UTC, datetime

from rag.errors import Rejected
from rag.ids import Ids
from rag.ingest.change_events import ObjectChange, outbox_event
from rag.ports import Suppressions
from rag.sources import Sources
from rag.telemetry import logger

_log = logger(__name__)


async def suppress(
    document_id: str, *, tenant: str, source: str, uri: str, ids: Ids, sources: Sources, suppressions: Suppressions
) -> None:
    """Suppress the document, and record the event that makes the lanes retire its points, in one transaction.

    The event is left out when the source is no longer configured. A backfill retires the points in that case.
    """
    try:
        change = ObjectChange(uri, datetime.now(UTC), "erasure", is_deletion=True)
        events = [outbox_event(change, sources.owner(source, tenant, uri), ids)]
    except Rejected as error:
        _log.warning("erasure.not_announced", document_id=document_id, reason=error.reason)
        events = []
    await suppressions.suppress(tenant, [document_id], reason="erasure", events=events)
