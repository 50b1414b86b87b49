"""Which parser reads what: a new format is a module with ``parse`` and a line here."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module

from rag.errors import Rejected
from rag.models import ParsedDocument
from rag.parsing import sniffing

# Media type → module with ``parse(content: bytes, name: str) -> ParsedDocument``; loaded when first needed, for some are heavy.
PARSERS = {
    sniffing.PDF: "rag.parsing.pdf",
    sniffing.DOCX: "rag.parsing.docx",
    sniffing.HTML: "rag.parsing.html",
    sniffing.MARKDOWN: "rag.parsing.markdown",
    sniffing.CSV: "rag.parsing.csv",
    sniffing.TSV: "rag.parsing.csv",
    sniffing.JSON: "rag.parsing.json",
    sniffing.JSONL: "rag.parsing.json",
    sniffing.ROW: "rag.parsing.row",
    sniffing.TEXT: "rag.parsing.plain",
}

VERSION = 2  # raise it when the text or the blocks made from the same bytes change


def parse(content: bytes, name: str, media_type: str | None = None) -> ParsedDocument:
    """Raises Rejected: unsupported, encrypted, corrupt, empty, no_text, too_large."""
    return parser_of(sniffing.media_type_of(content, name, media_type))(content, name)


def parser_of(media_type: str) -> Callable[[bytes, str], ParsedDocument]:
    if media_type not in PARSERS:
        raise Rejected(f"no parser for {media_type!r}: convert it to one of {', '.join(PARSERS)}", reason="unsupported")
    parser: Callable[[bytes, str], ParsedDocument] = import_module(PARSERS[media_type]).parse
    return parser
