"""Elements, which the parser of a format yields, and their assembly into one text with exact spans."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import PurePosixPath

from rag.errors import Rejected
from rag.ingest.parsing.language import language_of
from rag.models import CELL_SEPARATOR, Block, BlockKind, ParsedDocument

_LONGEST_HEADING = 500  # characters; a longer text is not a heading, and every section path below it would repeat it
_LONGEST_HEADER = 2_000  # characters; a table's header is repeated for every row

_BREAKS = re.compile(r"\r\n?|[\v\f\x1c-\x1e\x85\u2028\u2029]")
# Controls, zero-width and bidirectional marks, soft hyphens, lone surrogates, non-characters: they are invisible, but split words.
_INVISIBLE = re.compile(
    "[\x00-\x08\x0e-\x1b\x1f\x7f-\x84\x86-\x9f\xad\u200b\u200e\u200f\u202a-\u202e\u2060-\u2064\u2066-\u2069\ufeff\ufff9-\ufffb"
    "\ufffe\uffff\ud800-\udfff]"
)
_SPACES = re.compile(r"[ \t\xa0\u1680\u2000-\u200a\u202f\u205f\u3000]+")
_BLANK_LINES = re.compile(r" ?\n[ \n]*")


@dataclass(frozen=True, slots=True)
class Element:
    """Part of a document. Formats with paths of their own (JSON) set ``section``; in others, the headings above give it."""

    kind: BlockKind
    text: str
    level: int = 1  # of a heading; 1 is the outermost
    page: int | None = None
    header: str | None = None
    section: tuple[str, ...] | None = None


def clean(text: str) -> str:
    """Return the text in NFC, with line feeds only and without invisible characters, and otherwise unchanged."""
    return unicodedata.normalize("NFC", _INVISIBLE.sub("", _BREAKS.sub("\n", text)))


def normalize(text: str) -> str:
    """Return the text of any block except code: clean, with single spaces, without blank lines, and stripped."""
    return _BLANK_LINES.sub("\n", _SPACES.sub(" ", clean(text))).strip()


def one_line(text: str) -> str:
    return " ".join(clean(text).split())


def row(cells: Iterable[str]) -> str:
    """Join the cells of a table row on one line, without empty cells at the end."""
    return CELL_SEPARATOR.join(one_line(cell) for cell in cells).rstrip(" |")


def assemble(
    elements: Iterable[Element], *, name: str, media_type: str, title: str = "", pages: int | None = None
) -> ParsedDocument:
    """Join elements into one text, with blank lines between them. Raises Rejected("no_text") when no text remains."""
    texts: list[str] = []
    blocks: list[Block] = []
    outline: list[tuple[int, str]] = []
    position = 0
    for element in elements:
        text = clean(element.text).strip("\n").rstrip() if element.kind is BlockKind.CODE else normalize(element.text)
        if not any(character.isalnum() for character in text):
            continue  # rules, bullets, empty rows
        is_heading = element.kind is BlockKind.HEADING
        if is_heading:
            text = one_line(text)
        if is_heading and len(text) <= _LONGEST_HEADING:
            while outline and outline[-1][0] >= element.level:
                outline.pop()
        kind = BlockKind.PARAGRAPH if is_heading and len(text) > _LONGEST_HEADING else element.kind
        section = tuple(heading for _, heading in outline) if element.section is None else element.section
        header = element.header[:_LONGEST_HEADER] if element.header else None
        blocks.append(Block(kind, position, position + len(text), section, element.page, header))
        texts.append(text)
        position += len(text) + 2
        if kind is BlockKind.HEADING:
            outline.append((element.level, text))
    if not blocks:
        raise Rejected(
            f"no text in {name!r} ({media_type}): if it contains images of text, run OCR on it and replace it with the result",
            reason="no_text",
        )
    full_text = "\n\n".join(texts)
    first_heading = next((one_line(full_text[b.start : b.end]) for b in blocks if b.kind is BlockKind.HEADING), "")
    stem = PurePosixPath(name.replace("\\", "/")).stem
    return ParsedDocument(
        text=full_text,
        blocks=tuple(blocks),
        title=(one_line(title) or first_heading or one_line(stem) or "untitled")[:300],
        language=language_of(full_text),
        media_type=media_type,
        pages=pages,
    )
