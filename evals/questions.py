"""Question sets: questions, answerable or not, with the documents that answer them."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evals.sample_corpus import SAMPLE
from rag.errors import Rejected
from rag.ids import object_uri

ROOT = Path(__file__).resolve().parents[1]
SHARED = ROOT.parent / "shared" / "data"  # test data beside a checkout, not in it
_FILES = {
    "sample": (SAMPLE / "documents", SAMPLE / "questions.jsonl"),
    "enterprise": (SHARED / "enterprise" / "corpus", SHARED / "enterprise" / "qa.jsonl"),
    "northwind": (SHARED / "northwind" / "corpus", SHARED / "northwind" / "qa.jsonl"),
}
NAMES = tuple(_FILES)
_ROW = "tables/"  # prefix of a row as gold: tables/<table>#<key>


@dataclass(frozen=True, slots=True)
class Question:
    """A question of a set. ``gold`` has the names of the documents that answer it, relative to the corpus, if any.

    ``quotes`` has verbatim passages of these documents that state the answer, if the set contains passages.
    """

    id: str
    text: str
    gold: tuple[str, ...]
    kind: str = ""
    quotes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class QuestionSet:
    """A set of questions. ``folder`` contains the documents; gold names are relative to it."""

    name: str
    folder: Path
    questions: tuple[Question, ...]

    def documents(self) -> list[str]:
        """Return the names of all documents of the corpus, sorted."""
        paths = (path for path in sorted(self.folder.rglob("*")) if path.is_file() and not path.name.startswith("."))
        return [path.relative_to(self.folder).as_posix() for path in paths]

    def about(self, documents: Collection[str]) -> QuestionSet:
        """Return the set of the questions that these documents answer, and of the unanswerable questions."""
        questions = tuple(each for each in self.questions if set(each.gold) <= set(documents))
        return QuestionSet(self.name, self.folder, questions)


def load(name: str) -> QuestionSet:
    """Load one of ``NAMES``. Raises Rejected if the set is unknown or absent, or if a gold document is absent."""
    if name not in _FILES:
        raise Rejected(f"question set {name!r} is unknown: use one of {', '.join(NAMES)}", reason="unknown_dataset")
    return read(name, *_FILES[name])


def read(name: str, corpus: Path, file: Path) -> QuestionSet:
    """Read a set from one JSON line per question: ``question``, ``evidence`` (a list of objects with ``doc`` or ``document``, and
    perhaps ``quote``), and perhaps ``id`` and ``kind`` or ``type``."""
    if not file.is_file() or not corpus.is_dir():
        raise Rejected(f"question set {name!r} needs {file} and {corpus}: put them there", reason="no_dataset")
    questions = tuple(_questions(file))
    question_set = QuestionSet(name, corpus, questions)
    known = set(question_set.documents())
    absent = {doc for each in questions for doc in each.gold if doc not in known and not doc.startswith(_ROW)}
    if absent:
        raise Rejected(f"{file} names {min(absent)!r}, which is not in {corpus}: add it", reason="no_document")
    return question_set


def gold_uri(name: str, documents: str, rows: str) -> str:
    """Return the URI of a gold document for a corpus at the base URI ``documents`` and warehouse rows at ``rows``."""
    if not name.startswith(_ROW):
        return object_uri(documents, name)
    table, _, key = name.removeprefix(_ROW).partition("#")
    return object_uri(rows, f"{table}/{key}.json")


def _questions(file: Path) -> Iterator[Question]:
    for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), 1):
        try:
            yield _question(json.loads(line), f"{file.stem}-{number}")
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise Rejected(f"{file}:{number} is not a question: {error!r}", reason="bad_dataset") from error


def _question(item: Mapping[str, Any], number: str) -> Question:
    passages = item["evidence"]
    gold = (str(each["document"] if "document" in each else each["doc"]) for each in passages)
    quotes = tuple(str(each["quote"]) for each in passages if each.get("quote"))
    kind = item.get("kind") or item.get("type") or ""
    return Question(str(item.get("id", number)), str(item["question"]), tuple(dict.fromkeys(gold)), str(kind), quotes)
