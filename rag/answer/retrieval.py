"""From a question to the chunks that its caller may see now: a search, then a ledger read that drops every point that is not current."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

from pydantic import BaseModel, ConfigDict, StringConstraints, ValidationError

from rag.models import SECTION_SEPARATOR, AccessFilter, Chunk, Hit, HybridQuery, Provenance, ScoredPoint
from rag.ports import Embedder, Ledger, SparseEncoder, VectorIndex
from rag.telemetry import HITS_DROPPED, RETRIEVAL_BOUND, logger, span

OVERFETCH = 8  # more than requested, so that a few points that are not current cost no second search
MAX_FETCH = 2048  # bounds the cost of a question: more points that are not current are work for the sweep
GROWTH = 4  # each search fetches this many times the points of the one before


@dataclass(frozen=True, slots=True)
class Retrieved:
    """Hits, best first. ``is_complete`` is False when the bound was reached before the limit: more hits may exist."""

    hits: list[Hit]
    is_complete: bool


async def retrieve(
    question: str,
    access: AccessFilter,
    *,
    limit: int,
    embedder: Embedder,
    sparse: SparseEncoder,
    vectors: VectorIndex,
    ledger: Ledger,
    index_id: str,
) -> Retrieved:
    """Find at most ``limit`` hits. Every hit is current, live and allowed at the time of the ledger read.

    Points that are not current cannot starve a search: it fetches more until the limit is reached, the candidates end, or the
    bound is hit.
    """
    with span("answers.retrieve", limit=limit) as current:
        dense, ruled = await asyncio.gather(embedder.embed_query(question), ledger.ruled_scopes(access))
        query, access = HybridQuery(dense, sparse.encode_query(question)), access.under(ruled)
        fetch = limit + OVERFETCH
        while True:
            points = await vectors.search(index_id, query, access, limit=fetch)
            hits = await _current(points, access, ledger, index_id)
            if len(hits) >= limit or len(points) < fetch or fetch >= MAX_FETCH:
                break
            fetch = min(MAX_FETCH, GROWTH * fetch)
        is_complete = len(hits) >= limit or len(points) < fetch
        if not is_complete:
            RETRIEVAL_BOUND.inc()
        dropped = len(points) - len(hits)
        HITS_DROPPED.inc(dropped)
        current.set_attributes({"hits": min(limit, len(hits)), "dropped": dropped})
        return Retrieved(hits[:limit], is_complete)


async def _current(points: Sequence[ScoredPoint], access: AccessFilter, ledger: Ledger, index_id: str) -> list[Hit]:
    """Return a hit for each point that the ledger shows to the caller, in order."""
    visible = await ledger.visible(index_id, [point.point_id for point in points], access) if points else {}
    hits = (hit(point, visible[point.point_id]) for point in points if point.point_id in visible)
    return [each for each in hits if each]


class _Fields(BaseModel):
    """The chunk's own part of a payload, as ``rag.ingest.indexing.payload`` writes it. It is validated, because the ledger and not
    the index decides what is shown."""

    model_config = ConfigDict(strict=True, extra="ignore")

    document_id: str
    text: Annotated[str, StringConstraints(min_length=1)]
    section: list[str]


def hit(point: ScoredPoint, provenance: Provenance) -> Hit | None:
    """Join a point with its provenance. Return None, and log an error, for a point that does not match its provenance.

    Text and section come from the point, position and document facts from the ledger. The point is write-once, so all of them
    belong to one revision. A payload lacks the encoders' input, so ``chunk.input`` is the heading path and the text.
    """
    try:
        fields = _Fields.model_validate(point.payload)
        if fields.document_id != provenance.document_id:
            raise ValueError("the ledger records the point under another document")
        if provenance.end - provenance.start != len(fields.text):
            raise ValueError("the span is not as long as the text")
    except ValueError as error:
        at = [str(each["loc"]) for each in error.errors()] if isinstance(error, ValidationError) else [str(error)]
        logger(__name__).error("malformed_point", point_id=point.point_id, fields=at)
        return None
    chunk = Chunk(
        chunk_id=provenance.chunk_id,
        ordinal=provenance.ordinal,
        text=fields.text,
        input="\n".join((SECTION_SEPARATOR.join(fields.section), fields.text)).lstrip("\n"),
        start=provenance.start,
        end=provenance.end,
        section=tuple(fields.section),
        page=provenance.page,
    )
    return Hit(chunk, point.score, provenance, point.point_id)
