"""The places that hold content of documents, each with its erasure, its check by a logical read, and the claim that it allows."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Protocol

from rag.ingest.artifacts import Artifacts, shard_of
from rag.models import Erased
from rag.ports import AnswerCache, Erasures, EventLog, ObjectStore, VectorIndex
from rag.sources import Sources
from schemas.topics import CHANGED, DEAD, INDEXED, TOPICS

DOCUMENTS_OF_CALL = 200
SOURCE_OBJECTS = "source objects"


class Store(Protocol):
    """A place that holds content of documents."""

    @property
    def name(self) -> str: ...

    def visible(self, documents: Sequence[Erased]) -> Sequence[Erased]:
        """Return those of the documents, none of them erased, that ``remains`` must report: the negative control."""

    async def erase(self, tenant: str, documents: Sequence[Erased]) -> None:
        """Erase all content of the documents. Idempotent."""

    async def remains(self, tenant: str, documents: Sequence[Erased]) -> set[str]:
        """Return the ids of the documents of which content is left."""

    def claim(self, now: datetime, documents: Sequence[Erased]) -> str:
        """Return the words of the certificate, after ``erase`` of the documents at ``now``."""


@dataclass(frozen=True, slots=True)
class SourceObjects:
    """The objects that the documents were read from, uploads and objects of rows included, in all versions.

    Those of the ``read_only`` sources stay, and the certificate says so. Admission refuses them from then on.
    """

    objects: ObjectStore
    sources: Sources
    read_only: Collection[str] = ()
    name: str = SOURCE_OBJECTS

    async def erase(self, tenant: str, documents: Sequence[Erased]) -> None:
        if uris := self._reachable(documents):
            await self.objects.erase(uris)

    async def remains(self, tenant: str, documents: Sequence[Erased]) -> set[str]:
        by_uri = {each.uri: each.document_id for each in documents}
        return {by_uri[uri] for uri in await self.objects.kept(self._reachable(documents))}

    def visible(self, documents: Sequence[Erased]) -> Sequence[Erased]:
        reachable = set(self._reachable(documents))
        return [each for each in documents if each.uri in reachable]

    def claim(self, now: datetime, documents: Sequence[Erased]) -> str:
        kept = sorted({each.source for each in documents}.intersection(self.read_only))
        left = (
            f"NOT erased: the objects of {', '.join(kept)}, which the platform may only read (READ_ONLY_SOURCES). Their owners must delete"
            " them; admission refuses them. Of other sources, "
        )
        return (left if kept else "") + (
            "erased: all versions, delete markers and unfinished uploads of buckets; files of folders. Not in reach: snapshots and"
            " backups of the storage, older generations of Google and Azure containers, and the rows of databases that objects were"
            " made from (admission refuses them), and objects of sources that are no longer configured"
        )

    def _reachable(self, documents: Sequence[Erased]) -> list[str]:
        """Return the uris that a configured source contains which the platform may write: no other one can be reached."""
        sources = [source for name, source in self.sources.by_name.items() if name not in self.read_only]
        return [each.uri for each in documents if each.uri and any(source.owns(each.uri) for source in sources)]


@dataclass(frozen=True, slots=True)
class ArtifactObjects:
    """Parsed text, chunks and vectors that the steps left, in every index."""

    artifacts: Artifacts
    ledger: Erasures
    name: str = "artifacts"

    async def erase(self, tenant: str, documents: Sequence[Erased]) -> None:
        for index_id in await self.ledger.index_ids():
            for each in documents:
                if keys := await self._keys(index_id, each.document_id):
                    await self.artifacts.delete(keys)

    async def remains(self, tenant: str, documents: Sequence[Erased]) -> set[str]:
        indexes = await self.ledger.index_ids()
        return {
            each.document_id for each in documents for index in indexes if await self._keys(index, each.document_id)
        }

    def visible(self, documents: Sequence[Erased]) -> Sequence[Erased]:
        return documents

    def claim(self, now: datetime, documents: Sequence[Erased]) -> str:
        return "erased: every artifact below the document's prefix, of every index"

    async def _keys(self, index_id: str, document_id: str) -> list[str]:
        return [each.key for each in await self.artifacts.listed(index_id, shard_of(document_id), document_id)]


@dataclass(frozen=True, slots=True)
class Points:
    """The points of the documents in every collection, and their bytes in the collections' files."""

    vectors: VectorIndex
    ledger: Erasures
    name: str = "vector index"

    async def erase(self, tenant: str, documents: Sequence[Erased]) -> None:
        for index_id in await self._collections():
            points = [point for _, point in await self._points(index_id, documents)]
            if points:
                await self.vectors.delete(index_id, points)
            await self.vectors.purge(index_id)

    async def remains(self, tenant: str, documents: Sequence[Erased]) -> set[str]:
        found: set[str] = set()
        for index_id in await self._collections():
            found |= {document_id for document_id, _ in await self._points(index_id, documents)}
        return found

    def visible(self, documents: Sequence[Erased]) -> Sequence[Erased]:
        return documents

    def claim(self, now: datetime, documents: Sequence[Erased]) -> str:
        return (
            f"erased from every collection, and the segments that held the points rewritten until {now:%Y-%m-%d %H:%M} UTC. Qdrant"
            " leaves segments of less than 100 points and the tail of its write-ahead log as they are until more is written"
        )

    async def _collections(self) -> list[str]:
        return [each for each in await self.ledger.index_ids() if await self.vectors.exists(each)]

    async def _points(self, index_id: str, documents: Sequence[Erased]) -> list[tuple[str, str]]:
        """Return (document id, point id) of the documents' points, also of those that the ledger does not know."""
        found = []
        for start in range(0, len(documents), DOCUMENTS_OF_CALL):
            ids = [each.document_id for each in documents[start : start + DOCUMENTS_OF_CALL]]
            points = [point async for point, _ in self.vectors.scroll(index_id, documents=ids)]
            for point in await self.vectors.retrieve(index_id, points):
                found.append((str(point.payload["document_id"]), point.point_id))
        return found


