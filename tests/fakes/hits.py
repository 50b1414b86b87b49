"""Hits to answer from."""

from __future__ import annotations

from rag.models import Cause, Chunk, Hit, Provenance

CAUSE = Cause("documents.changed.v1", "epoch", 3, 42, run_id="run-7")


def hit(
    text: str,
    *,
    start: int = 0,
    above: str = "",
    section: tuple[str, ...] = (),
    score: float = 0.5,
    page: int | None = None,
) -> Hit:
    chunk = Chunk(
        chunk_id=f"chunk of {text[:40]}", ordinal=0, text=text, input=f"{above}\n{text}" if above else text,
        start=start, end=start + len(text), section=section, tokens=len(text.split()), page=page,
    )  # fmt: skip
    origin = Provenance("document-1", 1, "s3://documents/a.md", "A title", "version-1", CAUSE, chunk.chunk_id, 0, chunk.start,
                        chunk.end, page, "s3", "en", "text/markdown")  # fmt: skip
    return Hit(chunk, score, origin, f"point of {chunk.chunk_id}")
