"""Whether the owner of a site lets a page be read and shown: robots.txt (RFC 9309), and the marks ``noindex`` of an answer."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass

from lxml import etree, html
from protego import Protego

from consumers.fetching import Fetcher, host_of
from rag.errors import Rejected, Unavailable

PRODUCT = "tidemark"  # our name in robots.txt and in marks
AGENT = "Tidemark/1.0"
FRESH_SECONDS = 3600.0
AGAIN_SECONDS = 60.0  # until the next try when the rules could not be read
MAX_BYTES = 500 * 1024  # of robots.txt, as RFC 9309 asks
MAX_DELAY = 60.0  # seconds; a larger Crawl-delay counts as this


@dataclass(frozen=True, slots=True)
class _Rules:
    rules: Protego | None
    fresh_until: float
    error: str = ""  # why there are no rules


class Robots:
    """The robots.txt of each host, read again every hour. A host whose file cannot be read now is not visited (RFC 9309, 2.3.1.4)."""

    def __init__(self) -> None:
        self._rules: dict[str, _Rules] = {}

    async def require_allowed(self, fetcher: Fetcher, url: str) -> None:
        """Raise Rejected (``disallowed``) when the owner refuses the page, and Unavailable when the rules cannot be read."""
        if not (await self._of(fetcher, url)).can_fetch(url, PRODUCT):
            raise Rejected(f"robots.txt of {host_of(url)} does not allow the page", reason="disallowed")

    def delay(self, url: str) -> float:
        """Return the seconds that the site asks for between two requests, as far as its rules are known."""
        known = self._rules.get(_root(url))
        return min(float(known.rules.crawl_delay(PRODUCT) or 0), MAX_DELAY) if known and known.rules else 0.0

    async def _of(self, fetcher: Fetcher, url: str) -> Protego:
        root, now = _root(url), time.monotonic()
        known = self._rules.get(root)
        if known is None or now >= known.fresh_until:
            try:
                known = _Rules(Protego.parse(await _read(fetcher, root)), now + FRESH_SECONDS)
            except Unavailable as error:
                known = _Rules(None, now + AGAIN_SECONDS, str(error))
            self._rules[root] = known
        if known.rules is None:
            raise Unavailable(known.error)
        return known.rules


async def _read(fetcher: Fetcher, root: str) -> str:
    try:
        answer = await fetcher.get(f"{root}/robots.txt", limit=MAX_BYTES)
    except Rejected as error:
        raise Unavailable(f"robots.txt of {root} cannot be read: {error}") from error
    if answer.status >= 500 or answer.status == 429:
        raise Unavailable(f"robots.txt of {root} answers {answer.status}")
    return answer.content.decode("utf-8", errors="replace") if answer.status == 200 else ""


def _root(url: str) -> str:
    return f"{url.partition('://')[0]}://{host_of(url)}"


def is_unlisted(headers: Mapping[str, str], content: bytes) -> bool:
    """Return whether the page must not be in a search: ``noindex`` or ``none`` in a header, or in a meta element of the HTML."""
    if any(map(_forbids, headers.get("x-robots-tag", "").splitlines())):
        return True
    if "html" not in headers.get("content-type", "html").lower():
        return False
    if b"noindex" not in content.lower() and b"none" not in content.lower():
        return False
    try:
        page = html.fromstring(content)
    except (etree.ParserError, etree.XMLSyntaxError, ValueError):
        return False  # no HTML
    marks = [each for each in page.iter("meta") if str(each.get("name", "")).strip().lower() in {"robots", PRODUCT}]
    return any(_forbids(str(each.get("content", ""))) for each in marks)


def _forbids(value: str) -> bool:
    """Return whether a mark forbids. A part such as ``otherbot: noindex`` is for another; the parts after it are, too."""
    for part in value.lower().split(","):
        name, colon, rest = part.rpartition(":")
        if colon and name.strip() != PRODUCT:
            return False
        if rest.strip() in {"noindex", "none"}:
            return True
    return False
