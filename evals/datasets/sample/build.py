"""Build the PDF and Word documents of the sample corpus from `sources/<folder>/<name>.<pdf|docx>.md`.

`python evals/datasets/sample/build.py [OUTPUT]` writes `OUTPUT/<folder>/<name>.<pdf|docx>` (default: `documents/` beside this
file). Dates and ids are fixed, so the same libraries build the same bytes.

A source is front matter (`title`, `subtitle`, `author`, `date`, `style: sans|serif`), then a small Markdown: headings, paragraphs, `-` and
`1.` lists, `|` tables, `>` notes, `\\newpage`, and a two-column passage between `::: columns` and `:::`.
"""

from __future__ import annotations

import datetime as dt
import io
import re
import sys
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import docx
from docx.shared import Pt
from reportlab.lib import colors
from reportlab.lib.pagesizes import A4
from reportlab.lib.styles import ParagraphStyle
from reportlab.lib.units import mm
from reportlab.platypus import (
    BalancedColumns,
    Flowable,
    ListFlowable,
    ListItem,
    PageBreak,
    Paragraph,
    SimpleDocTemplate,
    Spacer,
    Table,
    TableStyle,
)

HERE = Path(__file__).parent
INLINE = re.compile(r"\*\*(?P<bold>.+?)\*\*|\*(?P<italic>.+?)\*|`(?P<code>.+?)`")
ZIP_EPOCH = (1980, 1, 1, 0, 0, 0)


@dataclass(frozen=True)
class Block:
    """A block of a source. `lines` are its items or rows.

    `kind` is heading, paragraph, bullets, numbers, table, note, newpage, columns or end.
    """

    kind: str
    lines: tuple[str, ...] = ()
    level: int = 0


@dataclass(frozen=True)
class Source:
    meta: dict[str, str]
    blocks: tuple[Block, ...]


def read_source(text: str) -> Source:
    _, front, body = text.split("---\n", 2)
    meta = dict(line.split(": ", 1) for line in front.splitlines())
    return Source(meta, tuple(block for chunk in re.split(r"\n\s*\n", body.strip()) for block in _blocks(chunk)))


def _blocks(chunk: str) -> Iterator[Block]:
    """Yield one block per chunk between blank lines, and a separate one for a heading in its first line."""
    lines = chunk.strip().splitlines()
    if heading := re.match(r"(#+) (.+)", lines[0]):
        yield Block("heading", (heading[2],), len(heading[1]))
        if lines[1:]:
            yield from _blocks("\n".join(lines[1:]))
        return
    if lines[0] == "\\newpage":
        yield Block("newpage")
    elif lines[0].startswith(":::"):
        yield Block("columns" if "columns" in lines[0] else "end")
    elif lines[0].startswith("|"):
        yield Block("table", tuple(line for line in lines if not re.fullmatch(r"[|\s:-]+", line)))
    elif lines[0].startswith(">"):
        yield Block("note", (" ".join(line.lstrip("> ") for line in lines),))
    elif lines[0].startswith("- "):
        yield Block("bullets", tuple(_items(lines, r"- ")))
    elif re.match(r"\d+\. ", lines[0]):
        yield Block("numbers", tuple(_items(lines, r"\d+\. ")))
    else:
        yield Block("paragraph", (" ".join(lines),))


def _items(lines: list[str], marker: str) -> list[str]:
    items: list[str] = []
    for line in lines:
        if re.match(marker, line):
            items.append(re.sub(f"^{marker}", "", line))
        else:
            items[-1] += " " + line.strip()
    return items


def _cells(row: str) -> list[str]:
    return [cell.strip() for cell in row.strip().strip("|").split("|")]


# -- PDF ---------------------------------------------------------------------------------------------------------------


