"""Page layout: runs of text to elements in reading order, with columns, running lines, headings, lists, tables and paragraphs."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import median

from rag.ingest.parsing.elements import Element, row
from rag.models import BlockKind

_BULLET = re.compile(r"^(?:[•‣▪◦●○■□▸►–—·∙\uf0b7\uf0a7]|[-*o](?=\s))\s*")
_NUMBERED = re.compile(r"^(?:\(?\d{1,3}[.)]|\(?[a-z][.)]|[ivx]{1,5}[.)])\s")
_PAGE_NUMBER = re.compile(
    r"^(?:page\s*|seite\s*|p\.\s*)?[-–]?\s*(?:\d{1,4}|[ivxlc]{1,6})\s*[-–]?(?:\s*(?:of|/|von|de)\s*\d{1,4})?$", re.I
)
_MARGIN = 0.1  # share of the text's height, at the top and at the bottom, that holds running lines
_HEADING = 1.12  # times the size of body text
_LONGEST_HEADING = 200


@dataclass(frozen=True, slots=True)
class TextRun:
    """Stretch of text on one line. Coordinates are in points, with the origin at the lower left."""

    text: str
    left: float
    right: float
    bottom: float
    top: float
    size: float
    bold: bool


Line = tuple[TextRun, ...]  # runs on one baseline, left to right


def elements_of(pages: Sequence[Sequence[TextRun]]) -> Iterator[Element]:
    body = _body_size(pages)
    levels = _heading_levels(pages, body)
    running = _running_lines(pages)
    for number, runs in enumerate(pages, start=1):
        content = [run for run in runs if (number - 1, run) not in running]
        for region in _regions(content, body):
            yield from _Region(_lines(region), body, levels, number).elements()


# -- the whole document -------------------------------------------------------------------------------------------------


def _body_size(pages: Sequence[Sequence[TextRun]]) -> float:
    sizes: Counter[float] = Counter()
    for runs in pages:
        for run in runs:
            sizes[run.size] += len(run.text)
    return sizes.most_common(1)[0][0] if sizes else 10.0


def _heading_levels(pages: Sequence[Sequence[TextRun]], body: float) -> dict[float, int]:
    """Return font size → level, the largest first. The level of bold lines of body size is one below these."""
    sizes = sorted({run.size for runs in pages for run in runs if _is_large(run, body)}, reverse=True)
    levels: dict[float, int] = {}
    level = 0
    for before, size in pairwise([float("inf"), *sizes]):
        level += before - size >= 0.75  # a smaller difference is rounding, not another level
        levels[size] = min(level, 6)
    return levels


def _is_large(run: TextRun, body: float) -> bool:
    return run.size >= body * _HEADING and any(character.isalpha() for character in run.text)


def _running_lines(pages: Sequence[Sequence[TextRun]]) -> set[tuple[int, TextRun]]:
    """Return (page index, run) of headers, footers and page numbers: near an end of the page, and alike on at least half of the pages."""
    ends: dict[tuple[str, int], set[int]] = defaultdict(set)
    candidates: list[tuple[int, TextRun, tuple[str, int]]] = []
    dropped: set[tuple[int, TextRun]] = set()
    heights = [run.top for runs in pages for run in runs]
    lows = [run.bottom for runs in pages for run in runs]
    if not heights:
        return dropped
    high, low = max(heights), min(lows)
    margin = max((high - low) * _MARGIN, 1)
    for index, runs in enumerate(pages):
        for run in runs:
            if run.bottom > high - margin or run.top < low + margin:
                key = (re.sub(r"\d+", "#", run.text), round(run.bottom / 6))
                ends[key].add(index)
                candidates.append((index, run, key))
    enough = max(2, (len(pages) + 1) // 2)
    for index, run, key in candidates:
        alone = not any(other is not run and abs(other.bottom - run.bottom) < run.size / 2 for other in pages[index])
        if len(ends[key]) >= max(enough, 3) or (alone and _PAGE_NUMBER.match(run.text)):
            dropped.add((index, run))
    return dropped


# -- reading order ------------------------------------------------------------------------------------------------------


def _regions(runs: Sequence[TextRun], body: float) -> list[list[TextRun]]:
    """Cut a page into regions that are read one after the other: full-width bands, and the columns within them."""
    if not runs:
        return []
    ordered = sorted(runs, key=lambda run: -run.top)
    left, right = min(r.left for r in runs), max(r.right for r in runs)
    gutter = _gutter(ordered, left, right, body)
    if gutter is None:
        return [ordered]
    regions: list[list[TextRun]] = []
    band: list[TextRun] = []
    for run in ordered:
        if run.left < gutter < run.right:  # crosses the gutter: a heading or a figure's caption over both columns
            regions += _columns(band, gutter)
            band = []
            if regions and regions[-1][-1].left < gutter < regions[-1][-1].right:
                regions[-1].append(run)
            else:
                regions.append([run])
        else:
            band.append(run)
    return regions + _columns(band, gutter)


def _columns(band: Sequence[TextRun], gutter: float) -> list[list[TextRun]]:
    sides = [run for run in band if run.right <= gutter], [run for run in band if run.right > gutter]
    return [list(side) for side in sides if side]


def _gutter(runs: Sequence[TextRun], left: float, right: float, body: float) -> float | None:
    """Return the x between two columns of prose, or None. Table cells are shorter than their column, so they do not count as prose."""
    width = right - left
    prose = [run for run in runs if run.right - run.left > width * 0.2]
    if len(prose) < 10 or width < body * 20:
        return None
    narrow = [run for run in prose if run.right - run.left < width * 0.6]
    if len(narrow) < 0.6 * len(prose):
        return None
    for candidate in sorted({run.left for run in narrow if left + width * 0.3 < run.left < left + width * 0.7}):
        x = candidate - body * 0.3
        crossing = sum(run.left < x < run.right for run in runs)
        west, east = [r for r in narrow if r.right <= x], [r for r in narrow if r.left >= x]
        if crossing > 0.25 * len(runs) or min(len(west), len(east)) < 5:
            continue
        if _fills(west, x - left) and _fills(east, right - x):
            return x
    return None


def _fills(column: Sequence[TextRun], width: float) -> bool:
    return median(run.right - run.left for run in column) > 0.6 * width


def _lines(runs: Sequence[TextRun]) -> list[Line]:
    """Group the runs that share a baseline approximately, from top to bottom."""
    lines: list[list[TextRun]] = []
    for run in sorted(runs, key=lambda run: -run.bottom):
        if lines and abs(lines[-1][0].bottom - run.bottom) < 0.45 * max(lines[-1][0].size, run.size, 4):
            lines[-1].append(run)
        else:
            lines.append([run])
    return [tuple(sorted(line, key=lambda run: run.left)) for line in lines]


# -- elements of one region -----------------------------------------------------------------------------------------------


@dataclass
class _Region:
    lines: list[Line]
    body: float
    levels: dict[float, int]
    page: int

    def elements(self) -> Iterator[Element]:
        index = 0
        while index < len(self.lines):
            end = self._table_end(index)
            if end - index >= 2:
                yield from self._table(self.lines[index:end])
            else:
                end = self._paragraph_end(index)
                yield self._paragraph(self.lines[index:end])
            index = end

    def _table_end(self, start: int) -> int:
        """Return the index after the last line of the table that begins at ``start``, or ``start`` when no table begins there."""
        end = start
        rows = 0
        edges: list[float] = []
        while end < len(self.lines):
            line = self.lines[end]
            if end > start and self._gap(end) > 3 * self.body:
                break
            if len(line) >= 2 and not _is_marker(line[0]):
                rows += 1
                edges += [run.left for run in line]
            elif not edges or line[0].left < min(edges) + self.body or _is_marker(line[0]):
                # a line of one run belongs to the table only when it continues a cell or is between two rows
                following = self.lines[end + 1] if end + 1 < len(self.lines) else ()
                between = edges and len(following) >= 2 and line[0].right < max(edges) and not self._is_heading(line)
                if not between:
                    break
            end += 1
        return end if rows >= 2 else start

    def _gap(self, index: int) -> float:
        return self.lines[index - 1][0].bottom - self.lines[index][0].bottom

    def _table(self, lines: Sequence[Line]) -> Iterator[Element]:
        rows = _table_rows(lines, self.body)
        header = row(rows[0])
        if len(rows) == 1:
            yield Element(BlockKind.ROW, header, page=self.page)
        for cells in rows[1:]:
            yield Element(BlockKind.ROW, row(cells), page=self.page, header=header)

    def _paragraph_end(self, start: int) -> int:
        end = start + 1
        first = self.lines[start]
        heading = self._is_heading(first)
        while end < len(self.lines) and not self._begins_block(end, heading, first):
            end += 1
        return end

    def _begins_block(self, index: int, heading: bool, first: Line) -> bool:
        """Return whether another block begins at this line."""
        before, line = self.lines[index - 1], self.lines[index]
        if _is_marker(line[0]) or self._is_heading(line) != heading or self._table_end(index) - index >= 2:
            return True
        if heading and (line[0].size != before[0].size or line[0].bold != before[0].bold):
            return True
        if self._gap(index) > 1.45 * self._pitch() * (line[0].size / self.body if heading else 1):
            return True
        indented = line[0].left - before[0].left > self.body and before is not first
        ended = before[-1].text[-1] in ".!?:" and before[-1].right < self._right() * 0.85
        return not heading and (indented or ended) and not _is_marker(first[0])

    def _pitch(self) -> float:
        gaps = [a[0].bottom - b[0].bottom for a, b in pairwise(self.lines) if a[0].bottom > b[0].bottom]
        return min(median(gaps), self.body * 2) if gaps else self.body * 1.3

    def _right(self) -> float:
        return max(line[-1].right for line in self.lines)

    def _is_heading(self, line: Line) -> bool:
        run = line[0]
        text = " ".join(r.text for r in line)
        if len(text) > _LONGEST_HEADING or not any(character.isalpha() for character in text):
            return False
        if run.size >= self.body * _HEADING:
            return True
        bold = all(r.bold for r in line) and run.size >= self.body * 0.95
        return bold and len(text) <= 100 and text[-1] not in ".,;:" and not _BULLET.match(text)

    def _paragraph(self, lines: Sequence[Line]) -> Element:
        text = _joined([" ".join(run.text for run in line) for line in lines])
        if self._is_heading(lines[0]):
            level = self.levels.get(lines[0][0].size, max(self.levels.values(), default=0) + 1)
            return Element(BlockKind.HEADING, text, level=level, page=self.page)
        if bullet := _BULLET.match(text):
            return Element(BlockKind.LIST_ITEM, text[bullet.end() :], page=self.page)
        return Element(BlockKind.LIST_ITEM if _NUMBERED.match(text) else BlockKind.PARAGRAPH, text, page=self.page)


def _is_marker(run: TextRun) -> bool:
    return bool(_BULLET.match(run.text) or _NUMBERED.match(run.text + " "))


def _joined(lines: Sequence[str]) -> str:
    """Join the lines of a paragraph, and the parts of a word that was hyphenated at the end of a line."""
    text = lines[0]
    for line in lines[1:]:
        hyphenated = len(text) > 1 and text[-1] in "-\u2010" and text[-2].isalpha() and line[:1].islower()
        text = text[:-1] + line if hyphenated else f"{text} {line}"
    return text


def _table_rows(lines: Sequence[Line], body: float) -> list[list[str]]:
    """Return the cells by column. A line continues the row above when its first column is empty, when it has only one cell, or when it is a
    further line of the header."""
    columns = _column_edges(lines, body)
    heads = _header_lines(lines)
    rows: list[list[str]] = []
    for number, line in enumerate(lines):
        cells = [""] * len(columns)
        for run in line:
            column = max((i for i, edge in enumerate(columns) if run.left >= edge - body), default=0)
            cells[column] = f"{cells[column]} {run.text}".strip()
        within_header = 0 < number < heads or (
            len(rows) == 1 and not rows[0][0]
        )  # header cells may be vertically centred
        if rows and number != heads and (not cells[0] or sum(map(bool, cells)) == 1 or within_header):
            rows[-1] = [_continued(above, cell) for above, cell in zip(rows[-1], cells, strict=True)]
        else:
            rows.append(cells)
    return rows


def _header_lines(lines: Sequence[Line]) -> int:
    """Return the number of lines above the first gap that is clearly wider than the others, where most typesetters draw the rule."""
    gaps = [above[0].bottom - below[0].bottom for above, below in pairwise(lines)]
    usual = median(gaps)
    return next((number for number, gap in enumerate(gaps[:4], start=1) if gap > 1.25 * usual), 1)


def _continued(above: str, cell: str) -> str:
    return _joined([above, cell]) if above and cell else above or cell


def _column_edges(lines: Sequence[Line], body: float) -> list[float]:
    """Return the left edges that cells share. Edges closer than twice the font size count as one."""
    edges: list[float] = []
    for left in sorted(run.left for line in lines for run in line):
        if not edges or left - edges[-1] > body * 2:
            edges.append(left)
    return edges
