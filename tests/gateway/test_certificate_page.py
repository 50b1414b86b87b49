"""The page of a certificate: everything that the certificate states, as text and never as markup."""

from __future__ import annotations

from datetime import UTC, datetime
from html.parser import HTMLParser

import pytest

from gateway.certificate_page import page
from governance.certificates import statement
from rag.models import Erased, Erasure

NOW = datetime(2026, 11, 27, 12, 0, tzinfo=UTC)
MARKUP = "<script>alert(1)</script><img src=x onerror=alert(1)>"


class Reader(HTMLParser):
    """The tags and the text of a page."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: set[str] = set()
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attrs}

    def handle_data(self, data: str) -> None:
        self.text += data


def erasure(reason: str = "", subjects: tuple[str, ...] = ("p" * 32,)) -> Erasure:
    return Erasure(
        erasure_id="0192e8a0-0000-7000-8000-000000000001",
        tenant="acme",
        kind="subject",
        reason=reason,
        actor="officer-pseudonym",
        documents=(Erased("document-1", "docs", "s3://docs/cv_jane_doe.pdf"),),
        requested_at=NOW,
        deadline=NOW,
        next_at=None,
        subject_ids=subjects,
        affected={"documents": 1, "chunks": 0},
        stores={"vectors": "points purged", "artifacts": "objects gone"},
        history=(),
    )


def test_the_page_holds_every_statement_of_the_certificate() -> None:
    claims = statement(erasure("art. 17"), now=NOW, checked={"vectors": "3 of 3 found"})
    text = Reader(page("head.payload.signature\n", claims)).text
    for stated in (
        claims["certificate_id"], "acme", "art. 17", "officer-pseudonym", "document-1", "p" * 32, "2026-11-27 12:00:00 UTC",
        "vectors", "points purged", "3 of 3 found", "objects gone", claims["code_version"], "head.payload.signature", *claims["unproven"],
    ):  # fmt: skip
        assert stated in text
    assert "jane" not in text


@pytest.mark.parametrize("field", ["reason", "tenant", "claim"])
def test_markup_in_a_certificate_is_shown_as_text(field: str) -> None:
    claims = statement(erasure(), now=NOW, checked={})
    if field == "reason":
        claims["request"]["reason"] = MARKUP
    elif field == "tenant":
        claims["tenant"] = MARKUP
    else:
        claims["stores"]["vectors"]["claim"] = MARKUP
    shown = Reader(page("x.y.z", claims))
    assert MARKUP in shown.text
    assert not shown.tags & {"script", "img"}
    assert "onerror" not in shown.attributes


def test_the_page_loads_nothing_and_omits_empty_lists() -> None:
    shown = Reader(page("x.y.z", statement(erasure(subjects=()), now=NOW, checked={})))
    assert "People" not in shown.text
    assert not shown.attributes & {"src", "href"}