@dataclass(frozen=True, slots=True)
class CachedAnswers:
    """Answers and notes of uploads that rest on the documents."""

    cache: AnswerCache
    name: str = "answer cache"

    async def erase(self, tenant: str, documents: Sequence[Erased]) -> None:
        await self.cache.forget([each.document_id for each in documents])

    async def remains(self, tenant: str, documents: Sequence[Erased]) -> set[str]:
        return await self.cache.rests_on([each.document_id for each in documents])

    def visible(self, documents: Sequence[Erased]) -> Sequence[Erased]:
        return ()  # a document that nobody asked about is in no answer

    def claim(self, now: datetime, documents: Sequence[Erased]) -> str:
        return (
            "erased: every answer that was made from the documents. A Redis that refuses to rewrite its append-only file keeps the bytes"
            " until it does so itself"
        )


@dataclass(frozen=True, slots=True)
class LedgerRows:
    """Names, titles, chunks and cached vectors in the ledger."""

    ledger: Erasures
    name: str = "ledger"

    async def erase(self, tenant: str, documents: Sequence[Erased]) -> None:
        await self.ledger.forget(tenant, [each.document_id for each in documents])

    async def remains(self, tenant: str, documents: Sequence[Erased]) -> set[str]:
        return await self.ledger.remembered(tenant, [each.document_id for each in documents])

    def visible(self, documents: Sequence[Erased]) -> Sequence[Erased]:
        return documents

    def claim(self, now: datetime, documents: Sequence[Erased]) -> str:
        return (
            "erased but for the documents' pseudonyms. Batches of Dagster runs name the documents for one day. PostgreSQL keeps old row"
            " versions until vacuum, and its write-ahead log until it is recycled; neither holds text of documents"
        )


@dataclass(frozen=True, slots=True)
class EventRecords:
    """Events about the documents, which hold their uris but no text."""

    events: EventLog
    name: str = "events"

    async def erase(self, tenant: str, documents: Sequence[Erased]) -> None:
        tombstones = [(each.document_id, None) for each in documents]
        for topic in (CHANGED, INDEXED, DEAD):
            await self.events.publish(topic, tombstones)

    async def remains(self, tenant: str, documents: Sequence[Erased]) -> set[str]:
        return set()

    def visible(self, documents: Sequence[Erased]) -> Sequence[Erased]:
        return ()  # a read would have to compare every record of the log

    def claim(self, now: datetime, documents: Sequence[Erased]) -> str:
        topics = [TOPICS[name] for name in (CHANGED, INDEXED, DEAD)]
        soon = now + timedelta(milliseconds=max(topic.compaction_ms for topic in topics))
        last = now + timedelta(milliseconds=max(topic.retention_ms or 0 for topic in topics))
        return (
            f"tombstones written: the events, which hold uris and no text, age out about {soon:%Y-%m-%d} in partitions that receive"
            f" events, and {last:%Y-%m-%d} at the latest"
        )
