"""From a question to the chunks that its caller may see now: one search, then one ledger read that drops what is not current."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError, model_validator

from rag.models import AccessFilter, Chunk, Hit, HybridQuery, Provenance, ScoredPoint
from rag.ports import Embedder, Ledger, SparseEncoder, VectorIndex
from rag.telemetry import HITS_DROPPED, logger, span

OVERFETCH = 8  # more than asked for, so that a few stale points cost no second search
MAX_FETCH = 400  # the second search is bounded: more garbage than this is work for the sweep, not for a question


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
) -> list[Hit]:
    """At most ``limit`` hits, best first. Every one is current, live and allowed at the time of the ledger read."""
    with span("answers.retrieve", limit=limit) as current:
        query = HybridQuery(await embedder.embed_query(question), sparse.encode_query(question))
        fetch = limit + OVERFETCH
        points = await vectors.search(index_id, query, access, limit=fetch)
        hits, dropped = await _current(points, access, ledger, index_id)
        if len(hits) < limit and dropped and len(points) == fetch < MAX_FETCH:
            points = await vectors.search(index_id, query, access, limit=min(MAX_FETCH, 4 * fetch))
            hits, dropped = await _current(points, access, ledger, index_id)
        HITS_DROPPED.inc(dropped)
        current.set_attributes({"hits": min(limit, len(hits)), "dropped": dropped})
        return hits[:limit]


async def _current(
    points: Sequence[ScoredPoint], access: AccessFilter, ledger: Ledger, index_id: str
) -> tuple[list[Hit], int]:
    """The hits that the ledger vouches for, in order, and how many points it, or their own shape, cost."""
    visible = await ledger.visible(index_id, [point.chunk_id for point in points], access) if points else {}
    found = (hit(point, visible[point.chunk_id]) for point in points if point.chunk_id in visible)
    hits = [each for each in found if each]
    return hits, len(points) - len(hits)


class _Fields(BaseModel):
    """A point's payload as ``rag.ingest.indexing.payload`` writes it. What comes back is checked: the index is not the judge."""

    model_config = ConfigDict(strict=True, extra="ignore")

    document_id: str
    ordinal: Annotated[int, Field(ge=0)]
    text: Annotated[str, StringConstraints(min_length=1)]
    start: Annotated[int, Field(ge=0)]
    end: int
    tokens: Annotated[int, Field(ge=0)]
    section: list[str]
    page: int | None = None
    source: str = ""
    language: str = ""
    media_type: str = ""

    @model_validator(mode="after")
    def _verbatim(self) -> _Fields:
        if self.end - self.start != len(self.text):
            raise ValueError("the span is not as long as the text")
        return self


def hit(point: ScoredPoint, provenance: Provenance) -> Hit | None:
    """The inverse of ``rag.ingest.indexing.payload``; None, and a line in the log, for a point that is not of that shape.

    Title and URI are the ledger's. The encoders' input is not in a payload, so ``chunk.input`` is heading path and text.
    """
    try:
        fields = _Fields.model_validate(point.payload)
        if fields.document_id != provenance.document_id:
            raise ValueError("the ledger knows the chunk as another document's")
    except ValueError as error:
        at = [str(each["loc"]) for each in error.errors()] if isinstance(error, ValidationError) else [str(error)]
        logger(__name__).error("malformed_point", chunk_id=point.chunk_id, fields=at)
        return None
    chunk = Chunk(
        chunk_id=point.chunk_id,
        ordinal=fields.ordinal,
        text=fields.text,
        input="\n".join((" > ".join(fields.section), fields.text)).lstrip("\n"),
        start=fields.start,
        end=fields.end,
        section=tuple(fields.section),
        tokens=fields.tokens,
        page=fields.page,
    )
    return Hit(chunk, point.score, provenance, fields.source, fields.language, fields.media_type)
