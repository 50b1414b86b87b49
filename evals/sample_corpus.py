"""The sample corpus: one fictional company's documents and tables, and questions with the passages that answer them."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Kind = Literal["lookup", "table", "later_page", "two_documents", "row", "unanswerable"]

SAMPLE = Path(__file__).parent / "datasets" / "sample"


@dataclass(frozen=True)
class Evidence:
    """`document` is `<folder>/<file>` below `documents/`, or `tables/<table>#<id>`; `page` counts from 1 and is None but for PDFs."""

    document: str
    quote: str
    page: int | None


@dataclass(frozen=True)
class Question:
    """`answer` is None, and `evidence` empty, exactly when the corpus does not hold the answer."""

    id: str
    question: str
    answer: str | None
    kind: Kind
    evidence: tuple[Evidence, ...]


def questions(root: Path = SAMPLE) -> Iterator[Question]:
    for line in (root / "questions.jsonl").read_text(encoding="utf-8").splitlines():
        record = json.loads(line)
        yield Question(**{**record, "evidence": tuple(Evidence(**passage) for passage in record["evidence"])})


def documents(root: Path = SAMPLE) -> list[Path]:
    """Every document, sorted. Its folder's name is the group that may read it, see the README beside the corpus."""
    return sorted(path for path in (root / "documents").glob("*/*") if path.is_file())


def tables(root: Path = SAMPLE) -> dict[str, list[dict[str, str]]]:
    """Rows by table name, in file order, values as text."""
    found = {}
    for path in sorted((root / "tables").glob("*.csv")):
        with path.open(encoding="utf-8", newline="") as file:
            found[path.stem] = list(csv.DictReader(file))
    return found


def readers(folder: str) -> str:
    """The group whose members may read the documents of this folder."""
    return folder if folder in ("finance", "people") else "staff"


def plain(text: str) -> str:
    """Text as it is read: without table bars, Markdown emphasis, code ticks and the accidents of line breaks.

    A quote is found in a document when `plain(quote)` occurs in `plain(text)`, whichever parser made the text.
    """
    return " ".join(re.sub(r"[|*`]", " ", text).split()).replace(" .", ".").replace(" ,", ",")
