"""Adapter that puts any LlamaIndex embedding class (OpenAI-compatible first) behind the port Embedder."""

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
from rag.adapters.providers import Refused, RetryPolicy, call
from rag.errors import ObjectUnavailable, Unavailable
from rag.models import Vector

# OpenAI's limits are 8192 tokens per text and 300,000 per request. Other servers count with other tokenizers, hence the margin.
_TEXT_TOKENS = 8000
_REQUEST_TOKENS = 270_000
_PROBE = "word"  # an input that no provider refuses
_CONCURRENT = 4  # requests under way; more would only be answered with 429


class HostedEmbedder:
    """Embedder and Tokenizer of ``rag.ports``. The ``embed_batch_size`` of ``embedding`` bounds the texts per request.

    Give ``embedding`` no retries of its own (``max_retries=0``): this class retries, and honours the provider's Retry-After.
    ``revision`` is part of the fingerprint: change it when the same model name comes to mean another model.
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
        retry: RetryPolicy | None = None,
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
        self._retry = retry

    async def embed(self, texts: Sequence[str]) -> Sequence[Vector]:
        slots = asyncio.Semaphore(self._slots)

        async def embed_batch(batch: list[str]) -> list[Vector]:
            async with slots:
                return await self._embed_batch(batch)

        try:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(embed_batch(batch)) for batch in self._batches(texts)]
        except BaseExceptionGroup as failed:
            raise failed.exceptions[0] from None
        return [vector for task in tasks for vector in task.result()]

    async def _embed_batch(self, batch: list[str]) -> list[Vector]:
        """Embed one batch. A refused batch is halved, so that an input at fault is refused alone.

        Raises ObjectUnavailable for that input, unless the provider refuses a plain word as well: then the settings are at fault.
        """
        try:
            return self._vectors(await self._request(batch), len(batch))
        except Refused as error:
            if len(batch) == 1:
                await self._request([_PROBE])
                raise ObjectUnavailable(
                    f"embedder {self.name} refuses an input that it is given alone: ask the provider",
                    reason="embedder_refused",
                ) from error
        half = len(batch) // 2
        return await self._embed_batch(batch[:half]) + await self._embed_batch(batch[half:])

    async def _request(self, batch: list[str]) -> Sequence[Sequence[float]]:
        name = f"embedder {self.name}"
        return await call(name, lambda: self._embedding.aget_text_embedding_batch(batch), self._retry)

    async def embed_query(self, text: str) -> Vector:
        cut, _ = self._cut(text)
        embedding = await call(f"embedder {self.name}", lambda: self._embedding.aget_query_embedding(cut), self._retry)
        return self._vectors([embedding], 1)[0]

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
        """Return the text cut to the limit, and its tokens. Providers refuse an empty input, so it becomes a full stop."""
        starts = self._starts(text)
        if len(starts) > self.max_tokens:
            return text[: starts[self.max_tokens]], self.max_tokens
        return (text if text.strip() else "."), max(1, len(starts))

    def _starts(self, text: str) -> list[int]:
        tokens = self._encoding.encode(text, disallowed_special=())
        return self._encoding.decode_with_offsets(tokens)[1] if tokens else []

    def _vectors(self, embeddings: Sequence[Sequence[float]], count: int) -> list[Vector]:
        if len(embeddings) != count:
            raise Unavailable(
                f"embedder {self.name} returned {len(embeddings)} vectors for {count} texts: ask the provider"
            )
        vectors = []
        for values in embeddings:
            vector = np.asarray(values, np.float32)
            if vector.shape != (self.dimensions,):
                raise Unavailable(
                    f"embedder {self.name} returned {vector.size} dimensions, but {self.dimensions} are set: correct the setting"
                )
            length = float(np.linalg.norm(vector))
            if not 0 < length < float("inf"):
                raise Unavailable(f"embedder {self.name} returned a vector of length {length}: ask the provider")
            vectors.append(vector / np.float32(length))
        return vectors


@cache
def _encoding(name: str) -> tiktoken.Encoding:
    """Load an encoding from the tables in LlamaIndex (cl100k_base, o200k_base). By default, tiktoken downloads its tables."""
    tables = Path(llama_index.core.__file__).parent / "_static" / "tiktoken_cache"
    os.environ.setdefault("TIKTOKEN_CACHE_DIR", str(tables))
    return tiktoken.get_encoding(name)
