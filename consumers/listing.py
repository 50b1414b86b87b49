"""Compare what a source lists with what the ledger knows, and tell of every difference: finds what notifications missed."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime

from rag.errors import Conflict
from rag.ingest.change_events import ObjectChange
from rag.models import ObjectState
from rag.ports import Catalog, ObjectStore
from rag.sources import Source

REMEDY = "restore what is gone, or confirm with `python -m consumers reconcile --confirm`"
MASS = 20  # deletions that are always believed
MASS_SHARE = 0.5  # of all documents: more needs a confirmation


async def differences(
    source: Source, index_id: str, objects: ObjectStore, catalog: Catalog, *, confirmed: bool = False
) -> list[ObjectChange]:
    """What to announce so that the index follows the source again.

    Raises Conflict when over half of the source's documents would go and ``confirmed`` is False: an emptied folder or a wrong
    prefix looks just like a deletion. What was found to have changed is in the error's ``changes``.
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
    """Whether so many would go that an emptied folder, a truncated table or a wrong prefix is likelier than a wish."""
    return gone > MASS and gone > MASS_SHARE * known


class MassDeletion(Conflict):
    """``changes``: what else differs, and may be announced."""

    def __init__(self, message: str, changes: list[ObjectChange]) -> None:
        super().__init__(message)
        self.changes = changes


def compare(
    listed: Mapping[str, ObjectState], known: Mapping[str, str]
) -> tuple[list[ObjectChange], list[ObjectChange]]:
    """(changed or new, gone). ``known``: uri → change_token."""
    now = datetime.now(UTC)
    changed = [
        ObjectChange(uri, state.modified, "listing", version=state.change_token)
        for uri, state in sorted(listed.items())
        if known.get(uri) != state.change_token
    ]
    gone = [ObjectChange(uri, now, "listing", is_deletion=True) for uri in sorted(known.keys() - listed.keys())]
    return changed, gone


def is_document(uri: str) -> bool:
    """Not a folder marker, an editor's backup or a file that is still being written under a temporary name."""
    name = uri.rsplit("/", 1)[-1]
    return bool(name) and not name.startswith((".", "~$")) and not name.endswith((".part", ".tmp", "~"))
