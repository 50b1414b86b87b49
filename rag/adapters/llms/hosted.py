"""Adapter that puts any LlamaIndex chat model (``OpenAILike`` first) behind the port Generator."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

from llama_index.core.base.llms.types import ChatMessage, ChatResponse, MessageRole
from llama_index.core.llms import LLM

from rag.adapters.providers import RetryPolicy, call
from rag.answer.generation import Prompt, abstention, compose, drop_unknown_markers, prompt
from rag.models import Answer, Hit

_CHARACTERS_PER_TOKEN = 3  # a low estimate: English has four, German three and a half
_RESERVED = 1200  # tokens of the window for the instructions, the question and the answer


class HostedGenerator:
    """Generator and StreamingGenerator. Give ``llm`` no retries of its own (``max_retries=0``), because this class retries.

    ``context_window`` bounds the sources in the prompt. None means the window that the LlamaIndex class declares for its model.
    """

    def __init__(self, llm: LLM, *, context_window: int | None = None, retry: RetryPolicy | None = None) -> None:
        self.name = llm.metadata.model_name
        self._llm = llm
        self._characters = max(
            1000, ((context_window or llm.metadata.context_window) - _RESERVED) * _CHARACTERS_PER_TOKEN
        )
        self._retry = retry or RetryPolicy(attempts=3, longest_wait=5.0)

    async def generate(self, question: str, hits: Sequence[Hit]) -> Answer:
        if not hits:
            return abstention(self.name)
        request = prompt(question, hits, characters=self._characters)
        response = await call(f"model {self.name}", lambda: self._llm.achat(_messages(request)), self._retry)
        return compose(response.message.content or "", request.hits, self.name, _usage(response))

    async def stream(self, question: str, hits: Sequence[Hit]) -> AsyncIterator[str | Answer]:
        """Stream an answer. Retry until its first text; a later failure is Unavailable, because half an answer is not an answer."""
        if not hits:
            yield abstention(self.name)
            return
        request = prompt(question, hits, characters=self._characters)
        received: list[str] = []
        usage: dict[str, int] = {}
        async for text in drop_unknown_markers(self._deltas(request, received, usage), len(request.hits)):
            yield text
        yield compose("".join(received), request.hits, self.name, usage)

    async def _deltas(self, request: Prompt, received: list[str], usage: dict[str, int]) -> AsyncIterator[str]:
        """Yield text as it arrives. Add all of it to ``received``, and the token counts to ``usage``."""
        once = RetryPolicy(attempts=1)

        async def begin() -> tuple[AsyncIterator[ChatResponse], ChatResponse | None]:
            responses = await self._llm.astream_chat(_messages(request), stream_options={"include_usage": True})
            return responses, await anext(responses, None)

        responses, response = await call(f"model {self.name}", begin, self._retry)
        while response is not None:
            usage.update(_usage(response))
            if response.delta:
                received.append(response.delta)
                yield response.delta
            response = await call(f"model {self.name}", lambda: _next(responses), once)


async def _next(responses: AsyncIterator[ChatResponse]) -> ChatResponse | None:
    return await anext(responses, None)


def _messages(request: Prompt) -> list[ChatMessage]:
    return [
        ChatMessage(role=MessageRole.SYSTEM, content=request.system),
        ChatMessage(role=MessageRole.USER, content=request.user),
    ]


def _usage(response: ChatResponse) -> dict[str, int]:
    """Return the tokens that the provider counted, under either set of names. Empty when the provider reports none."""
    raw = response.raw
    usage = raw.get("usage") if isinstance(raw, Mapping) else getattr(raw, "usage", None)
    names = {"input_tokens": ("prompt_tokens", "input_tokens"), "output_tokens": ("completion_tokens", "output_tokens")}
    counts = {ours: _first(usage, theirs) for ours, theirs in names.items()}
    return {name: count for name, count in counts.items() if count is not None}


def _first(usage: Any, names: Sequence[str]) -> int | None:
    for name in names:
        count = usage.get(name) if isinstance(usage, Mapping) else getattr(usage, name, None)
        if isinstance(count, int):
            return count
    return None
