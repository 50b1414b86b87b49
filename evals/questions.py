"""Question sets: questions, the documents that answer them, and whether anything does."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rag.errors import Rejected
from rag.ids import object_uri

ROOT = Path(__file__).resolve().parents[1]
SHARED = ROOT.parent / "shared" / "data"  # test data that lies beside a checkout, not in it
SAMPLE = Path(__file__).parent / "datasets" / "sample"
_FILES = {
    "sample": (SAMPLE / "documents", SAMPLE / "questions.jsonl"),
    "enterprise": (SHARED / "enterprise" / "corpus", SHARED / "enterprise" / "qa.jsonl"),
    "northwind": (SHARED / "northwind" / "corpus", SHARED / "northwind" / "qa.jsonl"),
}
NAMES = tuple(_FILES)
_ROW = "tables/"  # gold that is a row: tables/<table>#<key>


@dataclass(frozen=True, slots=True)
class Question:
    """``gold``: names of the documents that answer it, relative to the corpus; none when the corpus cannot answer.

    ``quotes``: passages of theirs that state the answer, verbatim, where the set has them.
    """

    id: str
    text: str
    gold: tuple[str, ...]
    kind: str = ""
    quotes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class QuestionSet:
    """``folder`` holds the documents that gold names are relative to."""

    name: str
    folder: Path
    questions: tuple[Question, ...]

    def documents(self) -> list[str]:
        """Names of all documents of the corpus, in order."""
        paths = (path for path in sorted(self.folder.rglob("*")) if path.is_file() and not path.name.startswith("."))
        return [path.relative_to(self.folder).as_posix() for path in paths]

    def about(self, documents: Collection[str]) -> QuestionSet:
        """The questions that these documents answer, and those that nothing does."""
        kept = tuple(each for each in self.questions if set(each.gold) <= set(documents))
        return QuestionSet(self.name, self.folder, kept)


def load(name: str) -> QuestionSet:
    """One of ``NAMES``. Raises Rejected when it is unknown or absent, or names a document that is absent."""
    if name not in _FILES:
        raise Rejected(f"question set {name!r} is unknown: take one of {', '.join(NAMES)}", reason="unknown_dataset")
    return read(name, *_FILES[name])


def read(name: str, corpus: Path, file: Path) -> QuestionSet:
    """A JSON line per question: ``question``, ``evidence`` (each with ``doc`` or ``document``), perhaps ``id`` and ``kind``."""
    if not file.is_file() or not corpus.is_dir():
        raise Rejected(f"question set {name!r} needs {file} and {corpus}: put them there", reason="no_dataset")
    found = QuestionSet(name, corpus, tuple(_questions(file)))
    known = set(found.documents())
    absent = {doc for each in found.questions for doc in each.gold if doc not in known and not doc.startswith(_ROW)}
    if absent:
        raise Rejected(f"{file} names {min(absent)!r}, which {corpus} does not have", reason="no_document")
    return found


def located(name: str, documents: str, rows: str) -> str:
    """The URI of a gold document when the corpus lies at ``documents``, and warehouse rows at ``rows``."""
    if not name.startswith(_ROW):
        return object_uri(documents, name)
    table, _, key = name.removeprefix(_ROW).partition("#")
    return object_uri(rows, f"{table}/{key}.json")


def _questions(file: Path) -> Iterator[Question]:
    for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), 1):
        try:
            yield _question(json.loads(line), f"{file.stem}-{number}")
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise Rejected(f"{file}:{number} is no question: {error!r}", reason="bad_dataset") from error


def _question(item: Mapping[str, Any], number: str) -> Question:
    passages = item["evidence"]
    gold = (str(each["document"] if "document" in each else each["doc"]) for each in passages)
    quotes = tuple(str(each["quote"]) for each in passages if each.get("quote"))
    kind = item.get("kind") or item.get("type") or ""
    return Question(str(item.get("id", number)), str(item["question"]), tuple(dict.fromkeys(gold)), str(kind), quotes)
