"""Artifacts: parsed text, chunks and vectors of a document version, which a step leaves in the object store for the next step.

A key is ``<index>/<shard>/<document>/<revision>-<version>/<step>``. ``index`` is the fingerprint of all steps, and ``version`` that of
content and media type, so a key names everything that its content depends on. ``revision`` is the ledger's when the derivation began.
It fences: of all derivations from one revision, one swap wins. So artifacts of an older revision that the ledger does not list
can never be listed again, and may be deleted. Nothing is pickled.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TypeVar

from pydantic import TypeAdapter

from rag.errors import Conflict
from rag.ids import fingerprint
from rag.ingest.embedding import dump, load
from rag.models import Chunk, DocumentRecord, Embedding, ObjectState, ParsedDocument
from rag.ports import ObjectStore

_PARSED = TypeAdapter(ParsedDocument)
_CHUNKS = TypeAdapter(tuple[Chunk, ...])
_KEY = re.compile(r"[^/]+/[0-9a-f]{2}/([^/]+)/(\d+)-[^/]+/[^/]+")
Item = TypeVar("Item")
CONTAINER = "artifacts://store"
SHARDS = 256  # of an index, by the first digits of the document id: maintenance lists one at a time


@dataclass(frozen=True, slots=True)
class Stored:
    """An artifact in the store. ``revision`` is that of its key."""

    key: str
    document_id: str
    revision: int
    modified: datetime


@dataclass(frozen=True, slots=True)
class Artifacts:
    """Typed reads and writes. A missing artifact is a Conflict: its version was overtaken, or an earlier asset was never materialized."""

    objects: ObjectStore

    def key(self, index_id: str, document_id: str, revision: int, version: str, step: str) -> str:
        return f"{index_id}/{shard_of(document_id)}/{document_id}/{revision}-{version}/{step}"

    async def exists(self, key: str) -> bool:
        return await self.objects.head(f"{CONTAINER}/{key}") is not None

    async def put_parsed(self, key: str, parsed: ParsedDocument) -> None:
        await self._put(key, _PARSED.dump_json(parsed))

    async def parsed(self, key: str) -> ParsedDocument:
        return await self._read(key, _PARSED.validate_json)

    async def put_chunks(self, key: str, chunks: Sequence[Chunk]) -> None:
        await self._put(key, _CHUNKS.dump_json(tuple(chunks)))

    async def chunks(self, key: str) -> tuple[Chunk, ...]:
        return await self._read(key, _CHUNKS.validate_json)

    async def put_embeddings(self, key: str, embeddings: Mapping[str, Embedding]) -> None:
        await self._put(key, dump(embeddings))

    async def embeddings(self, key: str) -> Mapping[str, Embedding]:
        return await self._read(key, load)

    async def delete(self, keys: Sequence[str]) -> None:
        await self.objects.delete([f"{CONTAINER}/{key}" for key in keys])

    async def listed(self, index_id: str, shard: str, document_id: str = "") -> list[Stored]:
        """Return the artifacts of a shard, or of one document of the shard."""
        prefix = f"{CONTAINER}/{index_id}/{shard}/{document_id}".rstrip("/")
        found = [_stored(state) async for state in self.objects.list(prefix)]
        return [each for each in found if each]

    async def delete_superseded(self, index_id: str, record: DocumentRecord) -> None:
        """Delete the document's artifacts of revisions before the recorded one, except those that the record lists."""
        document_id = record.document_id
        stored = await self.listed(index_id, shard_of(document_id), document_id)
        if old := [each.key for each in stored if is_superseded(each, record)]:
            await self.delete(old)

    async def _put(self, key: str, content: bytes) -> None:
        await self.objects.put(f"{CONTAINER}/{key}", content)

    async def _read(self, key: str, parse: Callable[[bytes], Item]) -> Item:
        """Return the parsed artifact. A damaged one is deleted, because a step that finds it would use it again."""
        stored = await self.objects.get(f"{CONTAINER}/{key}")
        if stored is not None:
            try:
                return parse(stored.content)
            except ValueError:
                await self.delete([key])
        step = key.rsplit("/", 1)[-1]
        raise Conflict(
            f"artifact {key} is gone or damaged: materialize parsed_documents to vector_index again ({step} is missing)"
        )


def shard_of(document_id: str) -> str:
    return document_id[:2]


def shards() -> list[str]:
    return [f"{number:02x}" for number in range(SHARDS)]


def version_of(content_hash: str, media_type: str) -> str:
    """Return the part of a key that names content and media type of the store."""
    return fingerprint({"content": content_hash, "media_type": media_type})


def has_version(key: str, version: str, step: str) -> bool:
    return key.endswith(f"-{version}/{step}")


def is_of_revision(key: str, revision: int) -> bool:
    return key.split("/")[-2].startswith(f"{revision}-")


def beside(key: str, step: str) -> str:
    """Return the key of another step of the same derivation."""
    return f"{key.rpartition('/')[0]}/{step}"


def is_superseded(stored: Stored, record: DocumentRecord) -> bool:
    """Return whether no swap can list the artifact any more: an older revision's, and not listed now."""
    return stored.revision < record.revision and stored.key not in record.artifacts


def _stored(state: ObjectState) -> Stored | None:
    key = state.uri.removeprefix(f"{CONTAINER}/")
    match = _KEY.fullmatch(key)
    return Stored(key, match[1], int(match[2]), state.modified) if match else None
