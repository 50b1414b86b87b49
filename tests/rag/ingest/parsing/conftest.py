"""Inputs of parsers: the documents of the sample company, real files of the shared data, and malformed bytes."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import docx
import pikepdf
import pytest
from reportlab.lib.pagesizes import A4
from reportlab.pdfgen.canvas import Canvas

from evals.sample_corpus import documents
from rag.ingest.parsing import ParseLimits, SandboxedParser

Draw = Callable[[Canvas], None]


@pytest.fixture(scope="session")
def company() -> list[Path]:
    """The documents of the sample company, in five formats. They were written for this repository."""
    return documents()


@pytest.fixture(params=["company", pytest.param("corpus", marks=pytest.mark.corpus)])
def documents_of_each_format(request: pytest.FixtureRequest) -> list[Path]:
    paths: list[Path] = request.getfixturevalue(request.param)
    return paths


@pytest.fixture(scope="session")
def corpus(shared: Path) -> list[Path]:
    files = sorted(p for p in (shared / "enterprise" / "corpus").rglob("*") if p.is_file())
    assert len(files) >= 150
    return files


@pytest.fixture(scope="session")
def sandbox() -> Iterator[SandboxedParser]:
    parser = SandboxedParser(ParseLimits(seconds=5, wall_seconds=60))
    yield parser
    parser.close()


def pdf_of(*pages: Draw) -> bytes:
    """Build a PDF from one function per page, which draws on a reportlab canvas of A4 (595 x 842 points)."""
    out = io.BytesIO()
    canvas = Canvas(out, pagesize=A4)
    for draw in pages:
        draw(canvas)
        canvas.showPage()
    canvas.save()
    return out.getvalue()


def lines(
    *texts: str, x: float = 72, y: float = 760, size: float = 11, font: str = "Helvetica", pitch: float = 14
) -> Draw:
    def draw(canvas: Canvas) -> None:
        canvas.setFont(font, size)
        for index, text in enumerate(texts):
            canvas.drawString(x, y - index * pitch, text)

    return draw


def both(*draws: Draw) -> Draw:
    def draw(canvas: Canvas) -> None:
        for each in draws:
            each(canvas)

    return draw


def encrypted_pdf() -> bytes:
    out = io.BytesIO()
    with pikepdf.open(io.BytesIO(pdf_of(lines("A secret.")))) as pdf:
        pdf.save(out, encryption=pikepdf.Encryption(owner="owner", user="user"))
    return out.getvalue()


def image_only_pdf() -> bytes:
    def draw(canvas: Canvas) -> None:
        canvas.rect(100, 100, 200, 200, fill=1)

    return pdf_of(draw)


def docx_of(build: Callable[[docx.document.Document], None]) -> bytes:
    document, out = docx.Document(), io.BytesIO()
    build(document)
    document.save(out)
    return out.getvalue()


def docx_with(body: bytes) -> bytes:
    """Build a docx whose ``word/document.xml`` is ``body``."""
    source = docx_of(lambda document: document.add_paragraph("x"))
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(source)) as old, zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as new:
        for member in old.infolist():
            new.writestr(member.filename, body if member.filename == "word/document.xml" else old.read(member))
    return out.getvalue()


@pytest.fixture(scope="session")
def make() -> SimpleNamespace:
    """Return the builders of this file, for tests that cannot import it."""
    return SimpleNamespace(
        pdf=pdf_of,
        lines=lines,
        both=both,
        docx=docx_of,
        docx_with=docx_with,
        encrypted_pdf=encrypted_pdf,
        image_only_pdf=image_only_pdf,
    )
