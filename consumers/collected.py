"""A source that collects documents from elsewhere: its stream writes each as an object, and announces it like any object.

``Collector`` is all that a new source of this sort has to be. ``docs/sources.md`` shows one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Protocol

from rag.errors import Rejected
from rag.ids import object_name, object_uri
from rag.ingest.change_events import ObjectChange
from rag.ingest.tasks import windows
from rag.ingest.warehouse_rows import clipped
from rag.labels import PRINCIPALS_LABEL, SUBJECTS_LABEL, TITLE_LABEL, encode_label, join_label
from rag.ports import ObjectStore
from rag.sources import Source
from rag.telemetry import SOURCE_ERRORS, logger

_log = logger(__name__)

CONCURRENT_WRITES = 16
LABEL_BYTES = 1900  # S3 keeps 2 KB of user metadata, with the names of the labels


def _now() -> datetime:
    return datetime.now(UTC)


@dataclass(frozen=True, slots=True)
class Document:
    """A document as it is now. ``key`` names it within its source for ever; ``content`` is None when it is gone.

    ``principals`` of None leave the access to the source's rules, and an empty tuple grants access to no one. ``subjects`` identify
    the people whom the document is about.
    """

    key: str
    content: bytes | None
    media_type: str = ""
    title: str = ""
    principals: tuple[str, ...] | None = None
    subjects: tuple[str, ...] = ()
    occurred_at: datetime = field(default_factory=_now)

    def uri(self, source: Source) -> str:
        """Return the uri of the object that holds the document."""
        return object_uri(source.base_uri, object_name(self.key))

    def labels(self) -> dict[str, str]:
        """Return the labels of the object. Raises Rejected when they name more people than labels can hold."""
        labels = {TITLE_LABEL: encode_label(clipped(self.title))} if self.title else {}
        if self.principals is not None:
            labels[PRINCIPALS_LABEL] = join_label(self.principals)
        if self.subjects:
            labels[SUBJECTS_LABEL] = join_label(self.subjects)
        if len("".join(labels.values())) > LABEL_BYTES:
            raise Rejected(
                f"document {self.key[:80]!r} names {len(self.subjects)} people and {len(self.principals or ())} principals,"
                f" more than {LABEL_BYTES} bytes of labels hold: name groups instead",
                reason="too_many_names",
            )
        return labels


class Collector(Protocol):
    """The reader of one source. It remembers how far it is only in ``done``, so that a crash repeats changes and loses none."""

    async def collect(self) -> Sequence[Document]:
        """Wait a while for the next changes and return them, each document once. Changes that are not done are returned again.

        Raises Unavailable when the source does not answer or denies access.
        """

    async def done(self, documents: Sequence[Document]) -> None:
        """Remember that the documents of the last ``collect`` are stored and announced."""


class CollectedStream:
    """The ``Stream`` of a collector. The objects are written before the changes are announced, so a reader of an event finds them."""

    def __init__(self, source: Source, collector: Collector, objects: ObjectStore) -> None:
        self.source = source
        self._collector = collector
        self._objects = objects
        self._collected: dict[str, Document] = {}

    async def receive(self) -> Sequence[Document]:
        documents = await self._collector.collect()
        self._collected = {document.uri(self.source): document for document in documents}
        if not documents:
            await self._collector.done(())
        return documents

    def decode(self, message: Document) -> Sequence[ObjectChange]:
        is_deletion = message.content is None
        return (ObjectChange(message.uri(self.source), message.occurred_at, "poll", is_deletion=is_deletion),)

    async def handle(self, changes: Sequence[ObjectChange]) -> Sequence[ObjectChange]:
        """Write the objects. A document that cannot be one becomes a deletion: its older object shows content that it no longer has."""
        handled: list[ObjectChange] = []
        for batch in windows(changes, CONCURRENT_WRITES):
            handled += await asyncio.gather(*(self._write(change) for change in batch))
        await self._objects.delete([change.uri for change in handled if change.is_deletion])
        return handled

    async def commit(self, messages: Sequence[Document]) -> None:
        await self._collector.done(messages)

    async def _write(self, change: ObjectChange) -> ObjectChange:
        document = self._collected[change.uri]
        if document.content is None:
            return change
        try:
            labels = document.labels()
        except Rejected as error:
            SOURCE_ERRORS.labels(self.source.name, error.reason).inc()
            _log.warning("source.refused", source=self.source.name, reason=error.reason)
            return replace(change, is_deletion=True)
        await self._objects.put(change.uri, document.content, media_type=document.media_type, labels=labels)
        return change
