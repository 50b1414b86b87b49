"""Any LlamaIndex embedding class (OpenAI-compatible first) behind the port Embedder."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path

import llama_index.core
import numpy as np
import tiktoken
from llama_index.core.base.embeddings.base import BaseEmbedding

from rag import ids
from rag.adapters.providers import Patience, call
from rag.errors import Unavailable
from rag.models import Vector

# OpenAI's limits: 8192 tokens a text, 300,000 tokens a request. Other servers count with other tokenizers: a margin of a tenth.
_TEXT_TOKENS = 8000
_REQUEST_TOKENS = 270_000
_CONCURRENT = 4  # requests under way; more only earns 429


class HostedEmbedder:
    """Embedder and Tokenizer. Texts per request are the class's own ``embed_batch_size``.

    Give ``embedding`` no retries of its own (``max_retries=0``): they are made here, with the provider's Retry-After.
    ``revision`` goes into the fingerprint: raise it when the same model name means another model.
    """

    def __init__(
        self,
        embedding: BaseEmbedding,
        *,
        dimensions: int,
        max_tokens: int = _TEXT_TOKENS,
        request_tokens: int = _REQUEST_TOKENS,
        concurrent: int = _CONCURRENT,
        encoding: str = "cl100k_base",
        revision: str = "",
        patience: Patience | None = None,
    ) -> None:
        self.name = embedding.model_name
        self.dimensions = dimensions
        self.max_tokens = max_tokens
        self.fingerprint = ids.fingerprint(
            {
                "class": embedding.class_name(),
                "model": embedding.model_name,
                "dimensions": dimensions,
                "max_tokens": max_tokens,
                "encoding": encoding,
                "revision": revision,
            }
        )
        self._embedding = embedding
        self._encoding = _encoding(encoding)
        self._request_tokens = request_tokens
        self._slots = concurrent
        self._patience = patience

    async def embed(self, texts: Sequence[str]) -> Sequence[Vector]:
        slots = asyncio.Semaphore(self._slots)

        async def one(batch: list[str]) -> list[Vector]:
            async with slots:
                found = await call(
                    f"embedder {self.name}", lambda: self._embedding.aget_text_embedding_batch(batch), self._patience
                )
            return self._vectors(found, len(batch))

        try:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(one(batch)) for batch in self._batches(texts)]
        except BaseExceptionGroup as failed:
            raise failed.exceptions[0] from None
        return [vector for task in tasks for vector in task.result()]

    async def embed_query(self, text: str) -> Vector:
        cut, _ = self._cut(text)
        found = await call(f"embedder {self.name}", lambda: self._embedding.aget_query_embedding(cut), self._patience)
        return self._vectors([found], 1)[0]

    def spans(self, text: str) -> Sequence[tuple[int, int]]:
        starts = self._starts(text)
        return [(start, end) for start, end in zip(starts, [*starts[1:], len(text)], strict=True) if end > start]

    def _batches(self, texts: Sequence[str]) -> Iterator[list[str]]:
        batch: list[str] = []
        filled = 0
        for text in texts:
            cut, tokens = self._cut(text)
            if batch and (len(batch) == self._embedding.embed_batch_size or filled + tokens > self._request_tokens):
                yield batch
                batch, filled = [], 0
            batch.append(cut)
            filled += tokens
        if batch:
            yield batch

    def _cut(self, text: str) -> tuple[str, int]:
        """The text within the limit, and its tokens. Providers refuse an empty input: it becomes a full stop."""
        starts = self._starts(text)
        if len(starts) > self.max_tokens:
            return text[: starts[self.max_tokens]], self.max_tokens
        return (text if text.strip() else "."), max(1, len(starts))

    def _starts(self, text: str) -> list[int]:
        tokens = self._encoding.encode(text, disallowed_special=())
        return self._encoding.decode_with_offsets(tokens)[1] if tokens else []

    def _vectors(self, found: Sequence[Sequence[float]], count: int) -> list[Vector]:
        if len(found) != count:
            raise Unavailable(f"embedder {self.name} gave {len(found)} vectors for {count} texts: ask the provider")
        vectors = []
        for values in found:
            vector = np.asarray(values, np.float32)
            if vector.shape != (self.dimensions,):
                raise Unavailable(
                    f"embedder {self.name} gave {vector.size} dimensions, the setting says {self.dimensions}: correct it"
                )
            length = float(np.linalg.norm(vector))
            if not 0 < length < float("inf"):
                raise Unavailable(f"embedder {self.name} gave a vector of length {length}: ask the provider")
            vectors.append(vector / np.float32(length))
        return vectors


@cache
def _encoding(name: str) -> tiktoken.Encoding:
    """tiktoken downloads its tables unless told where they are; LlamaIndex carries cl100k_base and o200k_base."""
    tables = Path(llama_index.core.__file__).parent / "_static" / "tiktoken_cache"
    os.environ.setdefault("TIKTOKEN_CACHE_DIR", str(tables))
    return tiktoken.get_encoding(name)
