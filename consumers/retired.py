"""Withdraw the documents that no configured source contains: after a source was renamed, moved, narrowed or removed."""

from __future__ import annotations

from consumers.announcements import Announcements, Signature
from rag.models import DocumentStatus, Inventoried
from rag.telemetry import logger, span, trace_headers
from rag.wiring import Services
from schemas.topics import CHANGED

_log = logger("consumers")
SLICE = 1000  # tombstones published together
TOMBSTONE: Signature = (True, None)
REMOVED = "configure the source again, or confirm its deletion with `python -m consumers reconcile --confirm`"
Key = tuple[str, str]  # (tenant, source)


async def withdraw_retired(
    opened: Services, *, announcements: Announcements | None = None, confirmed: bool = False
) -> int:
    """Announce the deletion of the retired documents, and return the number of those that wait for their new source.

    A document whose object is indexed under the source that contains it now is withdrawn. A document that no source contains is
    withdrawn when a person has ``confirmed``, because a wrong SOURCES setting must not delete a source.
    """
    index_id, ledger = opened.spec.index_id, opened.ledger
    log = await opened.events.describe(CHANGED)
    positions = await ledger.positions(index_id, CHANGED, log.epoch)
    announcements = announcements or Announcements(0)
    started = announcements.clock()
    inventories = {key: await ledger.inventory(index_id, *key) for key in await ledger.recorded_sources(index_id)}
    withdrawn: dict[Key, list[str]] = {}
    moving = 0
    for (tenant, name), inventory in sorted(inventories.items()):
        retired = {uri: each for uri, each in inventory.items() if _is_retired(uri, each, tenant, name, opened)}
        homes = {uri: _home(uri, opened) for uri in retired}
        removed = [each.document_id for uri, each in retired.items() if homes[uri] is None]
        moved = [
            each.document_id for uri, each in retired.items() if uri in inventories.get(homes[uri] or ("", ""), {})
        ]
        moving += len(retired) - len(removed) - len(moved)
        if removed and not confirmed:
            _log.error("sources.removed", source=name, tenant=tenant, documents=len(removed), remedy=REMOVED)
        withdrawn[tenant, name] = moved + (removed if confirmed else [])
    differences = {each: TOMBSTONE for document_ids in withdrawn.values() for each in document_ids}
    due = announcements.due(differences, log, positions, started)
    for key, document_ids in withdrawn.items():
        await _withdraw(key, [each for each in document_ids if each in due], opened)
    if due:
        announcements.note_differences(dict.fromkeys(due, TOMBSTONE), await opened.events.describe(CHANGED))
    return moving


def _is_retired(uri: str, recorded: Inventoried, tenant: str, name: str, opened: Services) -> bool:
    return recorded.status is not DocumentStatus.SUPPRESSED and not opened.sources.contains(name, tenant, uri)


def _home(uri: str, opened: Services) -> Key | None:
    """Return the source that contains the object now."""
    return next(((each.tenant, each.name) for each in opened.sources.by_name.values() if each.owns(uri)), None)


async def _withdraw(key: Key, document_ids: list[str], opened: Services) -> None:
    """Confirm and publish the deletions. A tombstone names a document that no configured source can announce."""
    if not document_ids:
        return
    await opened.ledger.confirm_deletions(opened.spec.index_id, *key, document_ids)
    for start in range(0, len(document_ids), SLICE):
        tombstones = [(document_id, None) for document_id in document_ids[start : start + SLICE]]
        with span("events.publish", events=len(tombstones)):
            await opened.events.publish(CHANGED, tombstones, headers=trace_headers())
    _log.info("sources.withdrawn", source=key[1], tenant=key[0], documents=len(document_ids))
