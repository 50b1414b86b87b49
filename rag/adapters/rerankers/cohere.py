"""Cohere Rerank v2 behind the port Reranker."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import cohere

from rag.adapters.providers import RetryPolicy, call
from rag.errors import Unavailable
from rag.models import Hit

_MAX_DOCUMENTS = 1000  # per request, from Cohere's documentation


class CohereReranker:
    """Reranker of ``rag.ports``. ``base_url`` None means Cohere's own. It tries twice, not five times, because a question is waiting."""

    def __init__(
        self,
        api_key: str,
        base_url: str | None = None,
        model: str = "rerank-v3.5",
        *,
        timeout: float = 10.0,
        retry: RetryPolicy | None = None,
    ) -> None:
        self.name = model
        self._client = cohere.AsyncClientV2(api_key, base_url=base_url, timeout=timeout, max_retries=0)
        self._retry = retry or RetryPolicy(attempts=2, first_wait=0.2, longest_wait=2.0)

    async def rerank(self, question: str, hits: Sequence[Hit], *, limit: int) -> list[Hit]:
        shown = list(hits[:_MAX_DOCUMENTS])
        if not shown or limit < 1:
            return []
        documents = [hit.chunk.input for hit in shown]
        response = await call(
            f"reranker {self.name}",
            lambda: self._client.rerank(
                model=self.name, query=question, documents=documents, top_n=min(limit, len(shown)),
                request_options={"max_retries": 0},
            ),
            self._retry,
        )  # fmt: skip
        scores = {result.index: float(result.relevance_score) for result in response.results}
        if not scores or any(i not in range(len(shown)) or not math.isfinite(s) for i, s in scores.items()):
            raise Unavailable(
                f"reranker {self.name} answered with {len(scores)} results for {len(shown)} documents: check the model"
            )
        best = sorted(scores, key=lambda index: (-scores[index], index))
        return [replace(shown[index], score=scores[index]) for index in best[:limit]]
