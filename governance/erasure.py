"""Erasure of a document, as far as it exists: the suppression, which hides it at once and keeps it out for ever."""

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

    Of a source that is no longer configured, no event can be announced. A backfill retires the points then.
    """
    try:
        change = ObjectChange(uri, datetime.now(UTC), "erasure", is_deletion=True)
        events = [outbox_event(change, sources.owner(source, tenant, uri), ids)]
    except Rejected as error:
        _log.warning("erasure.not_announced", document_id=document_id, reason=error.reason)
        events = []
    await suppressions.suppress(tenant, [document_id], reason="erasure", events=events)
