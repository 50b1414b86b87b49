"""Parsers by media type. A new format is a module with ``parse`` and a line here."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module

from rag.errors import Rejected
from rag.ingest.parsing import sniffing
from rag.models import ParsedDocument

# Media type → module with ``parse(content: bytes, name: str) -> ParsedDocument``. Modules are loaded on first use, because some are heavy.
PARSERS = {
    sniffing.PDF: "rag.ingest.parsing.pdf",
    sniffing.DOCX: "rag.ingest.parsing.docx",
    sniffing.HTML: "rag.ingest.parsing.html",
    sniffing.MARKDOWN: "rag.ingest.parsing.markdown",
    sniffing.CSV: "rag.ingest.parsing.csv",
    sniffing.TSV: "rag.ingest.parsing.csv",
    sniffing.JSON: "rag.ingest.parsing.json",
    sniffing.JSONL: "rag.ingest.parsing.json",
    sniffing.ROW: "rag.ingest.parsing.row",
    sniffing.TEXT: "rag.ingest.parsing.plain",
}

VERSION = 2  # raise it when the text or the blocks made from the same bytes change


def parse(content: bytes, name: str, media_type: str | None = None) -> ParsedDocument:
    """Parse a document. Raises Rejected: unsupported, encrypted, corrupt, empty, no_text, too_large."""
    return parser_of(sniffing.media_type_of(content, name, media_type))(content, name)


def parser_of(media_type: str) -> Callable[[bytes, str], ParsedDocument]:
    if media_type not in PARSERS:
        raise Rejected(f"no parser for {media_type!r}: convert it to one of {', '.join(PARSERS)}", reason="unsupported")
    parser: Callable[[bytes, str], ParsedDocument] = import_module(PARSERS[media_type]).parse
    return parser
