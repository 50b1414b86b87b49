"""``POST /v1/search``: the chunks that the caller may see, best first."""

from __future__ import annotations

from fastapi import APIRouter

from gateway.auditing import Audited
from gateway.dependencies import Asking, Backend, access_of
from gateway.messages import HitMessage, SearchRequest, SearchResponse
from rag.telemetry import trace_id

router = APIRouter(prefix="/v1", tags=["questions"])


@router.post("/search")
async def search(request: SearchRequest, caller: Asking, services: Backend, audit: Audited) -> SearchResponse:
    """Find chunks by meaning and by words."""
    access = access_of(caller, request.filters)
    async with audit.asking("query.search", request.query) as recorded:
        found = await services.answering.search(request.query, access, top_k=request.top_k)
        recorded.add_documents(hit.provenance.document_id for hit in found.hits)
    return SearchResponse(
        hits=[HitMessage.of_hit(marker, hit) for marker, hit in enumerate(found.hits, 1)],
        timings=found.timings,
        trace_id=trace_id(),
        index_version=services.spec.index_id,
    )
