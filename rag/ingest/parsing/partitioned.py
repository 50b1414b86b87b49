"""Unstructured's partitioners, without the model that they would download, and the conversion of its elements to ours."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator
from importlib import import_module
from types import ModuleType
from typing import Any

from rag.ingest.parsing.elements import Element, row
from rag.models import BlockKind

_KINDS = {"Title": BlockKind.HEADING, "ListItem": BlockKind.LIST_ITEM, "CodeSnippet": BlockKind.CODE}
_DROPPED_TEXT = re.compile(r"<(/?)(?:details|summary|figure|figcaption|form)(?=[\s>])", re.IGNORECASE)
_DROPPED = {"Header", "Footer", "PageBreak", "PageNumber", "Image"}


def partition_html(text: str) -> list[Any]:
    """Partition HTML. Unstructured drops some elements together with their text, so they are renamed first."""
    text = _DROPPED_TEXT.sub(r"<\1div", text)
    return list(
        _module("html").partition_html(text=text, languages=[""])
    )  # "" turns language detection off; ours is faster


def partition_docx(file: Any) -> list[Any]:
    return list(_module("docx").partition_docx(file=file, languages=[""]))


def _module(name: str) -> Any:
    _stay_offline()
    return import_module(f"unstructured.partition.{name}")


def elements_of(partition: list[Any]) -> Iterator[Element]:
    """Convert unstructured's elements. A table becomes one element per row, each with the table's header line."""
    for part in partition:
        category = type(part).__name__
        if category in _DROPPED:
            continue
        page = part.metadata.page_number
        if category == "Table":
            yield from _rows(part, page)
            continue
        kind = _KINDS.get(category, BlockKind.PARAGRAPH)
        depth = part.metadata.category_depth or 0
        yield Element(kind, part.text, level=depth + 1, page=page)


def _rows(table: Any, page: int | None) -> Iterator[Element]:
    from lxml import html

    markup = table.metadata.text_as_html
    if not markup:
        yield Element(BlockKind.PARAGRAPH, table.text, page=page)
        return
    lines = [
        row(cell.text_content() for cell in tr.iter("td", "th")) for tr in html.fragment_fromstring(markup).iter("tr")
    ]
    lines = [line for line in lines if line]
    if len(lines) == 1:
        yield Element(BlockKind.ROW, lines[0], page=page)
    for line in lines[1:]:
        yield Element(BlockKind.ROW, line, page=page, header=lines[0])


def _stay_offline() -> None:
    """Replace unstructured's spaCy module with a rule-based splitter.

    The module would download a model on first use. It only distinguishes narrative text from other text, and both are paragraphs here.
    """
    name = "unstructured.nlp.tokenize"
    if getattr(sys.modules.get(name), "__tidemark__", False):
        return
    os.environ.setdefault("UNSTRUCTURED_DISABLE_NOTICE", "1")
    rules = ModuleType(name)
    rules.__dict__.update(
        __tidemark__=True,
        sent_tokenize=lambda text: re.split(r"(?<=[.!?])\s+", text),
        word_tokenize=lambda text: re.findall(r"\w+|[^\w\s]", text),
        pos_tag=lambda text: [],
    )
    import_module("unstructured.nlp").__dict__["tokenize"] = sys.modules[name] = rules
    if (classify := sys.modules.get("unstructured.partition.text_type")) is not None:  # imported before this call
        classify.__dict__.update({verb: rules.__dict__[verb] for verb in ("sent_tokenize", "word_tokenize", "pos_tag")})
