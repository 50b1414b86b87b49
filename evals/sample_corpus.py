"""The sample corpus: the documents and tables of a fictional company, and questions with the passages that answer them."""

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
    """A passage that states the answer. `document` is `<folder>/<file>` below `documents/`, or `tables/<table>#<id>`.

    `page` counts from 1. It is None unless the document is a PDF.
    """

    document: str
    quote: str
    page: int | None


@dataclass(frozen=True)
class Question:
    """A question. `answer` is None and `evidence` is empty if and only if the corpus does not contain the answer."""

    id: str
    question: str
    answer: str | None
    kind: Kind
    evidence: tuple[Evidence, ...]


def questions(root: Path = SAMPLE) -> Iterator[Question]:
    """Read the questions in the order of the file."""
    for line in (root / "questions.jsonl").read_text(encoding="utf-8").splitlines():
        record = json.loads(line)
        yield Question(**{**record, "evidence": tuple(Evidence(**passage) for passage in record["evidence"])})


def documents(root: Path = SAMPLE) -> list[Path]:
    """Return the paths of all documents, sorted. The folder determines the group that may read a document (``readers``)."""
    return sorted(path for path in (root / "documents").glob("*/*") if path.is_file())


def tables(root: Path = SAMPLE) -> dict[str, list[dict[str, str]]]:
    """Return the rows by table name, in the order of the files, with values as text."""
    rows = {}
    for path in sorted((root / "tables").glob("*.csv")):
        with path.open(encoding="utf-8", newline="") as file:
            rows[path.stem] = list(csv.DictReader(file))
    return rows


def readers(folder: str) -> str:
    """Return the group whose members may read the documents of this folder."""
    return folder if folder in ("finance", "people") else "staff"


def plain(text: str) -> str:
    """Return the text without table bars, Markdown emphasis, code ticks and line breaks.

    A document contains a quote if `plain(quote)` occurs in `plain(text)`, for the text from any parser.
    """
    return " ".join(re.sub(r"[|*`]", " ", text).split()).replace(" .", ".").replace(" ,", ",")
