"""Plain text: blank lines separate paragraphs."""

from __future__ import annotations

import re
from collections.abc import Iterator

from rag.ingest.parsing.decoding import decode
from rag.ingest.parsing.elements import Element, assemble, clean
from rag.ingest.parsing.sniffing import TEXT
from rag.models import BlockKind, ParsedDocument

_ITEM = re.compile(r"[ \t]*(?:[-*•‣▪◦]|\d{1,3}[.)]|[a-zA-Z][.)])[ \t]+\S")


def parse(content: bytes, name: str) -> ParsedDocument:
    return assemble(paragraphs(decode(content)), name=name, media_type=TEXT)


def paragraphs(text: str) -> Iterator[Element]:
    """Yield the paragraphs and list items of a text."""
    for paragraph in re.split(r"\n[ \t]*\n\s*", clean(text)):
        yield from _elements(paragraph)


def _elements(paragraph: str) -> list[Element]:
    """Return a paragraph, or its items when it is a list. Lines that follow an item belong to that item."""
    lines = paragraph.split("\n")
    if not _ITEM.match(lines[0]) or sum(bool(_ITEM.match(line)) for line in lines) < 2:
        return [Element(BlockKind.PARAGRAPH, paragraph)]
    items: list[list[str]] = []
    for line in lines:
        if _ITEM.match(line):
            items.append([])
        items[-1].append(line)
    return [Element(BlockKind.LIST_ITEM, "\n".join(item)) for item in items]
