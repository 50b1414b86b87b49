"""Markdown, converted to HTML for unstructured. Front matter gives the title and is not content.

Unstructured's own Markdown partitioner follows the rules of 2004, by which a nested list needs four spaces. Authors follow CommonMark
and GitHub.
"""

from __future__ import annotations

import re

from markdown_it import MarkdownIt

from rag.ingest.parsing.decoding import decode
from rag.ingest.parsing.elements import assemble, clean
from rag.ingest.parsing.partitioned import elements_of, partition_html
from rag.ingest.parsing.sniffing import MARKDOWN
from rag.models import ParsedDocument

_FRONT_MATTER = re.compile(r"\A---[ \t]*\n(.{0,20000}?)\n(?:---|\.\.\.)[ \t]*(?:\n|\Z)", re.DOTALL)
_markdown = MarkdownIt("commonmark").enable(["table", "strikethrough"])
_TITLE = re.compile(r"^title:[ \t]*(.{1,300})$", re.MULTILINE | re.IGNORECASE)


def parse(content: bytes, name: str) -> ParsedDocument:
    text = clean(decode(content))
    title = ""
    if (matter := _FRONT_MATTER.match(text)) and re.search(r"^[\w-]+:", matter[1], re.MULTILINE):
        text = text[matter.end() :]
        title_line = _TITLE.search(matter[1])
        title = title_line[1].strip().strip("\"'") if title_line else ""
    return assemble(elements_of(partition_html(_markdown.render(text))), name=name, media_type=MARKDOWN, title=title)
