import pytest
from hypothesis import given
from hypothesis import strategies as st

from rag.answer.passages import MAX_QUOTE, best_passage, passages, terms
from tests.fakes.hits import hit


def quotes(text: str, **more: object) -> list[str]:
    chunk = hit(text, **more).chunk  # type: ignore[arg-type]
    return [chunk.text[each.start : each.end] for each in passages(chunk)]


def test_sentences_end_where_sentences_end() -> None:
    text = "Dr. Smith paid $1,234.50 on 3.5.2024. Was it late? Yes (e.g. by J. Doe). “Never!” He left.\n\nNew paragraph"
    assert quotes(text) == [
        "Dr. Smith paid $1,234.50 on 3.5.2024.", "Was it late?", "Yes (e.g. by J. Doe).", "“Never!”", "He left.", "New paragraph",
    ]  # fmt: skip


def test_a_sentence_over_two_lines_is_one() -> None:
    assert quotes("The pump must be\nserviced every year. It is blue.") == [
        "The pump must be\nserviced every year.", "It is blue.",
    ]  # fmt: skip
    (first, _) = passages(hit("The pump must be\nserviced every year. It is blue.").chunk)
    assert first.display == "The pump must be serviced every year."


def test_scripts_without_spaces_have_sentences_too() -> None:
    assert quotes("休暇は25日です。未使用分は失効します。") == ["休暇は25日です。", "未使用分は失効します。"]


def test_headings_are_not_quoted() -> None:
    assert quotes("Leave\n\nEmployees get 25 days.", section=("Handbook", "Leave")) == ["Employees get 25 days."]


def test_a_row_of_a_table_is_quoted_whole_and_displayed_with_its_columns() -> None:
    header = "Plan | Deductible | Copay"
    chunk = hit("Standard | $500 | $20\nPlus | $250", above=header).chunk
    first, second = passages(chunk)
    assert chunk.text[first.start : first.end] == "Standard | $500 | $20"
    assert (first.display, second.display) == (
        "Plan: Standard; Deductible: $500; Copay: $20",
        "Plan: Plus; Deductible: $250",
    )


def test_prose_in_a_record_is_quoted_by_the_sentence_and_short_fields_together() -> None:
    body = (
        "The barrier at the ford opened while 40 cm of water stood on the road. "
        "A hay bale lay under the radar, and the county added a sensor."
    )
    text = f"ASSIGNEE: Dana Whitlock\nTEAM: Field\nBODY: {body}\nID: 5045\nPRIORITY: P1"
    assert quotes(text) == [
        "ASSIGNEE: Dana Whitlock\nTEAM: Field",
        *(f"{sentence}." for sentence in body.rstrip(".").split(". ")),
        "ID: 5045\nPRIORITY: P1",
    ]
    assert [each.display for each in passages(hit(text).chunk)][-1] == "ID: 5045; PRIORITY: P1"


def test_a_record_of_many_fields_is_quoted_in_parts_without_a_loss() -> None:
    text = "\n".join(f"field {number}: {'x' * 50}" for number in range(30))
    assert "\n".join(quotes(text)) == text
    assert all(len(quote) <= MAX_QUOTE for quote in quotes(text))


def test_a_record_is_quoted_whole() -> None:
    chunk = hit("name: Heron R2\nprice: 129\nstock[0].place: Bergen").chunk
    (passage,) = passages(chunk)
    assert chunk.text[passage.start : passage.end] == chunk.text
    assert passage.display == "name: Heron R2; price: 129; stock[0].place: Bergen"


def test_a_text_without_sentences_is_cut_to_the_longest_quote() -> None:
    (words,), (letters,) = quotes("word " * 500), quotes("x" * 5000)
    assert len(words) <= MAX_QUOTE
    assert words.endswith("word")
    assert len(letters) == MAX_QUOTE


@given(st.text(alphabet=st.sampled_from("aB1 .!?\n|:\t\"'。é🚀"), max_size=300))
def test_passages_are_in_order_verbatim_and_do_not_overlap(text: str) -> None:
    quotable = passages(hit(text).chunk)
    ends = [0, *(each.end for each in quotable)]
    for before, each in zip(ends, quotable, strict=False):
        assert before <= each.start < each.end <= len(text)
        assert text[each.start : each.end] == text[each.start : each.end].strip()
        assert each.display == " ".join(each.display.split())


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("Policies", "policy"),
        ("Employees", "employee's"),
        ("classes", "class"),
        ("branches", "branch"),
        ("covering", "covered"),
    ],
)
def test_terms_fold_case_and_endings(first: str, second: str) -> None:
    assert terms(first) == terms(second)


def test_stop_words_are_not_terms() -> None:
    assert terms("How do you do?") == set()
    assert len(terms("the business of gas")) == 2


@pytest.mark.parametrize(
    ("claim", "quote"),
    [("Staff get 25 days of leave.", "All staff have 25 days."), ("The pump is blue", "A pump has a blue coat.")],
)
def test_the_best_passage_shares_most_with_the_claim(claim: str, quote: str) -> None:
    chunk = hit("All staff have 25 days. A pump has a blue coat. Nothing else matters.").chunk
    best = best_passage(claim, passages(chunk))
    assert best is not None
    assert best[0].display == quote
    assert 0 < best[1] <= 1


def test_a_text_without_letters_has_no_passages() -> None:
    assert best_passage("claim", []) is None
    assert passages(hit("").chunk) == passages(hit("--- * ---").chunk) == []
