"""A row of a database table, written to the object store by its source as
``{"table": ..., "key": ..., "title": ..., "columns": {name: value}}``, with the rendered ``text`` where the table has a template."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from rag.errors import Rejected
from rag.ingest.parsing.decoding import decode
from rag.ingest.parsing.elements import Element, assemble, one_line
from rag.ingest.parsing.json import LONG_STRING, load
from rag.ingest.parsing.plain import paragraphs
from rag.ingest.parsing.sniffing import ROW
from rag.models import BlockKind, ParsedDocument


def parse(content: bytes, name: str) -> ParsedDocument:
    try:
        value = load(decode(content))
    except (ValueError, RecursionError) as error:
        raise Rejected(
            f"row object {name!r} is not JSON ({error}): announce the row again", reason="corrupt"
        ) from error
    if not isinstance(value, dict) or not isinstance(value.get("columns"), dict):
        raise Rejected(f"row object {name!r} has no 'columns' object: announce the row again", reason="corrupt")
    title = one_line(str(value.get("title") or "")) or one_line(
        f"{value.get('table') or 'row'} {value.get('key') or ''}"
    )
    text = value.get("text")
    elements = paragraphs(text) if isinstance(text, str) else _elements(value["columns"], title)
    return assemble(elements, name=name, media_type=ROW, title=title)


def _elements(columns: dict[str, Any], title: str) -> Iterator[Element]:
    """Yield one record of all short columns, and one of each text column under the row's title and the column's name."""
    texts = {column: _text(value) for column, value in columns.items()}
    short = {column: text for column, text in texts.items() if text and not _is_long(text)}
    yield Element(
        BlockKind.RECORD, "\n".join(f"{column}: {one_line(text)}" for column, text in short.items()), section=()
    )
    for column, text in texts.items():
        if _is_long(text):
            yield Element(BlockKind.RECORD, text, header=column, section=(title, one_line(column)))


def _is_long(text: str) -> bool:
    return len(text) > LONG_STRING or "\n" in text.strip()


def _text(value: Any) -> str:
    if isinstance(value, (dict, list)):
        import json

        return json.dumps(value, ensure_ascii=False)
    return "" if value is None else str(value)
