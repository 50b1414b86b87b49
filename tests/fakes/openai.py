"""OpenAI's wire format, as far as embeddings and chat completions go, as strict as the real one.

``FakeOpenAI.script`` holds answers that come before the real ones: 429 with Retry-After, 500, a hang.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
from collections import deque
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import tiktoken
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse


@dataclass
class Scripted:
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    hang: float = 0.0  # seconds before the answer


@dataclass
class FakeOpenAI:
    key: str = "sk-test"
    dimensions: int = 32
    most_inputs: int = 8
    most_tokens: int = 2000  # of a request
    text_tokens: int = 100
    refused: str | None = None  # inputs that contain this text are refused
    reply: str = "NO_ANSWER"
    break_off: bool = False  # a stream that ends in the middle
    script: deque[Scripted] = field(default_factory=deque)
    requests: list[dict[str, Any]] = field(default_factory=list)

    def app(self) -> FastAPI:
        app = FastAPI()
        app.post("/v1/embeddings")(self.embeddings)
        app.post("/v1/chat/completions")(self.chat)
        return app

    async def embeddings(self, request: Request) -> Response:
        body, refusal = await self._admit(request)
        if refusal:
            return refusal
        inputs = [body["input"]] if isinstance(body["input"], str) else body["input"]
        counts = [len(tiktoken.get_encoding("cl100k_base").encode(text, disallowed_special=())) for text in inputs]
        if not inputs or len(inputs) > self.most_inputs:
            return _error(400, f"'input' has {len(inputs)} items, at most {self.most_inputs}")
        if self.refused is not None and any(self.refused in text for text in inputs):
            return _error(400, "an input is not allowed")
        if "" in inputs or max(counts) > self.text_tokens or sum(counts) > self.most_tokens:
            return _error(400, f"input is empty or too long: {counts}")
        vectors = [self.vector(text, body.get("dimensions") or self.dimensions) for text in inputs]
        packed = body.get("encoding_format") == "base64"
        data = [
            {"object": "embedding", "index": index,
             "embedding": base64.b64encode(vector.tobytes()).decode() if packed else vector.tolist()}
            for index, vector in enumerate(vectors)
        ]  # fmt: skip
        usage = {"prompt_tokens": sum(counts), "total_tokens": sum(counts)}
        return JSONResponse({"object": "list", "data": data, "model": body["model"], "usage": usage})

    async def chat(self, request: Request) -> Response:
        body, refusal = await self._admit(request)
        if refusal:
            return refusal
        if [message["role"] for message in body["messages"]] != ["system", "user"]:
            return _error(400, "messages are to be system, user")
        frame = {"id": "c-1", "created": 1, "model": body["model"]}
        usage = {"prompt_tokens": 321, "completion_tokens": 12, "total_tokens": 333}
        if body.get("stream"):
            asked_usage = (body.get("stream_options") or {}).get("include_usage")
            return StreamingResponse(
                self._events(frame, usage if asked_usage else None), media_type="text/event-stream"
            )
        message = {"role": "assistant", "content": self.reply}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        return JSONResponse({**frame, "object": "chat.completion", "choices": [choice], "usage": usage})

    def vector(self, text: str, dimensions: int | None = None) -> np.ndarray:
        """Not of unit length: that is for the caller to see to."""
        seed = int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big")
        return (3 * np.random.default_rng(seed).standard_normal(dimensions or self.dimensions)).astype(np.float32)

    async def _admit(self, request: Request) -> tuple[dict[str, Any], Response | None]:
        body = await request.json()
        self.requests.append(body)
        if request.headers.get("authorization") != f"Bearer {self.key}":
            return body, _error(401, "Incorrect API key provided")
        scripted = self.script.popleft() if self.script else Scripted()
        await asyncio.sleep(scripted.hang)
        if scripted.status != 200:
            return body, _error(scripted.status, "scripted: the text of your document was ...", scripted.headers)
        return body, None

    async def _events(self, frame: dict[str, Any], usage: dict[str, int] | None) -> AsyncIterator[str]:
        frame = {**frame, "object": "chat.completion.chunk"}
        pieces = [self.reply[at : at + 3] for at in range(0, len(self.reply), 3)]  # cuts through markers
        yield _event({**frame, "choices": [{"index": 0, "delta": {"role": "assistant", "content": ""}}]})
        for number, piece in enumerate(pieces):
            if self.break_off and number == len(pieces) // 2:
                raise ConnectionResetError("scripted")
            yield _event({**frame, "choices": [{"index": 0, "delta": {"content": piece}}]})
        yield _event({**frame, "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]})
        if usage:
            yield _event({**frame, "choices": [], "usage": usage})
        yield "data: [DONE]\n\n"


def _event(value: dict[str, Any]) -> str:
    return f"data: {json.dumps(value)}\n\n"


def _error(status: int, message: str, headers: dict[str, str] | None = None) -> JSONResponse:
    body = {"error": {"message": message, "type": "invalid_request_error", "code": None, "param": None}}
    return JSONResponse(body, status, headers)
