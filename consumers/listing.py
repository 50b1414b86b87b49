"""Compare the listing of a source with the ledger. This finds the changes that notifications missed."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime

from rag.errors import Conflict
from rag.ingest.change_events import ObjectChange
from rag.models import ObjectState
from rag.ports import Catalog, ObjectStore
from rag.sources import Source

REMEDY = "restore what is gone, or confirm with `python -m consumers reconcile --confirm`"
MASS = 20  # deletions that never need a confirmation
MASS_SHARE = 0.5  # of all documents; more deletions need a confirmation


async def differences(
    source: Source, index_id: str, objects: ObjectStore, catalog: Catalog, *, confirmed: bool = False
) -> list[ObjectChange]:
    """Return the changes to announce, so that the index follows the source again.

    Raises MassDeletion when over half of the source's documents would go and ``confirmed`` is False: an emptied folder or a wrong
    prefix looks just like a deletion. The error's ``changes`` hold all other changes.
    """
    known = await catalog.inventory(index_id, source.name)
    listed = {state.uri: state async for state in objects.list(source.base_uri) if is_document(state.uri)}
    changed, gone = compare(listed, {uri: change_token for uri, (_, change_token) in known.items()})
    if is_mass(len(gone), len(known)) and not confirmed:
        raise MassDeletion(
            f"{len(gone)} of {len(known)} documents of source {source.name!r} are not listed at {source.base_uri}: "
            f"{REMEDY}",
            changed,
        )
    return changed + gone


def is_mass(gone: int, known: int) -> bool:
    """Whether so many would go that an emptied folder, a truncated table or a wrong prefix is more likely than an intended deletion."""
    return gone > MASS and gone > MASS_SHARE * known


class MassDeletion(Conflict):
    """A refusal to delete most documents of a source. ``changes`` are the other differences, which may be announced."""

    def __init__(self, message: str, changes: list[ObjectChange]) -> None:
        super().__init__(message)
        self.changes = changes


def compare(
    listed: Mapping[str, ObjectState], known: Mapping[str, str]
) -> tuple[list[ObjectChange], list[ObjectChange]]:
    """Return the changed and new objects, and the objects that are gone. ``known``: uri → change_token."""
    now = datetime.now(UTC)
    changed = [
        ObjectChange(uri, state.modified, "listing", version=state.change_token)
        for uri, state in sorted(listed.items())
        if known.get(uri) != state.change_token
    ]
    gone = [ObjectChange(uri, now, "listing", is_deletion=True) for uri in sorted(known.keys() - listed.keys())]
    return changed, gone


def is_document(uri: str) -> bool:
    """Whether the object may be a document: not a folder marker, an editor's backup or a file still being written."""
    name = uri.rsplit("/", 1)[-1]
    return bool(name) and not name.startswith((".", "~$")) and not name.endswith((".part", ".tmp", "~"))
