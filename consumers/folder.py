"""A watched folder: it is listed after each notice of a change, and by the clock. Each difference from the last listing is announced."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence

from consumers.listing import Records, compare, differences, list_documents
from rag.adapters.objects.watching import FolderWatcher
from rag.ingest.change_events import ObjectChange
from rag.ingest.deletions import is_mass
from rag.ingest.roots import Roots
from rag.models import ObjectState
from rag.ports import ObjectStore
from rag.settings import SourceSettings
from rag.sources import Source
from rag.telemetry import logger
from rag.wiring import Services

_log = logger(__name__)


def streams(chosen: SourceSettings, opened: Services) -> Mapping[str, FolderStream]:
    """Make the stream of the folder."""
    settings = opened.settings
    stream = FolderStream(
        chosen.source(),
        opened.objects,
        opened.ledger,
        opened.spec.index_id,
        every=settings.poll_seconds,
        wait=FolderWatcher(settings.inbox_dir).wait if settings.inbox_dir else asyncio.sleep,
    )
    return {chosen.name: stream}


class FolderStream:
    """The stream of a folder. It starts from the documents in the ledger, so it finds the changes of the time when no process watched.

    A mass deletion is left to the reconcile, which compares with the ledger, holds it and reports it until it is confirmed.
    """

    def __init__(
        self,
        source: Source,
        objects: ObjectStore,
        ledger: Records,
        index_id: str,
        *,
        every: float,
        wait: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        """``wait`` returns after the given seconds at the latest, and earlier when it notices a change."""
        self.source = source
        self._objects = objects
        self._ledger = ledger
        self._roots = Roots(objects, ledger)
        self._index_id = index_id
        self._every = every
        self._wait = wait
        self._known: dict[str, ObjectState] | None = None
        self._listed: dict[str, ObjectState] = {}

    async def receive(self) -> Sequence[ObjectChange]:
        """List the folder and return the differences. Raises Unavailable when it is not the folder that was watched."""
        if self._known is None:
            found = await differences(self.source, self._index_id, self._objects, self._ledger)
            self._listed = found.listed
            if not found.changes:
                self._known = self._listed
            return found.changes
        await self._wait(self._every)
        self._listed = await list_documents(self.source, self._objects, self._roots, self._known)
        changed, gone = compare(self._listed, self._known)
        if is_mass(len(gone), len(self._known)):
            _log.error("folder.mass_deletion", source=self.source.name, gone=len(gone), known=len(self._known))
            gone = []
        if not changed and not gone:
            self._known = self._listed
        return changed + gone

    def decode(self, message: ObjectChange) -> Sequence[ObjectChange]:
        return (message,)

    async def handle(self, changes: Sequence[ObjectChange]) -> Sequence[ObjectChange]:
        return changes

    async def commit(self, messages: Sequence[ObjectChange]) -> None:
        self._known = self._listed
