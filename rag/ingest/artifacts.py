"""Artifacts: parsed text, chunks and embeddings of a document version, which a step leaves in the object store for the next step.

A key is ``<index>/<document>/<content hash>/<step>``. So an artifact belongs to one version and one pipeline and is written once, and
all artifacts of a document can be found by their prefix and deleted. Nothing is pickled.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pydantic import TypeAdapter

from rag.errors import Conflict
from rag.ingest.embedding import dump, load
from rag.models import Chunk, Embedding, ParsedDocument
from rag.ports import ObjectStore

_PARSED = TypeAdapter(ParsedDocument)
_CHUNKS = TypeAdapter(tuple[Chunk, ...])
CONTAINER = "artifacts://store"


@dataclass(frozen=True, slots=True)
class Artifacts:
    """Typed reads and writes. A missing artifact is a Conflict: its version was overtaken, or an earlier asset was never materialized."""

    objects: ObjectStore

    def key(self, index_id: str, document_id: str, content_hash: str, step: str) -> str:
        return f"{index_id}/{document_id}/{content_hash}/{step}"

    async def exists(self, key: str) -> bool:
        return await self.objects.head(f"{CONTAINER}/{key}") is not None

    async def put_parsed(self, key: str, parsed: ParsedDocument) -> None:
        await self._put(key, _PARSED.dump_json(parsed))

    async def parsed(self, key: str) -> ParsedDocument:
        return _PARSED.validate_json(await self._get(key))

    async def put_chunks(self, key: str, chunks: Sequence[Chunk]) -> None:
        await self._put(key, _CHUNKS.dump_json(tuple(chunks)))

    async def chunks(self, key: str) -> tuple[Chunk, ...]:
        return _CHUNKS.validate_json(await self._get(key))

    async def put_embeddings(self, key: str, embeddings: Mapping[str, Embedding]) -> None:
        await self._put(key, dump(embeddings))

    async def embeddings(self, key: str) -> Mapping[str, Embedding]:
        return load(await self._get(key))

    async def delete(self, keys: Sequence[str]) -> None:
        await self.objects.delete([f"{CONTAINER}/{key}" for key in keys])

    async def _put(self, key: str, content: bytes) -> None:
        await self.objects.put(f"{CONTAINER}/{key}", content)

    async def _get(self, key: str) -> bytes:
        stored = await self.objects.get(f"{CONTAINER}/{key}")
        if stored is None:
            step = key.rsplit("/", 1)[-1]
            raise Conflict(
                f"artifact {key} is gone: materialize parsed_documents to vector_index again ({step} is missing)"
            )
        return stored.content
