"""Compare the listing of a source with the ledger. This finds the changes that notifications missed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Protocol

from rag.ingest.change_events import ObjectChange
from rag.ingest.deletions import is_mass
from rag.ingest.roots import Roots
from rag.models import DocumentStatus, Inventoried, ObjectState
from rag.ports import Catalog, Cursors, Deletions, ObjectStore
from rag.sources import Source


class Records(Catalog, Cursors, Deletions, Protocol):
    """The parts of the ledger that a listing is compared with."""


@dataclass(frozen=True, slots=True)
class Differences:
    """The changes to announce, the number of deletions that wait for a confirmation, and the listing itself."""

    changes: list[ObjectChange]
    held: int
    listed: dict[str, ObjectState]


async def differences(
    source: Source, index_id: str, objects: ObjectStore, ledger: Records, *, confirmed: bool = False
) -> Differences:
    """Compare the source with the ledger: state, settings and absence of its documents.

    Deletions of most of the source are held, and so are those that the lane held, unless they are ``confirmed``. Raises Unavailable
    when the source's root is not the one that was watched; ``confirmed`` accepts the present root.
    """
    inventory = await ledger.inventory(index_id, source.tenant, source.name)
    known = {uri: each for uri, each in inventory.items() if source.owns(uri)}
    roots = Roots(objects, ledger)
    if confirmed:
        await roots.accept(source)
    listed = await list_documents(source, objects, roots, known)
    changed = [_change(state) for uri, state in sorted(listed.items()) if _is_due(state, known.get(uri), source)]
    gone = {uri: known[uri].document_id for uri in sorted(known.keys() - listed.keys())}
    waiting = await _settle_held(source, index_id, ledger, gone, confirmed=confirmed)
    unconfirmed = {uri for uri, document_id in gone.items() if waiting.get(document_id) is not True}
    held = {uri for uri in unconfirmed if gone[uri] in waiting}
    if is_mass(len(unconfirmed), len(known)):
        held = unconfirmed
    return Differences(changed + [deletion(uri) for uri in gone if uri not in held], len(held), listed)


async def _settle_held(
    source: Source, index_id: str, ledger: Records, gone: Mapping[str, str], *, confirmed: bool
) -> dict[str, bool]:
    """Return document id → whether its deletion is confirmed, of the deletions that the lane held or a person confirmed.

    A document that is there again loses its entry.
    """
    if confirmed:
        ids = list(gone.values())
        await ledger.confirm_deletions(index_id, source.tenant, source.name, ids, restart_count=True)
    waiting = await ledger.held_deletions(index_id, source.tenant, source.name)
    if back := sorted(waiting.keys() - gone.values()):
        await ledger.release_deletions(index_id, back)
    return waiting


async def list_documents(
    source: Source, objects: ObjectStore, roots: Roots, known: Mapping[str, object]
) -> dict[str, ObjectState]:
    """List the source. Raises Unavailable when its root is not the one in which the ``known`` documents were found."""
    listed = {state.uri: state async for state in objects.list(source.base_uri) if is_document(state.uri)}
    if listed and (not known or not listed.keys().isdisjoint(known)):
        await roots.learn(source)
    if listed or known:
        await roots.prove(source)
    return listed


def compare(
    listed: Mapping[str, ObjectState], before: Mapping[str, ObjectState]
) -> tuple[list[ObjectChange], list[ObjectChange]]:
    """Return the objects that changed or are new since the listing ``before``, and those that are gone."""
    changed = [
        _change(state)
        for uri, state in sorted(listed.items())
        if uri not in before or before[uri].change_token != state.change_token
    ]
    return changed, [deletion(uri) for uri in sorted(before.keys() - listed.keys())]


def deletion(uri: str) -> ObjectChange:
    return ObjectChange(uri, datetime.now(UTC), "listing", is_deletion=True)


def is_document(uri: str) -> bool:
    """Return whether the object may be a document, and not a folder marker, an editor's backup or a half-written file."""
    name = uri.rsplit("/", 1)[-1]
    return bool(name) and not name.startswith((".", "~$")) and not name.endswith((".part", ".tmp", "~"))


def _change(state: ObjectState) -> ObjectChange:
    return ObjectChange(state.uri, state.modified, "listing", version=state.change_token)


def _is_due(state: ObjectState, known: Inventoried | None, source: Source) -> bool:
    """Return whether the ledger lacks the object's state, or derived it with other settings of the source."""
    if known is None:
        return True
    if known.status is DocumentStatus.SUPPRESSED and not known.change_token:
        return False  # it was refused by its id, before it was read
    return known.change_token != state.change_token or known.config_hash != source.config_hash(state.uri)
