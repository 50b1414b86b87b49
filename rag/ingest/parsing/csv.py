"""Comma-separated values and similar formats: each row becomes a block that carries the header line."""

from __future__ import annotations

import csv
import re
from collections import Counter
from collections.abc import Iterator

from rag.errors import Rejected
from rag.ingest.parsing.decoding import decode
from rag.ingest.parsing.elements import Element, assemble, clean, row
from rag.ingest.parsing.sniffing import CSV
from rag.models import BlockKind, ParsedDocument

_DELIMITERS = ",;\t|"
_SAMPLE_LINES = 50
_WIDEST_CELL = 1_000_000  # characters
_NUMBER = re.compile(r"^[-+(]?[$€£]?\s*\d[\d.,\s]*[%)]?$")


def parse(content: bytes, name: str) -> ParsedDocument:
    text = clean(decode(content))
    csv.field_size_limit(_WIDEST_CELL)
    try:
        return assemble(_elements(text), name=name, media_type=CSV)
    except csv.Error as error:
        raise Rejected(f"{name!r} is not well-formed CSV ({error}): export it again", reason="corrupt") from error


def _elements(text: str) -> Iterator[Element]:
    rows = csv.reader((f"{line}\n" for line in text.split("\n")), delimiter=_delimiter(text), skipinitialspace=True)
    first: list[str] = next((cells for cells in rows if any(cell.strip() for cell in cells)), [])
    header = row(first) if _is_header(first) else None
    if header is None:
        yield Element(BlockKind.ROW, row(first))
    empty = True
    for cells in rows:
        if line := row(cells):
            empty = False
            yield Element(BlockKind.ROW, line, header=header)
    if header is not None and empty:
        yield Element(BlockKind.ROW, header)


def _delimiter(text: str) -> str:
    """Return the delimiter that splits the most lines into the same number of cells."""
    lines = [line for line in text[:100_000].split("\n")[:_SAMPLE_LINES] if line.strip()]

    def agreement(delimiter: str) -> tuple[float, int]:
        widths = Counter(len(cells) for cells in csv.reader(lines, delimiter=delimiter) if cells)
        width, count = widths.most_common(1)[0] if widths else (1, 0)
        return (count / sum(widths.values()), width) if width > 1 else (0.0, 0)

    return max(_DELIMITERS, key=agreement)


def _is_header(cells: list[str]) -> bool:
    """Return whether the cells are names: present, distinct and not numbers."""
    names = [cell.strip() for cell in cells]
    while names and not names[-1]:
        names.pop()
    named = [name for name in names if name]
    return bool(named) and len(set(named)) == len(named) and not any(_NUMBER.match(name) for name in named)
