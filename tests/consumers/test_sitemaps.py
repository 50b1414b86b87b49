from __future__ import annotations

import gzip

import pytest

from consumers.sitemaps import Sitemap, read_sitemap
from rag.errors import Rejected
from tests.fakes.site import sitemap, sitemap_index

A, B = "https://example.com/a?x=1&amp;y=2", "https://example.com/b"


def test_pages_with_their_times_of_change() -> None:
    content = sitemap(A, B, changed="2026-11-01").encode()
    pages = {"https://example.com/a?x=1&y=2": "2026-11-01", B: "2026-11-01"}
    assert read_sitemap(content) == read_sitemap(gzip.compress(content)) == Sitemap(pages)


def test_an_index_names_sitemaps() -> None:
    assert read_sitemap(sitemap_index(B).encode()) == Sitemap({}, (B,))


def test_lines_of_text() -> None:
    assert read_sitemap(b"\xef\xbb\xbfhttps://example.com/b\r\n\r\nhttps://example.com/c\n").pages == {
        B: "",
        f"{B[:-1]}c": "",
    }


def test_an_empty_sitemap_has_no_page() -> None:
    assert read_sitemap(sitemap().encode()) == Sitemap({})


def test_entries_of_other_namespaces_are_skipped() -> None:
    content = f"""<urlset xmlns="http://www.sitemaps.org/schemas/sitemap/0.9" xmlns:image="urn:image">
      <url><image:image><image:loc>https://example.com/i.png</image:loc></image:image><loc>{B}</loc></url>
      <url><lastmod>2026</lastmod></url><!-- nothing --></urlset>"""
    assert read_sitemap(content.encode()).pages == {B: ""}


BOMB = '<!DOCTYPE x [<!ENTITY a "https://example.com/"><!ENTITY b "&a;&a;&a;&a;">]>' + sitemap("&b;")
FILE = '<!DOCTYPE x [<!ENTITY a SYSTEM "file:///etc/passwd">]>' + sitemap("&a;")


@pytest.mark.parametrize("content", [BOMB, FILE], ids=["entities", "file"])
def test_entities_are_not_expanded(content: str) -> None:
    assert read_sitemap(content.replace('<?xml version="1.0"?>', "").encode()).pages == {}


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", "neither XML nor lines"),
        (b"Sorry, we are closed.", "neither XML nor lines"),
        (b"\xff\xfe\x00", "neither XML nor lines"),
        (b"<html><body>Not found</body></html>", "its root is <html>"),
        (b"<!doctype html><html><body>Not found</body></html>", "is not XML"),
        (sitemap(B).encode()[:-10], "is not XML"),
        (gzip.compress(sitemap(B).encode())[:-9], "gzip file is not complete"),
    ],
)
def test_anything_else_is_no_sitemap(content: bytes, why: str) -> None:
    """A page of an error, or half a sitemap, must not be read as a list without pages."""
    with pytest.raises(Rejected, match=why):
        read_sitemap(content)


def test_a_sitemap_that_grows_when_it_is_unpacked_is_refused() -> None:
    with pytest.raises(Rejected, match="more than 1,000 bytes"):
        read_sitemap(gzip.compress(b"<urlset>" + b" " * 1000), limit=1000)
