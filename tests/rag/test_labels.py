from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rag.errors import Rejected
from rag.labels import decode_label, encode_label, join_label, split_label

TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)
PRINTABLE = st.text(st.sampled_from("%2C,=? ") | st.characters(exclude_categories=["C", "Z"]))
NAMES = st.lists(PRINTABLE.filter(bool))


@given(NAMES)
def test_any_list_of_names_comes_back_as_it_was(names: list[str]) -> None:
    label = join_label(names)
    assert list(split_label(label)) == names
    assert label.isascii()
    assert label.isprintable()


@given(PRINTABLE)
def test_any_printable_text_comes_back_as_it_was(text: str) -> None:
    assert decode_label(encode_label(text)) == text


@given(TEXTS.filter(lambda text: not text.isprintable()))
def test_an_unprintable_text_is_refused(text: str) -> None:
    with pytest.raises(Rejected, match="printable"):
        decode_label(encode_label(text))


@pytest.mark.parametrize(
    ("label", "names"),
    [("group:a, user:b", ("group:a", "user:b")), ("", ()), (" , ,", ()), ("user:a%2Cb", ("user:a,b",)),
     ("user:al%2569ce", ("user:al%69ce",)), ("50%", ("50%",)), ("%20a", (" a",))],
)  # fmt: skip
def test_a_label_of_another_writer_is_decoded_once(label: str, names: tuple[str, ...]) -> None:
    assert split_label(label) == names


@pytest.mark.parametrize("label", ["%ff", "a,%C3", "%00", "a\n"])
def test_a_label_that_is_not_printable_text_is_refused(label: str) -> None:
    with pytest.raises(Rejected) as caught:
        split_label(label)
    assert caught.value.reason == "bad_label"
