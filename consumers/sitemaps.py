"""Sitemaps and indexes of sitemaps (sitemaps.org protocol 0.9), as XML, gzip or lines of text."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from io import BytesIO

from lxml import etree

from consumers.fetching import gunzip
from rag.errors import Rejected

MAX_BYTES = 50 * 2**20  # of one sitemap, which is the protocol's limit


@dataclass(frozen=True, slots=True)
class Sitemap:
    """``pages`` is address → time of the last change as the site wrote it, ``""`` if it wrote none. ``sitemaps`` are those of an index."""

    pages: dict[str, str]
    sitemaps: tuple[str, ...] = ()


def read_sitemap(content: bytes, *, limit: int = MAX_BYTES) -> Sitemap:
    """Read a sitemap. Raises Rejected for content that is none, such as the page that a site shows for everything it does not have."""
    if content.startswith(b"\x1f\x8b"):
        content = gunzip(content, limit)
    if not content.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"<"):
        return Sitemap(dict.fromkeys(_lines(content), ""))
    entries = list(_entries(content))
    pages = {address: changed for kind, address, changed in entries if kind == "url"}
    return Sitemap(pages, tuple(address for kind, address, _ in entries if kind == "sitemap"))


def _lines(content: bytes) -> list[str]:
    """Return the lines of a text sitemap. Each must be an address, so that no other text is taken for one."""
    try:
        lines = [line.strip() for line in content.decode("utf-8-sig").splitlines() if line.strip()]
    except UnicodeDecodeError:
        lines = []
    if not lines or any(not line.startswith(("http://", "https://")) for line in lines):
        raise _not_a_sitemap("neither XML nor lines of addresses")
    return lines


def _entries(content: bytes) -> Iterator[tuple[str, str, str]]:
    """Yield kind (``url`` or ``sitemap``), address and time of change. Elements are released as they are read."""
    parser = etree.iterparse(
        BytesIO(content), events=("start", "end"), resolve_entities=False, no_network=True, load_dtd=False
    )
    try:
        depth = 0
        for event, element in parser:
            name = _local_name(element)
            if event == "start":
                depth += 1
                if depth == 1 and name not in {"urlset", "sitemapindex"}:
                    raise _not_a_sitemap(f"its root is <{name[:40]}>")
                continue
            depth -= 1
            if depth == 1 and name in {"url", "sitemap"}:
                texts = {_local_name(child): (child.text or "").strip() for child in element}
                if texts.get("loc"):
                    yield name, texts["loc"], texts.get("lastmod", "")
                element.clear()
                while element.getprevious() is not None:
                    del element.getparent()[0]
    except etree.XMLSyntaxError as error:
        raise _not_a_sitemap(f"line {error.lineno} is not XML") from None


def _local_name(element: etree._Element) -> str:
    return element.tag.rpartition("}")[2] if isinstance(element.tag, str) else ""


def _not_a_sitemap(why: str) -> Rejected:
    return Rejected(f"not a sitemap: {why}", reason="bad_sitemap")
