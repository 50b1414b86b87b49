from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from governance.mentions import Identifier
from rag.errors import Rejected
from rag.identifiers import MAX_WORDS, canonical, folded, spellings
from rag.ids import Ids

IDS = Ids(b"0123456789abcdef")
EMAIL, PHONE, IBAN = "jane.doe+x@example.co.uk", "+44 20 7946 0958", "DE89 3704 0044 0532 0130 00"
FORMS = {
    "email": [EMAIL, "Jane.Doe+X@EXAMPLE.co.uk", "o'neil@example.com", "käthe@bücher.example"],
    "phone": [PHONE, "(020) 7946-0958", "02079460958", "+1-984-182-0190", "03.93.92.16.85", "416 60 039"],
    "iban": [IBAN, "de89370400440532013000", "GB26-YVOK-0923-4647-7929-23"],
    "id": ["C-4711", "emp_0815", "#4711", "123e4567-e89b-42d3-a456-426614174000", "460-89-9847", "4454794511390933"],
    "custom": ["Blue Folder 9", "project\tbluebird"],
}
WRITTEN = [(kind, value) for kind, values in FORMS.items() for value in values]
FILLER = st.text(st.sampled_from("ab1 29.,;:@-_/()[]<>'\"\n\t#+ü仮"), max_size=40)
EDGES = st.sampled_from(
    ["", " ", "\n", "(", ")", ".", ",", ";", ":", "<", ">", '"', "/", "mailto:", "tel:", "仮", "x", "7"]
)


def found(value: str, text: str) -> bool:
    return IDS.people_in("acme", text, people(value, "somebody else")) == set(people(value))


def people(*values: str) -> dict[str, int]:
    return {IDS.subject_id("acme", each): len(canonical(each)) for each in values}


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Jane@Example.com", " jane@EXAMPLE.com "),
        ("ｊａｎｅ@example.com", "ja\u200bne@example.com"),
        ("+44 20 7946 0958", "44 (20) 7946-0958"),
        (IBAN, "de89-3704-0044-0532-0130-00"),
        ("blue  folder\n9", "Blue Folder 9"),
    ],
)
def test_one_identifier_has_one_pseudonym_in_every_spelling(one: str, other: str) -> None:
    assert canonical(one) == canonical(other)
    assert IDS.subject_id("acme", one) == IDS.subject_id("acme", other)


@pytest.mark.parametrize(
    ("one", "other"),
    [("jane.doe@example.com", "janedoe@example.com"), ("C-4711", "C4711"), ("C-4711", "4711"), ("#4711", "4711"),
     ("+44 20 7946 0958", "20 7946 0958"), ("12-345", "12345")],
)  # fmt: skip
def test_two_identifiers_have_two_pseudonyms(one: str, other: str) -> None:
    assert IDS.subject_id("acme", one) != IDS.subject_id("acme", other)


@given(st.sampled_from(WRITTEN), FILLER, EDGES, EDGES, FILLER)
@example(("phone", PHONE), "", "", "", "_")
@example(("email", EMAIL), "", "", ".", "-")
@example(("id", "#4711"), "", "", "/", "")
def test_what_an_officer_is_shown_as_a_mention_is_recognized_later(
    written: tuple[str, str], before: str, left: str, right: str, after: str
) -> None:
    """The dry run searches for the identifier, admission for its hash: what the first finds, the second does not miss."""
    kind, value = written
    text = f"{before}{left}{value}{right}{after}"
    if Identifier(kind, value).is_in(text):
        assert found(value, text)


@given(
    st.text(st.sampled_from("a1 .-@+/\n"), max_size=60), st.text(st.sampled_from("a1 .-@+/"), min_size=3, max_size=12)
)
def test_what_is_recognized_is_in_the_text(text: str, value: str) -> None:
    """Nothing is made up: the letters and digits of a recognized identifier stand in the text in their order."""
    if not found(value, text):
        return
    essence = "".join(each for each in canonical(value) if each.isalnum())
    assert essence in "".join(each for each in folded(text) if each.isalnum())


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (EMAIL, f"mary-{EMAIL}"),
        (EMAIL, f"{EMAIL}.au"),
        ("jane@example.com", "jane at example.com"),
        (PHONE, "1 44 20 7946 09581"),
        (PHONE, "44 20 and 7946 0958"),
        ("C-4711", "C-47110"),
        ("4711x", "4711 x"),
        ("Blue Folder 9", "blue folders 9"),
    ],
)
def test_something_longer_or_other_is_nobody(value: str, text: str) -> None:
    assert not found(value, text)


def test_another_tenant_or_nobody_has_other_pseudonyms() -> None:
    assert not IDS.people_in("globex", EMAIL, people(EMAIL))
    assert not IDS.people_in("acme", EMAIL, {})


@pytest.mark.parametrize("kind", ["id", "custom"])
def test_an_identifier_that_could_not_be_recognized_is_refused(kind: str) -> None:
    Identifier(kind, " ".join("word" for _ in range(MAX_WORDS)))
    with pytest.raises(Rejected, match="9 words, 1 to 8"):
        Identifier(kind, " ".join("word" for _ in range(MAX_WORDS + 1)))


@pytest.mark.parametrize("value", ["(4711)", "4711.", "##4711", "+++"])
def test_an_identifier_with_marks_around_it_is_refused(value: str) -> None:
    with pytest.raises(Rejected):
        Identifier("custom", value)


@pytest.mark.parametrize("part", ["a@", "!a@", "1 ", "a.b-c_", "(((", "de89 ", "é", "a!b@c.d "])
def test_a_hostile_text_costs_no_more_than_its_length(part: str) -> None:
    sizes = [sum(len(each) for each in spellings(part * number)) for number in (2_000, 4_000)]
    assert sizes[1] <= 2.1 * max(sizes[0], 1)
    assert sizes[0] <= 2_000 * len(part) * 250


EXACT = {
    "EMAIL_ADDRESS": "email", "PHONE_NUMBER": "phone", "IBAN_CODE": "iban", "CREDIT_CARD": "id", "US_SSN": "id",
    "IP_ADDRESS": "id", "US_DRIVER_LICENSE": "id",
}  # fmt: skip


def test_every_annotated_identifier_is_recognized_and_no_other_text_is(shared: Path) -> None:
    texts = [json.loads(line) for line in (shared / "people" / "pii_spans.jsonl").read_text().splitlines()]
    annotated: dict[str, set[str]] = defaultdict(set)  # subject id → the texts whose annotations have it
    kinds: dict[str, str] = {}
    lengths: dict[str, int] = {}
    for text in texts:
        for span in text["spans"]:
            if span["type"] in EXACT:
                subject = IDS.subject_id("acme", span["value"])
                annotated[subject].add(text["id"])
                lengths |= people(span["value"])
                kinds[subject] = span["type"]
    recognized: dict[str, set[str]] = defaultdict(set)
    for text in texts:
        for subject in IDS.people_in("acme", text["text"], lengths):
            recognized[subject].add(text["id"])
    assert len(annotated) > 300
    wrong = {(kinds[each], text) for each in annotated for text in annotated[each] ^ recognized[each]}
    assert not wrong
