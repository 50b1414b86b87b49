"""``POST /v1/answers``: an answer with its evidence, as JSON or as server-sent events."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any

from fastapi import APIRouter
from fastapi.responses import Response, StreamingResponse
from fastapi.sse import format_sse_event

from gateway import problems
from gateway.auditing import Audit, Audited, Recorded
from gateway.dependencies import Asking, Backend, access_of
from gateway.messages import AnswerRequest, AnswerResponse, CitationMessage
from gateway.openapi import STREAM, event_schema
from governance.audit import code
from rag.answer.answering import Answered
from rag.models import AccessFilter
from rag.telemetry import trace_id

if TYPE_CHECKING:
    from rag.wiring import Services

router = APIRouter(prefix="/v1", tags=["questions"])


@router.post(
    "/answers", response_model=AnswerResponse, responses={200: {"content": {STREAM: {"schema": event_schema()}}}}
)
async def answers(request: AnswerRequest, caller: Asking, services: Backend, audit: Audited) -> Any:
    """Answer from the documents that the caller may see, with citations. Abstain when they contain no answer.

    A stream has ``delta`` events while the text is written, then ``citations`` and ``done`` with the final answer, or ``error``
    with a problem. Only ``done`` is binding: a claim that could not be verified is missing from it.
    """
    access = access_of(caller, request.filters)
    if request.stream:
        return _stream(request, access, services, audit)
    async with audit.asking("query.answer", request.question) as recorded:
        answered = await services.answering.answer(request.question, access, top_k=request.top_k)
        _add_sources(answered, recorded)
    return _message(answered, services)


def _add_sources(answered: Answered, recorded: Recorded) -> None:
    """Add the documents that the answer was made from. Of a cached answer, those are known that it cites."""
    read = [hit.provenance.document_id for hit in answered.hits]
    recorded.add_documents(read + [citation.document_id for citation in answered.answer.citations])
    recorded.details["generator"] = code(answered.answer.generator)


def _message(answered: Answered, services: Services) -> AnswerResponse:
    return AnswerResponse(
        answer=answered.answer.text,
        citations=[CitationMessage.of(citation) for citation in answered.answer.citations],
        generator=answered.answer.generator,
        abstained=answered.answer.abstained,
        cached=answered.is_cached,
        usage=dict(answered.answer.usage),
        timings=answered.timings,
        trace_id=trace_id(),
        index_version=services.spec.index_id,
    )


def _stream(request: AnswerRequest, access: AccessFilter, services: Services, audit: Audit) -> Response:
    async def events() -> AsyncIterator[bytes]:
        try:
            async with audit.asking("query.answer", request.question, streams=True) as recorded:
                async for piece in services.answering.stream(request.question, access, top_k=request.top_k):
                    if isinstance(piece, str):
                        yield _event("delta", {"text": piece})
                    else:
                        answered = piece
                _add_sources(answered, recorded)
            fields = _message(answered, services).model_dump(mode="json")
            yield _event("citations", {"citations": fields.pop("citations")})
            yield _event("done", fields)
        except Exception as error:
            yield _event("error", json.loads(bytes(problems.of(error).body)))

    return StreamingResponse(events(), media_type=STREAM, headers={"X-Accel-Buffering": "no"})


def _event(name: str, data: Any) -> bytes:
    return format_sse_event(event=name, data_str=json.dumps(data, ensure_ascii=False))
