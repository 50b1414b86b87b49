from __future__ import annotations

from collections.abc import AsyncIterator
from ipaddress import ip_network

import pytest

from consumers import robots
from consumers.fetching import Fetcher
from consumers.robots import Robots, is_unlisted
from rag.errors import Rejected, Unavailable
from tests.fakes.site import Site


@pytest.fixture
async def fetcher() -> AsyncIterator[Fetcher]:
    async with Fetcher(agent="Test/1", networks=(ip_network("127.0.0.0/8"),)) as fetcher:
        yield fetcher


async def test_the_rules_for_our_name_apply(site: Site, url: str, fetcher: Fetcher) -> None:
    site.write(
        "/robots.txt",
        "User-agent: *\nDisallow: /\n\nUser-agent: Tidemark\nDisallow: /private/\nAllow: /private/open\nCrawl-delay: 2",
        "text/plain",
    )
    rules = Robots()
    assert rules.delay(url) == 0
    for path in ("/", "/page", "/private/open"):
        await rules.require_allowed(fetcher, url + path)
    for path in ("/private/", "/private/page?x=1"):
        with pytest.raises(Rejected, match=r"robots\.txt of 127.* does not allow") as error:
            await rules.require_allowed(fetcher, url + path)
        assert error.value.reason == "disallowed"
    assert rules.delay(url) == 2
    assert site.asked == [("/robots.txt", 200)], "the rules are read once"


async def test_a_site_without_rules_allows_everything(url: str, fetcher: Fetcher) -> None:
    await Robots().require_allowed(fetcher, f"{url}/page")


async def test_rules_that_cannot_be_read_stop_the_visits_for_a_while(
    site: Site, url: str, fetcher: Fetcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    site.fail("/robots.txt", 503)
    rules = Robots()
    for _ in range(3):
        with pytest.raises(Unavailable, match=r"robots\.txt of http://127.* answers 503"):
            await rules.require_allowed(fetcher, f"{url}/page")
    assert len(site.asked) == 1
    monkeypatch.setattr(robots, "AGAIN_SECONDS", 0.0)
    rules = Robots()
    with pytest.raises(Unavailable):
        await rules.require_allowed(fetcher, f"{url}/page")
    site.write("/robots.txt", "")
    await rules.require_allowed(fetcher, f"{url}/page")


async def test_rules_that_are_too_large_are_no_permission(site: Site, url: str, fetcher: Fetcher) -> None:
    site.write("/robots.txt", "User-agent: *\nDisallow: /\n" + "#" * 600_000)
    with pytest.raises(Unavailable, match="cannot be read"):
        await Robots().require_allowed(fetcher, f"{url}/page")


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ("", False),
        ("noindex", True),
        ("NoIndex, nofollow", True),
        ("none", True),
        ("nofollow", False),
        ("tidemark: noindex", True),
        ("otherbot: noindex, nofollow", False),
        ("otherbot: noindex\nnoindex", True),
        ("noindexing", False),
    ],
)
def test_marks_in_a_header(header: str, expected: bool) -> None:
    assert is_unlisted({"x-robots-tag": header}, b"") is expected


@pytest.mark.parametrize(
    ("head", "expected"),
    [
        ('<meta name="robots" content="noindex">', True),
        ("<META NAME=Robots CONTENT='nofollow, NOINDEX'>", True),
        ('<meta name="tidemark" content="none">', True),
        ('<meta name="otherbot" content="noindex">', False),
        ('<meta name="description" content="what noindex means">', False),
        ("<title>none</title>", False),
        ("<meta content=noindex>", False),
    ],
)
def test_marks_in_a_page(head: str, expected: bool) -> None:
    page = f"<html><head>{head}</head><body>Text</body></html>".encode()
    assert is_unlisted({"content-type": "text/html; charset=utf-8"}, page) is expected
    assert is_unlisted({}, page) is expected
    assert not is_unlisted({"content-type": "text/plain"}, page)


@pytest.mark.parametrize("content", [b"", b"none", b"\x00none\xff", b"<!-- none -->"])
def test_content_without_html_has_no_marks(content: bytes) -> None:
    assert not is_unlisted({}, content)
