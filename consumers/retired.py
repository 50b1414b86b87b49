"""Withdraw the documents that no configured source contains: after a source was renamed, moved, narrowed or removed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from consumers.announcements import SLICE, Announcements, Signature
from rag.errors import ObjectUnavailable, Rejected
from rag.ingest.deletions import is_mass
from rag.ingest.roots import Roots
from rag.models import DocumentStatus, Inventoried
from rag.ports import ObjectStore
from rag.sources import Source
from rag.telemetry import logger, span, trace_headers
from rag.wiring import Services
from schemas.topics import CHANGED

_log = logger("consumers")
MAX_CHECKED = 1000  # objects whose absence one turn checks
TOMBSTONE: Signature = (True, None)
REMOVED = "configure the source again, or confirm its deletion with `python -m consumers reconcile --confirm`"
Key = tuple[str, str]  # (tenant, source)


@dataclass(frozen=True, slots=True)
class _Home:
    """The source that contains an object now."""

    source: Source
    is_indexed: bool


async def withdraw_retired(
    opened: Services, *, announcements: Announcements | None = None, confirmed: bool = False
) -> int:
    """Announce the deletion of the retired documents, and return the number of those that wait for their new source.

    A document whose object is indexed under the source that contains it now is withdrawn. A document that no source contains is
    withdrawn when a person has ``confirmed``, because a wrong SOURCES setting must not delete a source. A document whose object is gone
    is withdrawn, within the limits of the guard.
    """
    index_id, ledger = opened.spec.index_id, opened.ledger
    log = await opened.events.describe(CHANGED)
    positions = await ledger.positions(index_id, CHANGED, log.epoch)
    announcements = announcements or Announcements(0)
    started = announcements.clock()
    withdrawn: dict[Key, list[str]] = {}
    moving = 0
    for key, retired in (await _retired(opened)).items():
        homes = await _homes(retired, opened)
        removed = [uri for uri in retired if uri not in homes]
        moved = [uri for uri in retired if uri in homes and homes[uri].is_indexed]
        rest = [uri for uri in retired if uri in homes and not homes[uri].is_indexed]
        absent = await _absent(rest, homes, opened)
        moving += len(rest) - len(absent)
        if is_mass(len(absent), len(retired)):
            removed += absent
        else:
            moved += absent
        if removed and not confirmed:
            _log.error("sources.removed", source=key[1], tenant=key[0], documents=len(removed), remedy=REMOVED)
        withdrawn[key] = [retired[uri].document_id for uri in moved + (removed if confirmed else [])]
    differences = {each: TOMBSTONE for document_ids in withdrawn.values() for each in document_ids}
    due = announcements.due(differences, log, positions, started)
    for key, document_ids in withdrawn.items():
        await _withdraw(key, [each for each in document_ids if each in due], opened)
    if due:
        announcements.note_differences(dict.fromkeys(due, TOMBSTONE), await opened.events.describe(CHANGED))
    return moving


async def _retired(opened: Services) -> dict[Key, dict[str, Inventoried]]:
    """Return the retired documents by their recorded source and by uri."""
    index_id, found = opened.spec.index_id, {}
    for tenant, name in sorted(await opened.ledger.recorded_sources(index_id)):
        if not await _may_have_retired(tenant, name, opened):
            continue
        inventory = await opened.ledger.inventory(index_id, tenant, name)
        found[tenant, name] = {
            uri: each
            for uri, each in inventory.items()
            if each.status is not DocumentStatus.SUPPRESSED and not opened.sources.contains(name, tenant, uri)
        }
    return found


async def _may_have_retired(tenant: str, name: str, opened: Services) -> bool:
    """Return whether the source is not configured, or has documents outside. Counts spare the inventory of a large source."""
    source = opened.sources.by_name.get(name)
    if source is None or source.tenant != tenant:
        return True
    index_id, prefix = opened.spec.index_id, source.base_uri.rstrip("/") + "/"
    every = await opened.ledger.counts(index_id, tenant, name)
    inside = await opened.ledger.counts(index_id, tenant, name, prefix)
    gone = DocumentStatus.DELETED.value
    return every | {gone: 0} != inside | {gone: 0}


async def _homes(uris: Iterable[str], opened: Services) -> dict[str, _Home]:
    """Return uri → home. Omit the uris that no source contains."""
    homes: dict[str, _Home] = {}
    wanted = list(uris)
    for source in opened.sources.by_name.values():
        if contained := [uri for uri in wanted if source.owns(uri)]:
            inventory = await opened.ledger.inventory(opened.spec.index_id, source.tenant, source.name)
            homes |= {uri: _Home(source, uri in inventory) for uri in contained}
    return homes


async def _absent(uris: Sequence[str], homes: Mapping[str, _Home], opened: Services) -> list[str]:
    """Return the uris whose objects are gone, so that they will never be indexed. Of more than ``MAX_CHECKED``, return none: a later
    turn checks them, when most are indexed."""
    if len(uris) > MAX_CHECKED:
        return []
    roots = Roots(opened.objects, opened.ledger)
    absent = [uri for uri in uris if await _is_absent(uri, opened.objects)]
    for name in {homes[uri].source.name for uri in absent}:
        await roots.prove(opened.sources.named(name))
    return absent


async def _is_absent(uri: str, objects: ObjectStore) -> bool:
    try:
        return await objects.head(uri) is None
    except (Rejected, ObjectUnavailable):  # the object is there, and its own source handles it
        return False


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
