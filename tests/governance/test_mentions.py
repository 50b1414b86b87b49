from __future__ import annotations

import pytest

from governance.mentions import Identifier
from rag.errors import Rejected


@pytest.mark.parametrize(
    ("kind", "value", "text"),
    [
        ("email", "Jane.Doe@Example.com", "Write to JANE.DOE@example.COM."),
        ("email", "jane@example.com", "<jane@example.com>"),
        ("email", "jane@example.com", "ｊａｎｅ@example.com"),
        ("email", "jane@example.com", "ja\u200bne@example.com"),
        ("email", "käthe@example.com", "KA\u0308THE@EXAMPLE.COM"),
        ("phone", "+44 20 7946 0958", "Call 44 20 7946 0958 or +44 (20) 7946-0958"),
        ("phone", "02079460958", "Tel. 020/7946.0958"),
        ("iban", "DE89 3704 0044 0532 0130 00", "IBAN de89370400440532013000"),
        ("iban", "DE89370400440532013000", "DE89 3704 0044 0532 0130 00"),
        ("id", "C-4711", "customer c-4711, since May"),
        ("custom", "Blue Folder 9", "see the BLUE\nfolder  9"),
        ("name", "Jane  Doe", "ms. jane doe"),
    ],
)
def test_a_mention_is_found_in_any_spelling(kind: str, value: str, text: str) -> None:
    assert Identifier(kind, value).is_in(text)


@pytest.mark.parametrize(
    ("kind", "value", "text"),
    [
        ("email", "jane@example.com", "mary-jane@example.community"),
        ("email", "ane@example.com", "jane@example.com"),
        ("email", "jane@example.com", "mary-jane@example.com"),
        ("email", "jane@example.com", "jane@example.com.au"),
        ("email", "jane@example.com", "jane at example.com"),
        ("phone", "2079460958", "120794609589"),
        ("iban", "DE89370400440532013000", "DE893704004405320130001"),
        ("id", "C-471", "C-4711"),
        ("name", "Jane Doe", "Jane Doerr"),
        ("name", "Jane Doe", "Doe, Jane"),
    ],
)
def test_something_longer_or_other_is_no_mention(kind: str, value: str, text: str) -> None:
    assert not Identifier(kind, value).is_in(text)


@pytest.mark.parametrize(
    ("kind", "value"),
    [("email", "jane"), ("email", "a b@c"), ("email", ""), ("phone", "12 34"), ("iban", "DE89"), ("id", "7"), ("name", "x"),
     ("face", "Jane"), ("custom", "x" * 300)],
)  # fmt: skip
def test_an_identifier_that_would_match_too_much_is_refused(kind: str, value: str) -> None:
    with pytest.raises(Rejected):
        Identifier(kind, value)


def test_a_long_text_without_a_mention_is_read_once() -> None:
    """The pattern has no nested repetition, so a hostile text costs no more than any other of its length."""
    assert not Identifier("phone", "11111112").is_in("1 " * 200_000 + "x")
