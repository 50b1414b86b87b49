"""PDF, through pypdfium2: the characters of each page with their boxes. ``layout`` derives reading order, headings and rows."""

from __future__ import annotations

from collections.abc import Iterator
from ctypes import byref, c_double, c_int, create_string_buffer
from typing import Any

import pypdfium2
import pypdfium2.raw as pdfium

from rag.errors import Rejected
from rag.ingest.parsing.elements import assemble
from rag.ingest.parsing.layout import TextRun, elements_of
from rag.ingest.parsing.sniffing import PDF
from rag.models import ParsedDocument

MAX_PAGES = 2_000
_HYPHENS = {0x02: "-", 0xFFFE: "-", 0xAD: "-"}  # how pdfium reports a hyphen at the end of a line
_GAP = 0.85  # of the font size: a wider gap within a line separates columns or cells; justified spaces stretch to 0.7
_APPLICATION = ("Microsoft Word - ", "Microsoft PowerPoint - ")
# Producers write these when a document has no title.
_PLACEHOLDER_TITLES = {"untitled", "anonymous", "(anonymous)", "unspecified", "document", "title"}


def parse(content: bytes, name: str, max_pages: int = MAX_PAGES) -> ParsedDocument:
    document = _open(content, name)
    try:
        count = len(document)
        if count > max_pages:
            raise Rejected(
                f"{name!r} has {count:,} pages, at most {max_pages:,} are allowed: split it", reason="too_many_pages"
            )
        pages = [_runs(document, index) for index in range(count)]
        title = str(document.get_metadata_dict().get("Title") or "")
    finally:
        document.close()
    for prefix in _APPLICATION:
        title = title.removeprefix(prefix)
    if title.strip().lower() in _PLACEHOLDER_TITLES:
        title = ""
    return assemble(elements_of(pages), name=name, media_type=PDF, title=title, pages=count)


def _open(content: bytes, name: str) -> Any:
    try:
        document = pypdfium2.PdfDocument(content)
        if len(document) == 0:
            raise Rejected(f"{name!r} has no pages: upload it again", reason="corrupt")
    except pypdfium2.PdfiumError as error:
        if error.err_code in {pdfium.FPDF_ERR_PASSWORD, pdfium.FPDF_ERR_SECURITY}:
            raise Rejected(f"{name!r} is protected by a password: save it without one", reason="encrypted") from error
        raise Rejected(f"{name!r} is damaged and cannot be read as PDF: upload it again", reason="corrupt") from error
    return document


def _runs(document: Any, index: int) -> list[TextRun]:
    """Return the page's text as runs, each a part of one line, in the order in which the file draws them."""
    try:
        page = document[index]
    except pypdfium2.PdfiumError:
        return []  # one broken page; a document with only broken pages is rejected as no_text
    textpage = page.get_textpage()
    try:
        return [run for glyphs in _split(textpage.raw) if (run := _run(textpage.raw, glyphs)) is not None]
    finally:
        textpage.close()
        page.close()


_Glyph = tuple[int, int, float, float, float, float, float]  # index, code point, left, bottom, right, top, size


def _split(textpage: Any) -> Iterator[list[_Glyph]]:
    """Yield the glyphs of each run. A run ends where pdfium breaks the line, at a wide gap, and where the pen jumps back or away."""
    left, bottom, right, top = c_double(), c_double(), c_double(), c_double()
    references = byref(left), byref(right), byref(bottom), byref(top)
    run: list[_Glyph] = []
    for index in range(pdfium.FPDFText_CountChars(textpage)):
        code = pdfium.FPDFText_GetUnicode(textpage, index)
        if code in {0x0A, 0x0D}:
            if run:
                yield run
            run = []
            continue
        if code == 0x20 or code == 0xA0:
            if run:
                run.append((index, 0x20, run[-1][4], run[-1][3], run[-1][4], run[-1][5], run[-1][6]))
            continue
        if not pdfium.FPDFText_GetCharBox(textpage, index, *references):
            continue
        size = pdfium.FPDFText_GetFontSize(textpage, index) or 1.0
        glyph = (index, code, left.value, bottom.value, right.value, top.value, size)
        if run and _is_separate(run[-1], glyph):
            yield run
            run = []
        run.append(glyph)
    if run:
        yield run


def _is_separate(before: _Glyph, after: _Glyph) -> bool:
    height = max(before[5] - before[3], after[5] - after[3], before[6] * 0.5)
    gap = after[2] - before[4]
    apart = after[3] - before[5] > 0.3 * height or before[3] - after[5] > 0.3 * height
    return apart or gap > _GAP * max(before[6], height) or gap < -3 * max(before[6], height)


def _run(textpage: Any, glyphs: list[_Glyph]) -> TextRun | None:
    text = "".join(_HYPHENS.get(code) or chr(code) for _, code, *_ in glyphs if code)
    if not text.strip():
        return None
    inked = [glyph for glyph in glyphs if glyph[1] != 0x20]
    tallest = max(inked, key=lambda glyph: glyph[6])
    bottoms = sorted(glyph[3] for glyph in inked)
    return TextRun(
        text=" ".join(text.split()),
        left=min(glyph[2] for glyph in inked),
        right=max(glyph[4] for glyph in inked),
        bottom=bottoms[len(bottoms) // 2],
        top=max(glyph[5] for glyph in inked),
        size=_size(textpage, tallest),
        bold=_is_bold(textpage, inked[0][0]) and _is_bold(textpage, inked[-1][0]),
    )


def _size(textpage: Any, glyph: _Glyph) -> float:
    """Return the visible font size. Some producers set size 1 and scale by the matrix; then the box gives the size."""
    return round(glyph[6] * 2) / 2 if glyph[6] > 2 else round((glyph[5] - glyph[3]) * 2.8) / 2


def _is_bold(textpage: Any, index: int) -> bool:
    name, flags = create_string_buffer(128), c_int()
    pdfium.FPDFText_GetFontInfo(textpage, index, name, 128, byref(flags))
    lowered = name.value.lower()
    return (
        b"bold" in lowered or b"black" in lowered or b"-bd" in lowered or b"cmbx" in lowered or lowered.endswith(b",b")
    )
