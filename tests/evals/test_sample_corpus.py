"""The promises of `evals/datasets/sample/README.md`; every failure names the documents."""

from __future__ import annotations

import datetime as dt
import importlib.util
import json
import re
import statistics
import sys
from collections import Counter
from functools import cache
from html.parser import HTMLParser
from itertools import combinations
from pathlib import Path
from types import ModuleType

import docx
import pypdfium2
import pypdfium2.raw
import pytest

from evals.sample_corpus import SAMPLE, Evidence, Question, documents, plain, questions, readers, tables

DOCUMENTS = {f"{path.parent.name}/{path.name}": path for path in documents()}
QUESTIONS = list(questions())
ANSWERABLE = [question for question in QUESTIONS if question.kind != "unanswerable"]
BUILT = [name for name in DOCUMENTS if name.endswith((".pdf", ".docx"))]


class Visible(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.parts: list[str] = []
        self.hidden = 0

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.hidden += tag in ("script", "style")

    def handle_endtag(self, tag: str) -> None:
        self.hidden -= tag in ("script", "style")
        self.parts.append(" " if tag in ("td", "th", "p", "li", "tr", "dt", "dd") or tag.startswith("h") else "")

    def handle_data(self, data: str) -> None:
        self.parts.append("" if self.hidden else data)


def pages(path: Path) -> list[str]:
    """Return the text of a document, as independent libraries extract it: one entry per page of a PDF, else one entry."""
    if path.suffix == ".pdf":
        with pypdfium2.PdfDocument(path) as pdf:
            return [page.get_textpage().get_text_range() for page in pdf]
    if path.suffix == ".docx":
        return ["\n".join(_word(path))]
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".html":
        parser = Visible()
        parser.feed(text)
        return ["".join(parser.parts)]
    return ["\n".join(_leaves(json.loads(text)))] if path.suffix == ".json" else [text]


def _word(path: Path) -> list[str]:
    lines = []
    for block in docx.Document(str(path)).iter_inner_content():
        if hasattr(block, "rows"):
            lines += [" ".join(cell.text for cell in row.cells) for row in block.rows]
        else:
            lines.append(block.text)
    return lines


def _leaves(value: object) -> list[str]:
    if isinstance(value, dict):
        return [leaf for inner in value.values() for leaf in _leaves(inner)]
    if isinstance(value, list):
        return [leaf for inner in value for leaf in _leaves(inner)]
    return [str(value)]


@cache
def extracted(name: str) -> tuple[str, ...]:
    return tuple(plain(page) for page in pages(DOCUMENTS[name]))


@cache
def words(name: str) -> list[str]:
    return re.findall(r"\w+", " ".join(extracted(name)).lower())


def row_text(reference: str) -> str:
    table, _, key = reference.removeprefix("tables/").partition("#")
    rows = [row for row in tables()[table] if row["id"] == key]
    assert len(rows) == 1, f"{reference} names {len(rows)} rows of {table}.csv, not one"
    return plain(" ".join(rows[0].values()))


def test_there_are_enough_documents_of_every_format() -> None:
    count = Counter(path.suffix for path in DOCUMENTS.values())
    assert len(DOCUMENTS) >= 42, count
    assert min(count[suffix] for suffix in (".pdf", ".html", ".md", ".docx")) >= 8, count
    assert count[".json"] >= 3, count


def test_the_folders_split_the_corpus_between_three_groups() -> None:
    assert {readers(name.split("/")[0]) for name in DOCUMENTS} == {"staff", "finance", "people"}


def test_the_median_document_has_600_words_and_none_is_very_short() -> None:
    lengths = {name: len(words(name)) for name in DOCUMENTS}
    assert statistics.median(lengths.values()) >= 600, lengths
    assert not {name: length for name, length in lengths.items() if length < 400}


def test_no_two_documents_share_more_than_a_fifth_of_their_shingles() -> None:
    shingles = {name: {tuple(words(name)[i : i + 5]) for i in range(len(words(name)) - 4)} for name in DOCUMENTS}
    overlap = {
        (a, b): len(shingles[a] & shingles[b]) / min(len(shingles[a]), len(shingles[b]))
        for a, b in combinations(DOCUMENTS, 2)
    }
    assert not {pair: share for pair, share in overlap.items() if share > 0.2}


@pytest.mark.parametrize("name", [name for name in BUILT if name.endswith(".pdf")])
def test_a_pdf_has_several_numbered_pages_and_headings_larger_than_its_text(name: str) -> None:
    assert len(extracted(name)) >= 2, f"{name} has one page"
    for number, page in enumerate(extracted(name), 1):
        assert f"Page {number}" in page, f"{name} does not number page {number}"
    with pypdfium2.PdfDocument(DOCUMENTS[name]) as pdf:
        sizes = Counter(size for page in pdf for size in character_sizes(page))
    assert max(sizes) >= 1.4 * sizes.most_common(1)[0][0], f"{name} has no heading: {sizes}"


def character_sizes(page: pypdfium2.PdfPage) -> list[float]:
    text = page.get_textpage()
    return [round(pypdfium2.raw.FPDFText_GetFontSize(text, index), 1) for index in range(text.count_chars())]


def test_at_least_one_pdf_page_is_set_in_two_columns() -> None:
    assert [name for name in BUILT if name.endswith(".pdf") and lines_right_of_the_middle(DOCUMENTS[name]) >= 10]


def lines_right_of_the_middle(path: Path) -> int:
    """Return the greatest number of lines of body text that begin in the right half of one page.

    The text of table cells is smaller than body text, so the cells do not count.
    """
    with pypdfium2.PdfDocument(path) as pdf:
        return max(
            sum(
                thing.get_bounds()[0] > page.get_width() / 2 and thing.get_font_size() >= 10
                for thing in page.get_objects(filter=[pypdfium2.raw.FPDF_PAGEOBJ_TEXT])
            )
            for page in pdf
        )


def test_the_corpus_is_small() -> None:
    size = sum(path.stat().st_size for path in SAMPLE.rglob("*") if path.is_file())
    assert size < 3_000_000, size


def test_mail_addresses_end_in_a_reserved_name() -> None:
    text = {name: " ".join(extracted(name)) for name in DOCUMENTS}
    text |= {name: json.dumps(rows) for name, rows in tables().items()}
    addresses = {name: re.findall(r"[\w.+-]+@[\w.-]*\w", body) for name, body in text.items()}
    foreign = {name: [each for each in found if not each.endswith(".example")] for name, found in addresses.items()}
    assert any(addresses.values())
    assert not {name: found for name, found in foreign.items() if found}


@pytest.fixture(scope="session")
def builder() -> ModuleType:
    spec = importlib.util.spec_from_file_location("sample_build", SAMPLE / "build.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look up their module during its execution
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def rebuilt(builder: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("documents")
    builder.build(target)
    return target


def test_every_source_has_its_document_and_every_pdf_and_word_file_its_source(rebuilt: Path) -> None:
    assert {f"{path.parent.name}/{path.name}" for path in rebuilt.glob("*/*")} == set(BUILT)


@pytest.mark.parametrize("name", BUILT)
def test_a_committed_document_has_the_text_of_its_source(name: str, rebuilt: Path) -> None:
    assert tuple(plain(page) for page in pages(rebuilt / name)) == extracted(name), f"run build.py: {name} is stale"


def test_building_twice_gives_the_same_bytes(builder: ModuleType, rebuilt: Path, tmp_path: Path) -> None:
    again = {path.relative_to(tmp_path): path.read_bytes() for path in builder.build(tmp_path)}
    assert not [str(path) for path, content in again.items() if content != (rebuilt / path).read_bytes()]


@pytest.mark.parametrize(("table", "rows"), [("customers", 60), ("tickets", 150)])
def test_a_table_has_unique_ids_and_instants_in_utc(table: str, rows: int) -> None:
    records = tables()[table]
    assert len(records) >= rows
    assert not [key for key, times in Counter(row["id"] for row in records).items() if times > 1]
    assert not [row["id"] for row in records if None in row or None in row.values()]
    assert all(dt.datetime.fromisoformat(row["updated_at"]).utcoffset() == dt.timedelta(0) for row in records)


def test_tickets_belong_to_customers_and_have_distinct_texts() -> None:
    customers = {row["id"] for row in tables()["customers"]}
    tickets = tables()["tickets"]
    assert not [row["id"] for row in tickets if row["customer_id"] not in customers]
    shingles = {
        row["id"]: set(zip(*(row["body"].lower().split()[i:] for i in range(5)), strict=False)) for row in tickets
    }
    alike = [(a, b) for a, b in combinations(shingles, 2) if len(shingles[a] & shingles[b]) > 0.2 * len(shingles[a])]
    assert not alike


def test_there_are_enough_questions_of_every_kind() -> None:
    count = Counter(question.kind for question in QUESTIONS)
    assert len(ANSWERABLE) >= 42, count
    assert count["unanswerable"] >= 10, count
    assert count["table"] + count["later_page"] + count["two_documents"] >= 15, count
    assert count["row"] >= 3, count
    assert len({question.id for question in QUESTIONS}) == len(QUESTIONS)
    assert len({question.question.casefold() for question in QUESTIONS}) == len(QUESTIONS)


@pytest.mark.parametrize("question", QUESTIONS, ids=lambda question: question.id)
def test_a_question_has_evidence_exactly_when_it_can_be_answered(question: Question) -> None:
    if question.kind == "unanswerable":
        assert question.answer is None
        assert question.evidence == ()
    else:
        assert question.answer
        assert question.evidence
    sources = {passage.document for passage in question.evidence}
    assert (len(sources) >= 2) == (question.kind == "two_documents"), sources
    if question.kind == "later_page":
        assert all(passage.page and passage.page >= 2 for passage in question.evidence), question.evidence
    if question.kind == "row":
        assert all(source.startswith("tables/") for source in sources), sources


@pytest.mark.parametrize(
    ("passage", "where"),
    [
        pytest.param(passage, question.id, id=f"{question.id}-{number}")
        for question in ANSWERABLE
        for number, passage in enumerate(question.evidence)
    ],
)
def test_a_quote_is_in_the_document_and_on_the_page_of_its_evidence(passage: Evidence, where: str) -> None:
    quote = plain(passage.quote)
    assert len(quote.split()) >= 3, f"{where}: too short to prove anything: {quote}"
    if passage.document.startswith("tables/"):
        assert quote in row_text(passage.document), f"{where}: not in {passage.document}: {quote}"
        return
    assert passage.document in DOCUMENTS, f"{where}: no document {passage.document}"
    holding = [number for number, page in enumerate(extracted(passage.document), 1) if quote in page]
    assert holding, f"{where}: not in {passage.document}: {quote}"
    if passage.document.endswith(".pdf"):
        assert passage.page in holding, f"{where}: {passage.document} has it on {holding}, not {passage.page}"
    else:
        assert passage.page is None, f"{where}: {passage.document} has no pages"


def test_a_question_does_not_copy_its_evidence() -> None:
    copied = [
        question.id
        for question in ANSWERABLE
        for passage in question.evidence
        if question.question.rstrip("?").casefold() in passage.quote.casefold()
    ]
    assert not copied
