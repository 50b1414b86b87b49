"""``POST /v1/answers``: an answer with its evidence, as JSON or as server-sent events."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any

from fastapi import APIRouter
from fastapi.responses import Response, StreamingResponse
from fastapi.sse import format_sse_event

from gateway import problems
from gateway.answering import Answered, answer
from gateway.dependencies import Asking, Backend, access_of
from gateway.messages import AnswerRequest, AnswerResponse, CitationMessage
from rag.models import AccessFilter
from rag.telemetry import trace_id

if TYPE_CHECKING:
    from rag.wiring import Services

router = APIRouter(prefix="/v1", tags=["questions"])
_EVENTS = {"text/event-stream": {"schema": {"type": "string"}}}
_PIECES = re.compile(r"\s*(?:\S+\s*){1,12}")  # a dozen words a delta


@router.post("/answers", response_model=AnswerResponse, responses={200: {"content": _EVENTS}})
async def answers(asked: AnswerRequest, caller: Asking, services: Backend) -> Any:
    """Answer from what the caller may see, with citations. Abstains when the documents hold no answer."""
    access = access_of(caller, asked.filters)
    if asked.stream:
        return _stream(asked, access, services)
    return _message(await answer(asked.question, access, asked.top_k, services), services)


def _message(made: Answered, services: Services) -> AnswerResponse:
    return AnswerResponse(
        answer=made.answer.text,
        citations=[CitationMessage.of(citation) for citation in made.answer.citations],
        generator=made.answer.generator,
        abstained=made.answer.abstained,
        cached=made.cached,
        usage=dict(made.answer.usage),
        timings=made.timings,
        trace_id=trace_id(),
        index_version=services.spec.index_id,
    )


def _stream(asked: AnswerRequest, access: AccessFilter, services: Services) -> Response:
    async def events() -> AsyncIterator[bytes]:
        try:
            message = _message(await answer(asked.question, access, asked.top_k, services), services)
        except Exception as error:
            yield _event("error", json.loads(bytes(problems.of(error).body)))
            return
        fields = message.model_dump(mode="json")
        yield _event("citations", {"citations": fields.pop("citations")})
        for piece in _PIECES.findall(fields.pop("answer")):
            yield _event("delta", {"text": piece})
        yield _event("done", fields)

    return StreamingResponse(events(), media_type="text/event-stream", headers={"X-Accel-Buffering": "no"})


def _event(name: str, data: Any) -> bytes:
    return format_sse_event(event=name, data_str=json.dumps(data, ensure_ascii=False))
