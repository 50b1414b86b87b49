"""Wire format of a parsed document that leaves the sandbox: JSON, checked on arrival, because its sender has read hostile bytes."""

from __future__ import annotations

import json
import struct
from itertools import pairwise
from typing import Any

from rag.errors import Rejected
from rag.models import Block, BlockKind, ParsedDocument

ACCEPTED, REFUSED = b"+", b"-"
LENGTHS = struct.Struct("!II")  # of the request's JSON and of the content, which follow
REPLY = struct.Struct("!cQ")  # accepted or refused, and the length of the bytes that follow

_KINDS = list(BlockKind)


def dump(parsed: ParsedDocument) -> bytes:
    """Serialize a document. Sections and headers are written once each, however many blocks share them."""
    sections: dict[tuple[str, ...], int] = {}
    headers: dict[str | None, int] = {}
    rows = [
        [
            _KINDS.index(block.kind),
            block.start,
            block.end,
            sections.setdefault(block.section, len(sections)),
            block.page,
            headers.setdefault(block.header, len(headers)),
        ]
        for block in parsed.blocks
    ]
    document = {
        "text": parsed.text,
        "title": parsed.title,
        "language": parsed.language,
        "media_type": parsed.media_type,
        "pages": parsed.pages,
        "sections": list(sections),
        "headers": list(headers),
        "blocks": rows,
    }
    return json.dumps(document, ensure_ascii=False).encode()


def load(content: bytes) -> ParsedDocument:
    """Return the document. Raises ValueError for bytes that ``dump`` cannot have written."""
    try:
        return _checked(json.loads(content))
    except (KeyError, TypeError, IndexError, RecursionError) as error:
        raise ValueError(f"not a parsed document: {type(error).__name__}") from error


def dump_error(error: Rejected) -> bytes:
    return json.dumps({"refused": str(error)[:2_000], "reason": error.reason}).encode()


def load_error(content: bytes) -> Rejected:
    """Return the refusal. Raises ValueError for bytes that ``dump_error`` cannot have written."""
    try:
        value = json.loads(content)
        return Rejected(_text(value["refused"]), reason=_text(value["reason"]))
    except (KeyError, TypeError, RecursionError) as error:
        raise ValueError(f"not a refusal: {type(error).__name__}") from error


def _checked(value: dict[str, Any]) -> ParsedDocument:
    sections = [tuple(_text(name) for name in section) for section in value["sections"]]
    headers = [None if header is None else _text(header) for header in value["headers"]]
    blocks = tuple(
        Block(_KINDS[kind], int(start), int(end), sections[section], _number(page), headers[header])
        for kind, start, end, section, page, header in value["blocks"]
    )
    text = _text(value["text"])
    ends = [0, *(offset for block in blocks for offset in (block.start, block.end)), len(text)]
    if any(a > b for a, b in pairwise(ends)):
        raise ValueError("not a parsed document: blocks out of order or out of bounds")
    language = None if value["language"] is None else _text(value["language"])
    return ParsedDocument(
        text, blocks, _text(value["title"]), language, _text(value["media_type"]), _number(value["pages"])
    )


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError
    return value


def _number(value: object) -> int | None:
    if value is not None and type(value) is not int:
        raise TypeError
    return value