def _styles(serif: bool) -> dict[str, ParagraphStyle]:
    regular, bold = ("Times-Roman", "Times-Bold") if serif else ("Helvetica", "Helvetica-Bold")
    body = ParagraphStyle("body", fontName=regular, fontSize=10, leading=13.5, spaceAfter=6)
    return {
        "body": body,
        "cell": ParagraphStyle("cell", body, fontSize=8.5, leading=10.5, spaceAfter=0),
        "head": ParagraphStyle("head", body, fontName=bold, fontSize=8.5, leading=10.5, spaceAfter=0),
        "note": ParagraphStyle("note", body, leftIndent=8, borderPadding=5, backColor=colors.HexColor("#eef3f5")),
        "title": ParagraphStyle("title", fontName=bold, fontSize=22, leading=27, spaceAfter=4),
        "subtitle": ParagraphStyle("subtitle", body, fontSize=11, textColor=colors.HexColor("#445566"), spaceAfter=12),
        "h1": ParagraphStyle(
            "h1", fontName=bold, fontSize=15, leading=19, spaceBefore=10, spaceAfter=5, keepWithNext=1
        ),
        "h2": ParagraphStyle("h2", fontName=bold, fontSize=12, leading=15, spaceBefore=8, spaceAfter=4, keepWithNext=1),
    }


def _markup(text: str) -> str:
    escaped = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    wrap = {"bold": "<b>{}</b>", "italic": "<i>{}</i>", "code": "<font face='Courier'>{}</font>"}
    return INLINE.sub(lambda m: wrap[str(m.lastgroup)].format(m[str(m.lastgroup)]), escaped)


def _pdf_table(block: Block, styles: dict[str, ParagraphStyle], width: float) -> Table:
    rows = [_cells(line) for line in block.lines]
    # Columns share the width in proportion to their longest text, within bounds, so that a long text leaves room for the others.
    weights = [min(40, max(9, *(len(row[column]) for row in rows))) for column in range(len(rows[0]))]
    cells = [[Paragraph(_markup(c), styles["head" if i == 0 else "cell"]) for c in row] for i, row in enumerate(rows)]
    table = Table(cells, colWidths=[width * weight / sum(weights) for weight in weights], repeatRows=1)
    shaded, ruled = colors.HexColor("#dde6ea"), colors.HexColor("#8899a5")
    grid = [
        ("BACKGROUND", (0, 0), (-1, 0), shaded),
        ("GRID", (0, 0), (-1, -1), 0.4, ruled),
        ("VALIGN", (0, 0), (-1, -1), "TOP"),
    ]
    table.setStyle(TableStyle(grid))
    return table


def _flowable(block: Block, styles: dict[str, ParagraphStyle], width: float) -> list[Flowable]:
    if block.kind == "heading":
        return [Paragraph(_markup(block.lines[0]), styles["h1" if block.level == 1 else "h2"])]
    if block.kind == "newpage":
        return [PageBreak()]
    if block.kind == "table":
        return [_pdf_table(block, styles, width), Spacer(1, 8)]
    if block.kind in ("bullets", "numbers"):
        items = [ListItem(Paragraph(_markup(line), styles["body"])) for line in block.lines]
        kind = {"bulletType": "1"} if block.kind == "numbers" else {"bulletType": "bullet", "start": "•"}
        return [ListFlowable(items, leftIndent=16, bulletFontSize=9, **kind)]
    return [Paragraph(_markup(block.lines[0]), styles["note" if block.kind == "note" else "body"])]


def _story(source: Source, styles: dict[str, ParagraphStyle], width: float) -> list[Flowable]:
    story: list[Flowable] = [Paragraph(_markup(source.meta["title"]), styles["title"])]
    story.append(Paragraph(_markup(source.meta["subtitle"]), styles["subtitle"]))
    column: list[Flowable] | None = None
    for block in source.blocks:
        if block.kind == "columns":
            column = []
        elif block.kind == "end" and column is not None:
            story.append(BalancedColumns(column, nCols=2, innerPadding=14))
            column = None
        elif column is not None:
            column += _flowable(block, styles, (width - 14) / 2)
        else:
            story += _flowable(block, styles, width)
    return story


