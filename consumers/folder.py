"""A watched folder: it is listed again and again, and each difference from the last listing is announced.

A mass deletion needs a confirmation first, because an unmounted folder looks just like an emptied one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from consumers.listing import REMEDY, compare, is_document, is_mass
from rag.ingest.change_events import ObjectChange
from rag.ports import Catalog, ObjectStore
from rag.sources import Source
from rag.telemetry import logger

_log = logger(__name__)


class FolderStream:
    """The stream of a folder. It starts from the documents in the ledger, so it finds the changes of the time when no process watched."""

    def __init__(self, source: Source, objects: ObjectStore, catalog: Catalog, index_id: str, *, every: float) -> None:
        self.source = source
        self._objects = objects
        self._catalog = catalog
        self._index_id = index_id
        self._every = every
        self._known: dict[str, str] | None = None
        self._listed: dict[str, str] = {}
        self._held_back = False

    async def receive(self) -> Sequence[ObjectChange]:
        """List the folder and return the differences. Deletions that need a confirmation are held back and logged."""
        if self._known is None:
            inventory = await self._catalog.inventory(self._index_id, self.source.name)
            self._known = {uri: change_token for uri, (_, change_token) in inventory.items()}
        else:
            await asyncio.sleep(self._every)
        listed = {
            state.uri: state async for state in self._objects.list(self.source.base_uri) if is_document(state.uri)
        }
        self._listed = {uri: state.change_token for uri, state in listed.items()}
        changed, gone = compare(listed, self._known)
        if not is_mass(len(gone), len(self._known)):
            self._held_back = False
            return changed + gone
        if not self._held_back:  # log it once, not at every listing
            _log.error(
                "folder.mass_deletion", source=self.source.name, gone=len(gone), known=len(self._known), remedy=REMEDY
            )
        self._held_back = True
        self._listed |= {change.uri: self._known[change.uri] for change in gone}
        return changed

    def decode(self, message: ObjectChange) -> Sequence[ObjectChange]:
        return (message,)

    async def handle(self, changes: Sequence[ObjectChange]) -> Sequence[ObjectChange]:
        return changes

    async def commit(self, messages: Sequence[ObjectChange]) -> None:
        self._known = self._listed
