"""Any LlamaIndex chat model (``OpenAILike`` first) behind the port Generator."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

from llama_index.core.base.llms.types import ChatMessage, ChatResponse, MessageRole
from llama_index.core.llms import LLM

from rag.adapters.providers import Patience, call
from rag.answer.generation import Prompt, abstention, compose, drop_unknown_markers, prompt
from rag.models import Answer, Hit

_CHARACTERS_PER_TOKEN = 3  # cautious: English has four, German three and a half
_ROOM = 1200  # tokens of the window that the instructions, the question and the answer take


class HostedGenerator:
    """Generator and StreamingGenerator. Give ``llm`` no retries of its own (``max_retries=0``): they are made here.

    ``context_window`` bounds the sources shown; None takes what the class says of its model.
    """

    def __init__(self, llm: LLM, *, context_window: int | None = None, patience: Patience | None = None) -> None:
        self.name = llm.metadata.model_name
        self._llm = llm
        self._characters = max(1000, ((context_window or llm.metadata.context_window) - _ROOM) * _CHARACTERS_PER_TOKEN)
        self._patience = patience or Patience(attempts=3, longest_wait=5.0)

    async def generate(self, question: str, hits: Sequence[Hit]) -> Answer:
        if not hits:
            return abstention(self.name)
        asked = prompt(question, hits, characters=self._characters)
        response = await call(f"model {self.name}", lambda: self._llm.achat(_messages(asked)), self._patience)
        return compose(response.message.content or "", asked.hits, self.name, _usage(response))

    async def stream(self, question: str, hits: Sequence[Hit]) -> AsyncIterator[str | Answer]:
        """Retried until the first piece; what breaks later is Unavailable, for half an answer is none."""
        if not hits:
            yield abstention(self.name)
            return
        asked = prompt(question, hits, characters=self._characters)
        seen: list[str] = []
        usage: dict[str, int] = {}
        async for piece in drop_unknown_markers(self._pieces(asked, seen, usage), len(asked.hits)):
            yield piece
        yield compose("".join(seen), asked.hits, self.name, usage)

    async def _pieces(self, asked: Prompt, seen: list[str], usage: dict[str, int]) -> AsyncIterator[str]:
        """Text as it comes; fills ``seen`` with all of it and ``usage`` at the end."""
        once = Patience(attempts=1)

        async def begin() -> tuple[AsyncIterator[ChatResponse], ChatResponse | None]:
            responses = await self._llm.astream_chat(_messages(asked), stream_options={"include_usage": True})
            return responses, await anext(responses, None)

        responses, response = await call(f"model {self.name}", begin, self._patience)
        while response is not None:
            usage.update(_usage(response))
            if response.delta:
                seen.append(response.delta)
                yield response.delta
            response = await call(f"model {self.name}", lambda: _next(responses), once)


async def _next(responses: AsyncIterator[ChatResponse]) -> ChatResponse | None:
    return await anext(responses, None)


def _messages(asked: Prompt) -> list[ChatMessage]:
    return [
        ChatMessage(role=MessageRole.SYSTEM, content=asked.system),
        ChatMessage(role=MessageRole.USER, content=asked.user),
    ]


def _usage(response: ChatResponse) -> dict[str, int]:
    """Tokens as the provider counted them, under either family of names; nothing when it does not tell."""
    raw = response.raw
    usage = raw.get("usage") if isinstance(raw, Mapping) else getattr(raw, "usage", None)
    names = {"input_tokens": ("prompt_tokens", "input_tokens"), "output_tokens": ("completion_tokens", "output_tokens")}
    found = {ours: _first(usage, theirs) for ours, theirs in names.items()}
    return {name: count for name, count in found.items() if count is not None}


def _first(usage: Any, names: Sequence[str]) -> int | None:
    for name in names:
        count = usage.get(name) if isinstance(usage, Mapping) else getattr(usage, name, None)
        if isinstance(count, int):
            return count
    return None