def pdf(source: Source) -> bytes:
    target = io.BytesIO()
    margin = 22 * mm

    def footer(canvas: Any, document: Any) -> None:
        canvas.setFont("Helvetica", 8)
        canvas.drawString(margin, 12 * mm, f"Tarnweir Instruments · {source.meta['title']}")
        canvas.drawRightString(A4[0] - margin, 12 * mm, f"Page {document.page}")

    document = SimpleDocTemplate(
        target, pagesize=A4, leftMargin=margin, rightMargin=margin, topMargin=20 * mm, bottomMargin=20 * mm,
        title=source.meta["title"], author=source.meta["author"], subject=source.meta["subtitle"], invariant=1,
    )  # fmt: skip
    styles = _styles(source.meta.get("style") == "serif")
    document.build(_story(source, styles, document.width), onFirstPage=footer, onLaterPages=footer)
    return target.getvalue()


# -- Word --------------------------------------------------------------------------------------------------------------


def _runs(paragraph: Any, text: str) -> None:
    position = 0
    for match in INLINE.finditer(text):
        paragraph.add_run(text[position : match.start()])
        run = paragraph.add_run(match[str(match.lastgroup)])
        run.bold, run.italic = match.lastgroup == "bold", match.lastgroup == "italic"
        position = match.end()
    paragraph.add_run(text[position:])


def _word_table(document: Any, block: Block) -> None:
    rows = [_cells(line) for line in block.lines]
    table = document.add_table(rows=0, cols=len(rows[0]), style="Light Grid Accent 1")
    for row in rows:
        for cell, text in zip(table.add_row().cells, row, strict=True):
            _runs(cell.paragraphs[0], text)
    document.add_paragraph()


def _word_block(document: Any, block: Block) -> None:
    styles = {"bullets": "List Bullet", "numbers": "List Number", "note": "Intense Quote", "paragraph": "Normal"}
    if block.kind == "heading":
        document.add_heading(block.lines[0], level=block.level)
    elif block.kind == "table":
        _word_table(document, block)
    elif block.kind == "newpage":
        document.add_page_break()
    elif block.kind in styles:
        for line in block.lines:
            _runs(document.add_paragraph(style=styles[block.kind]), line)


def word(source: Source) -> bytes:
    document = docx.Document()
    document.styles["Normal"].font.size = Pt(10.5)
    properties = document.core_properties
    properties.title, properties.author, properties.subject = (source.meta[k] for k in ("title", "author", "subtitle"))
    properties.comments, properties.revision = "", 1
    written = dt.datetime.fromisoformat(source.meta["date"])
    properties.created = properties.modified = written
    document.add_heading(source.meta["title"], level=0)
    document.add_paragraph(source.meta["subtitle"], style="Subtitle")
    for block in source.blocks:
        _word_block(document, block)
    raw = io.BytesIO()
    document.save(raw)
    return _without_clock(raw.getvalue())


def _without_clock(archive: bytes) -> bytes:
    """Return the zip with every entry's date set to the zip epoch. python-docx writes the time of the build."""
    target = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(archive)) as old, zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as new:
        for name in old.namelist():
            new.writestr(zipfile.ZipInfo(name, ZIP_EPOCH), old.read(name), zipfile.ZIP_DEFLATED)
    return target.getvalue()


BUILDERS = {".pdf": pdf, ".docx": word}


def build(output: Path) -> list[Path]:
    """Build every document that has a source under `output`. Return the written paths, sorted."""
    written = []
    for path in sorted((HERE / "sources").glob("*/*.md")):
        target = output / path.parent.name / path.stem
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(BUILDERS[target.suffix](read_source(path.read_text(encoding="utf-8"))))
        written.append(target)
    return written


if __name__ == "__main__":
    for built in build(Path(sys.argv[1]) if len(sys.argv) > 1 else HERE / "documents"):
        print(f"{built.stat().st_size:>8}  {built}")
