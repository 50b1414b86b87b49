"""A caller who changes documents at their sources, and searches for the effect. Each document has a word that no other one has."""

from __future__ import annotations

import asyncio
import random
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from evals.generated_texts import generator
from evals.postgres_rows import Rows
from rag.errors import Unavailable
from rag.files import write_whole
from rag.settings import Settings

SEED = 7
GROUP = "group:staff"  # the demo caller is in it, and the documents are open to it
NOBODY = "group:nobody"


@dataclass
class Probe:
    """``word`` is the present word of each changed document, by source and number."""

    settings: Settings
    client: httpx.AsyncClient
    s3: Any
    rows: Rows | None = None
    words: random.Random = field(default_factory=lambda: generator(SEED))
    present: dict[tuple[str, int], str] = field(default_factory=dict)

    # -- changes: each returns the word whose appearance or absence shows the effect

    async def put(self, number: int) -> str:
        word = self._next("s3", number)
        await self._put(number, word)
        return word

    async def write(self, number: int) -> str:
        word = self._next("folder", number)
        path = Path(self.settings.inbox_dir or "") / key(number)
        await asyncio.to_thread(write_whole, path, text(number, word).encode())
        return word

    async def upsert(self, number: int) -> str:
        assert self.rows is not None  # noqa: S101  (the group that measures rows opens them)
        word = self._next("row", number)
        await self.rows.upsert(number, text(number, word))
        return word

    async def remove_object(self, number: int) -> str:
        word = await self._found("s3", number)
        await asyncio.to_thread(self.s3.delete_object, Bucket=self.settings.s3_bucket, Key=key(number))
        return word

    async def remove_file(self, number: int) -> str:
        word = await self._found("folder", number)
        await asyncio.to_thread((Path(self.settings.inbox_dir or "") / key(number)).unlink)
        return word

    async def remove_row(self, number: int) -> str:
        assert self.rows is not None  # noqa: S101
        word = await self._found("row", number)
        await self.rows.delete(number)
        return word

    async def close_label(self, number: int) -> str:
        """Put the same object with a label that names a group without members."""
        word = await self._found("s3", number)
        await self._put(number, word, principals=NOBODY)
        return word

    async def revoke(self, number: int) -> str:
        """Revoke the caller's group from the document by an access rule."""
        word = await self._found("s3", number)
        (document_id,) = {hit["document_id"] for hit in await self.hits(word) if word in hit["text"]}
        rule = {"effect": "revoke", "principal": GROUP, "document_id": document_id}
        (await self.client.post("/v1/access", json=rule)).raise_for_status()
        return word

    # -- searches

    async def finds(self, word: str) -> bool:
        return any(word in hit["text"] for hit in await self.hits(word))

    async def misses(self, word: str) -> bool:
        return not await self.finds(word)

    async def hits(self, word: str) -> list[dict[str, Any]]:
        """Search for the word alone: words that all documents share would rank others as high."""
        response = await self.client.post("/v1/search", json={"query": word, "top_k": 3})
        return list(response.raise_for_status().json()["hits"])

    async def _put(self, number: int, word: str, **labels: str) -> None:
        body = text(number, word).encode()
        await asyncio.to_thread(
            self.s3.put_object, Bucket=self.settings.s3_bucket, Key=key(number), Body=body, Metadata=labels
        )

    async def _found(self, source: str, number: int) -> str:
        """Return the present word. Raises Unavailable unless a search finds it: its absence would show nothing otherwise."""
        word = self.present[source, number]
        if not await self.finds(word):
            raise Unavailable(f"document {number} of {source} is not found before it is taken away")
        return word

    def _next(self, source: str, number: int) -> str:
        self.present[source, number] = word = "".join(self.words.choice("bcdfghjklmnpqrstvwxz") for _ in range(12))
        return word


def text(number: int, word: str) -> str:
    return f"# Freshness {number}\n\nThe newest word of this document is {word}.\n\n## Rest\n\nThis section stays.\n"


def key(number: int) -> str:
    return f"freshness/{number}.md"
