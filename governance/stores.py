"""The places that hold content of documents, each with its erasure, its check by a logical read, and the claim that it allows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Protocol

from rag.ingest.artifacts import Artifacts, shard_of
from rag.models import Erased
from rag.ports import AnswerCache, Erasures, EventLog, ObjectStore, VectorIndex
from rag.sources import Sources
from schemas.topics import CHANGED, DEAD, INDEXED, TOPICS

DOCUMENTS_OF_CALL = 200


class Store(Protocol):
    """A place that holds content of documents."""

    @property
    def name(self) -> str: ...

    @property
    def proves(self) -> bool:
        """Whether ``remains`` sees every document that was not erased, so that a control must be found."""

    async def erase(self, tenant: str, documents: Sequence[Erased]) -> None:
        """Erase all content of the documents. Idempotent."""

    async def remains(self, tenant: str, documents: Sequence[Erased]) -> set[str]:
        """Return the ids of the documents of which content is left."""

    def claim(self, now: datetime) -> str:
        """Return the words of the certificate, after ``erase`` at ``now``."""


@dataclass(frozen=True, slots=True)
class SourceObjects:
    """The objects that the documents were read from, uploads and objects of rows included, in all versions."""

    objects: ObjectStore
    sources: Sources
    name: str = "source objects"
    proves: bool = True

    async def erase(self, tenant: str, documents: Sequence[Erased]) -> None:
        if uris := self._reachable(documents):
            await self.objects.erase(uris)

    async def remains(self, tenant: str, documents: Sequence[Erased]) -> set[str]:
        by_uri = {each.uri: each.document_id for each in documents}
        return {by_uri[uri] for uri in await self.objects.kept(self._reachable(documents))}

    def claim(self, now: datetime) -> str:
        return (
            "erased: all versions, delete markers and unfinished uploads of buckets; files of folders. Not in reach: snapshots and"
            " backups of the storage, older generations of Google and Azure containers, and the rows of databases that objects were"
            " made from (admission refuses them), and objects of sources that are no longer configured"
        )

    def _reachable(self, documents: Sequence[Erased]) -> list[str]:
        """Return the uris that a configured source contains: no other one can be reached."""
        sources = self.sources.by_name.values()
        return [each.uri for each in documents if each.uri and any(source.owns(each.uri) for source in sources)]


@dataclass(frozen=True, slots=True)
class ArtifactObjects:
    """Parsed text, chunks and vectors that the steps left, in every index."""

    artifacts: Artifacts
    ledger: Erasures
    name: str = "artifacts"
    proves: bool = True

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

    def claim(self, now: datetime) -> str:
        return "erased: every artifact below the document's prefix, of every index"

    async def _keys(self, index_id: str, document_id: str) -> list[str]:
        return [each.key for each in await self.artifacts.listed(index_id, shard_of(document_id), document_id)]


@dataclass(frozen=True, slots=True)
class Points:
    """The points of the documents in every collection, and their bytes in the collections' files."""

    vectors: VectorIndex
    ledger: Erasures
    name: str = "vector index"
    proves: bool = True

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

    def claim(self, now: datetime) -> str:
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
    proves: bool = False  # a document that nobody asked about is in no answer

    async def erase(self, tenant: str, documents: Sequence[Erased]) -> None:
        await self.cache.forget([each.document_id for each in documents])

    async def remains(self, tenant: str, documents: Sequence[Erased]) -> set[str]:
        return await self.cache.rests_on([each.document_id for each in documents])

    def claim(self, now: datetime) -> str:
        return (
            "erased: every answer that was made from the documents. A Redis that refuses to rewrite its append-only file keeps the bytes"
            " until it does so itself"
        )


@dataclass(frozen=True, slots=True)
class LedgerRows:
    """Names, titles, chunks and cached vectors in the ledger."""

    ledger: Erasures
    name: str = "ledger"
    proves: bool = True

    async def erase(self, tenant: str, documents: Sequence[Erased]) -> None:
        await self.ledger.forget(tenant, [each.document_id for each in documents])

    async def remains(self, tenant: str, documents: Sequence[Erased]) -> set[str]:
        return await self.ledger.remembered(tenant, [each.document_id for each in documents])

    def claim(self, now: datetime) -> str:
        return (
            "erased but for the documents' pseudonyms. Batches of Dagster runs name the documents for one day. PostgreSQL keeps old row"
            " versions until vacuum, and its write-ahead log until it is recycled; neither holds text of documents"
        )


@dataclass(frozen=True, slots=True)
class EventRecords:
    """Events about the documents, which hold their uris but no text."""

    events: EventLog
    name: str = "events"
    proves: bool = False  # a read would have to compare every record of the log

    async def erase(self, tenant: str, documents: Sequence[Erased]) -> None:
        tombstones = [(each.document_id, None) for each in documents]
        for topic in (CHANGED, INDEXED, DEAD):
            await self.events.publish(topic, tombstones)

    async def remains(self, tenant: str, documents: Sequence[Erased]) -> set[str]:
        return set()

    def claim(self, now: datetime) -> str:
        topics = [TOPICS[name] for name in (CHANGED, INDEXED, DEAD)]
        soon = now + timedelta(milliseconds=max(topic.compaction_ms for topic in topics))
        last = now + timedelta(milliseconds=max(topic.retention_ms or 0 for topic in topics))
        return (
            f"tombstones written: the events, which hold uris and no text, age out about {soon:%Y-%m-%d} in partitions that receive"
            f" events, and {last:%Y-%m-%d} at the latest"
        )
