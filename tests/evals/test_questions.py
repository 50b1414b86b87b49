from __future__ import annotations

import json
from pathlib import Path

import pytest

from evals.questions import gold_uri, load, read
from rag.errors import Rejected


def _write(folder: Path, *lines: object) -> tuple[Path, Path]:
    corpus = folder / "corpus"
    (corpus / "x").mkdir(parents=True)
    (corpus / "x" / "a.md").write_text("text")
    file = folder / "qa.jsonl"
    file.write_text("".join(f"{line if isinstance(line, str) else json.dumps(line)}\n" for line in lines))
    return corpus, file


def test_gold_documents_are_distinct_and_read_from_each_known_field(tmp_path: Path) -> None:
    passages = [{"document": "x/a.md", "quote": "text"}, {"document": "x/a.md", "quote": "te"}]
    question_set = read(
        "own", *_write(tmp_path, {"question": "q?", "evidence": passages}, {"question": "r?", "evidence": []})
    )
    assert [each.gold for each in question_set.questions] == [("x/a.md",), ()]
    assert question_set.questions[0].quotes == ("text", "te")
    assert question_set.documents() == ["x/a.md"]


def test_a_set_that_names_an_absent_document_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Rejected, match=r"x/b\.md"):
        read("own", *_write(tmp_path, {"question": "q?", "evidence": [{"doc": "x/b.md"}]}))


@pytest.mark.parametrize("line", ["{", "[]", '{"question": "q?"}', '{"question": "q?", "evidence": [3]}', ""])
def test_a_line_that_is_not_a_question_is_reported_with_its_number(tmp_path: Path, line: str) -> None:
    with pytest.raises(Rejected, match=r"qa\.jsonl:2 is not a question"):
        read("own", *_write(tmp_path, {"question": "q?", "evidence": []}, line))


def test_an_unknown_or_absent_set_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Rejected, match="enterprise"):
        load("nonsense")
    with pytest.raises(Rejected, match="put them there"):
        read("own", tmp_path / "none", tmp_path / "none.jsonl")


def test_questions_about_a_part_of_the_corpus_keep_the_unanswerable_ones(tmp_path: Path) -> None:
    lines = [{"question": "q?", "evidence": [{"doc": "x/a.md"}]}, {"question": "r?", "evidence": []}]
    question_set = read("own", *_write(tmp_path, *lines))
    assert [each.text for each in question_set.about([]).questions] == ["r?"]
    assert len(question_set.about(["x/a.md"]).questions) == 2


def test_rows_and_files_have_the_uris_of_their_sources() -> None:
    assert gold_uri("x/a b.md", "s3://docs", "s3://in/rows") == "s3://docs/x/a%20b.md"
    assert gold_uri("tables/tickets#T-1", "s3://docs", "s3://in/rows") == "s3://in/rows/tickets/T-1.json"


def test_the_sets_that_the_project_is_measured_on_can_be_read(shared: Path) -> None:
    enterprise, northwind = load("enterprise"), load("northwind")
    assert (len(enterprise.questions), len(enterprise.documents())) == (703, 158)
    assert sum(not each.gold for each in northwind.questions) == 45
    assert {each.kind for each in load("sample").questions} >= {"unanswerable"}
