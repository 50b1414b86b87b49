"""``POST /v1/search``: the chunks that the caller may see, best first."""

from __future__ import annotations

from fastapi import APIRouter

from gateway.dependencies import Asking, Backend, access_of
from gateway.messages import HitMessage, SearchRequest, SearchResponse
from rag.answer.answering import Stopwatch, find
from rag.telemetry import span, trace_id

router = APIRouter(prefix="/v1", tags=["questions"])


@router.post("/search")
async def search(asked: SearchRequest, caller: Asking, services: Backend) -> SearchResponse:
    """Find chunks by meaning and by words."""
    access = access_of(caller, asked.filters)
    watch = Stopwatch()
    with watch.time("total"), span("answers.search", top_k=asked.top_k):
        hits = await find(asked.query, access, asked.top_k, services, watch)
    return SearchResponse(
        hits=[HitMessage.of_hit(marker, hit) for marker, hit in enumerate(hits, 1)],
        timings=watch.seconds,
        trace_id=trace_id(),
        index_version=services.spec.index_id,
    )
