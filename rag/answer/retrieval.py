"""Retrieval of the chunks that a caller may see now: one search, then one ledger read that drops chunks that are not current."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError, model_validator

from rag.models import SECTION_SEPARATOR, AccessFilter, Chunk, Hit, HybridQuery, Provenance, ScoredPoint
from rag.ports import Embedder, Ledger, SparseEncoder, VectorIndex
from rag.telemetry import HITS_DROPPED, logger, span

OVERFETCH = 8  # points beyond the limit, so that a few stale points do not cause a second search
MAX_FETCH = 400  # bound of the second search; the sweep removes larger amounts of garbage


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
    """Return at most ``limit`` hits, best first. Each is current, live and allowed at the time of the ledger read."""
    with span("answers.retrieve", limit=limit) as current:
        query = HybridQuery(await embedder.embed_query(question), sparse.encode_query(question))
        fetch = limit + OVERFETCH
        points = await vectors.search(index_id, query, access, limit=fetch)
        hits, dropped = await _visible_hits(points, access, ledger, index_id)
        if len(hits) < limit and dropped and len(points) == fetch < MAX_FETCH:
            points = await vectors.search(index_id, query, access, limit=min(MAX_FETCH, 4 * fetch))
            hits, dropped = await _visible_hits(points, access, ledger, index_id)
        HITS_DROPPED.inc(dropped)
        current.set_attributes({"hits": min(limit, len(hits)), "dropped": dropped})
        return hits[:limit]


async def _visible_hits(
    points: Sequence[ScoredPoint], access: AccessFilter, ledger: Ledger, index_id: str
) -> tuple[list[Hit], int]:
    """Return the well-formed hits that are visible according to the ledger, in order, and the number of dropped points."""
    visible = await ledger.visible(index_id, [point.chunk_id for point in points], access) if points else {}
    decoded = (hit(point, visible[point.chunk_id]) for point in points if point.chunk_id in visible)
    hits = [each for each in decoded if each]
    return hits, len(points) - len(hits)


class _Fields(BaseModel):
    """A point's payload as ``rag.ingest.indexing.payload`` writes it. It is validated, because the index is not trusted."""

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
            raise ValueError("the span and the text differ in length")
        return self


def hit(point: ScoredPoint, provenance: Provenance) -> Hit | None:
    """Return the hit of a point: the inverse of ``rag.ingest.indexing.payload``. Log a malformed point and return None.

    Title and URI come from the ledger. A payload does not contain the encoders' input, so ``chunk.input`` is heading path and text.
    """
    try:
        fields = _Fields.model_validate(point.payload)
        if fields.document_id != provenance.document_id:
            raise ValueError("in the ledger, the chunk belongs to another document")
    except ValueError as error:
        faults = [str(each["loc"]) for each in error.errors()] if isinstance(error, ValidationError) else [str(error)]
        logger(__name__).error("malformed_point", chunk_id=point.chunk_id, fields=faults)
        return None
    chunk = Chunk(
        chunk_id=point.chunk_id,
        ordinal=fields.ordinal,
        text=fields.text,
        input="\n".join((SECTION_SEPARATOR.join(fields.section), fields.text)).lstrip("\n"),
        start=fields.start,
        end=fields.end,
        section=tuple(fields.section),
        tokens=fields.tokens,
        page=fields.page,
    )
    return Hit(chunk, point.score, provenance, fields.source, fields.language, fields.media_type)
