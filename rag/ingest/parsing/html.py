"""HTML, through unstructured."""

from __future__ import annotations

import re

from rag.ingest.parsing.decoding import decode
from rag.ingest.parsing.elements import assemble
from rag.ingest.parsing.partitioned import elements_of, partition_html
from rag.ingest.parsing.sniffing import HTML
from rag.models import ParsedDocument

_TITLE_TAG = re.compile(r"<title[^>]{0,200}>([^<]{1,1000})</title", re.IGNORECASE)


def parse(content: bytes, name: str) -> ParsedDocument:
    text = decode(content, markup=True)
    match = _TITLE_TAG.search(text[:20_000])
    return assemble(elements_of(partition_html(text)), name=name, media_type=HTML, title=_unescape(match))


def _unescape(match: re.Match[str] | None) -> str:
    import html

    return html.unescape(match[1]) if match else ""
