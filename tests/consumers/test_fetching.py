"""The client for addresses of strangers, against servers that do their worst."""

from __future__ import annotations

import asyncio
import gzip
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from ipaddress import ip_address, ip_network
from typing import Any

import pytest
from pydantic import ValidationError

from consumers import fetching
from consumers.fetching import Fetcher, FetchOptions, canonical, gunzip, is_public
from rag.errors import Rejected, Unavailable
from tests.fakes.site import Page, Site

HERE = (ip_network("127.0.0.0/8"),)
LIMIT = 2**20


@pytest.fixture
async def fetcher() -> AsyncIterator[Fetcher]:
    async with Fetcher(agent="Test/1", networks=HERE, timeout=5) as fetcher:
        yield fetcher


@asynccontextmanager
async def raw_server(answer: bytes, *, pause: float = 0.0) -> AsyncIterator[str]:
    """A server that sends ``answer`` byte by byte after any request, with a pause after each, and hangs up."""

    running: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        running.add(asyncio.current_task())
        try:
            await reader.readuntil(b"\r\n\r\n")
            for byte in answer:
                writer.write(bytes([byte]))
                await asyncio.sleep(pause)
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/"
    finally:
        server.close()
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("93.184.215.14", True),
        ("2606:2800:21f:cb07:6820:80da:af6b:8b2c", True),
        ("127.0.0.1", False),
        ("0.0.0.0", False),  # noqa: S104 - nothing is bound
        ("10.1.2.3", False),
        ("172.16.0.1", False),
        ("192.168.0.1", False),
        ("100.64.0.1", False),
        ("169.254.169.254", False),
        ("224.0.0.1", False),
        ("255.255.255.255", False),
        ("::1", False),
        ("::", False),
        ("fe80::1%eth0", False),
        ("fd00:ec2::254", False),
        ("ff02::1", False),
        ("::ffff:169.254.169.254", False),
        ("::ffff:93.184.215.14", True),
        ("64:ff9b::a9fe:a9fe", False),  # 169.254.169.254 behind a translator
        ("64:ff9b::5db8:d70e", True),
        ("2002:7f00:1::", False),  # 127.0.0.1 by 6to4
        ("2001:0:53aa:64c:0:fbff:a247:28f1", False),
    ],
)
def test_public_addresses(address: str, expected: bool) -> None:
    assert is_public(ip_address(address)) is expected


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("HTTP://Example.COM:80/a#top", "http://example.com/a"),
        ("https://example.com", "https://example.com/"),
        ("https://bücher.example/ä?q=ö", "https://xn--bcher-kva.example/%C3%A4?q=%C3%B6"),
        (" https://example.com/a b ", "https://example.com/a%20b"),
    ],
)
def test_an_address_has_one_form(url: str, expected: str) -> None:
    assert canonical(url) == expected
    assert canonical(expected) == expected


@pytest.mark.parametrize(
    "url",
    [
        "",
        "/a",
        "file:///etc/passwd",
        "ftp://example.com/",
        "http:///a",
        "https://ann:pw@example.com/",
        "http://a\x00b/",
        "x" * 3000,
    ],
)
def test_other_addresses_are_refused(url: str) -> None:
    with pytest.raises(Rejected, match="web address refused") as error:
        canonical(url)
    assert error.value.reason == "bad_url"


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "[::ffff:127.0.0.1]", "2130706433", "0x7f.1"])
async def test_a_private_address_is_never_asked(site: Site, url: str, host: str) -> None:
    async with Fetcher(agent="Test/1") as fetcher:
        with pytest.raises(Rejected, match="has no public address: add its network to networks") as error:
            await fetcher.get(url.replace("127.0.0.1", host), limit=LIMIT)
    assert error.value.reason == "private_address"
    assert site.asked == []


@pytest.mark.parametrize("target", ["http://10.0.0.1/", "http://169.254.169.254/latest/meta-data", "//[::1]/"])
async def test_a_redirect_to_a_private_address_is_not_followed(
    site: Site, url: str, fetcher: Fetcher, target: str
) -> None:
    site.fail("/", 302, location=target)
    with pytest.raises(Rejected) as error:
        await fetcher.get(url, limit=LIMIT)
    assert error.value.reason == "private_address"


async def test_the_address_that_was_checked_is_the_one_that_is_connected_to(
    site: Site, url: str, fetcher: Fetcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A name that gives another address when it is asked a second time, which would be the one of the connection."""
    site.write("/", "Hello")
    answers = [[ip_address("10.0.0.1"), ip_address("127.0.0.1")], [ip_address("10.0.0.1")]]

    async def resolve(host: str, port: int) -> list[Any]:
        assert host == "rebound.example"
        return answers.pop(0)

    monkeypatch.setattr(fetching, "_resolve", resolve)
    answer = await fetcher.get(url.replace("127.0.0.1", "rebound.example"), limit=LIMIT)
    assert answer.content == b"Hello"
    assert site.requests[0].headers["host"].startswith("rebound.example:")
    async with Fetcher(agent="Test/1", networks=HERE) as second:
        with pytest.raises(Rejected, match=r"rebound\.example"):
            await second.get(url.replace("127.0.0.1", "rebound.example"), limit=LIMIT)


async def test_a_redirect_is_followed_when_it_is_permitted(site: Site, url: str, fetcher: Fetcher) -> None:
    site.fail("/old", 301, location="/new")
    site.write("/new", "Moved")
    hops: list[str] = []

    async def permit(hop: str) -> None:
        hops.append(hop.removeprefix(url))

    answer = await fetcher.get(f"{url}/old", limit=LIMIT, permit=permit)
    assert (answer.url, answer.content, hops) == (f"{url}/new", b"Moved", ["/old", "/new"])


@pytest.mark.parametrize(("target", "reason"), [("/", "redirects"), ("file:///etc/passwd", "bad_url")])
async def test_a_bad_redirect_is_refused(site: Site, url: str, fetcher: Fetcher, target: str, reason: str) -> None:
    site.fail("/", 302, location=target)
    with pytest.raises(Rejected) as error:
        await fetcher.get(url, limit=LIMIT)
    assert error.value.reason == reason
    assert len(site.asked) <= 6


async def test_compressed_content_is_decoded(site: Site, url: str, fetcher: Fetcher) -> None:
    site.write("/", gzip.compress(b"text " * 1000), content_encoding="gzip")
    assert (await fetcher.get(url, limit=LIMIT)).content == b"text " * 1000


@pytest.mark.parametrize(
    ("page", "reason"),
    [
        (Page(b"x" * (LIMIT + 1)), "too_large"),
        (Page(gzip.compress(bytes(50 * LIMIT)), headers={"content-encoding": "gzip"}), "too_large"),
        (Page(b"no gzip at all", headers={"content-encoding": "gzip"}), "bad_encoding"),
        (Page(b"x", headers={"content-encoding": "br"}), "bad_encoding"),
    ],
    ids=["large", "bomb", "no gzip", "other encoding"],
)
async def test_content_that_cannot_be_read_is_refused(
    site: Site, url: str, fetcher: Fetcher, page: Page, reason: str
) -> None:
    site.pages["/"] = page
    with pytest.raises(Rejected) as error:
        await fetcher.get(url, limit=LIMIT)
    assert error.value.reason == reason


async def test_a_page_of_exactly_the_limit_is_read(site: Site, url: str, fetcher: Fetcher) -> None:
    site.write("/", bytes(LIMIT))
    assert len((await fetcher.get(url, limit=LIMIT)).content) == LIMIT


async def test_an_incomplete_answer_is_no_answer(site: Site, url: str, fetcher: Fetcher) -> None:
    site.write("/", gzip.compress(b"text " * 1000)[:-8], content_encoding="gzip")
    with pytest.raises(Unavailable, match="ended before"):
        await fetcher.get(url, limit=LIMIT)
    for answer in (b"", b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf", b"SSH-2.0-server\r\n"):
        async with raw_server(answer) as other:
            with pytest.raises(Unavailable, match="does not answer"):
                await fetcher.get(other, limit=LIMIT)


async def test_a_server_that_trickles_is_left_in_time() -> None:
    trickle = raw_server(b"HTTP/1.1 200 OK\r\n\r\n" + b"x" * 1000, pause=0.05)
    async with trickle as other, Fetcher(agent="Test/1", networks=HERE, timeout=0.3) as fetcher:
        with pytest.raises(Unavailable, match="TimeoutError"):
            await fetcher.get(other, limit=LIMIT)


async def test_repeated_headers_have_a_line_each(fetcher: Fetcher) -> None:
    async with raw_server(b"HTTP/1.1 200 OK\r\nX-Robots-Tag: a\r\nX-Robots-Tag: b\r\n\r\n") as other:
        assert (await fetcher.get(other, limit=LIMIT)).headers["x-robots-tag"] == "a\nb"


def test_a_gzip_file_is_bounded_and_complete() -> None:
    assert gunzip(gzip.compress(b"text"), 4) == b"text"
    for content, reason in ((gzip.compress(b"texts"), "too_large"), (gzip.compress(b"text")[:-9], "bad_encoding")):
        with pytest.raises(Rejected) as error:
            gunzip(content, 4)
        assert error.value.reason == reason


@pytest.mark.parametrize("network", ["169.254.169.254/32", "0.0.0.0/0", "fe80::/64"])
def test_networks_that_serve_credentials_cannot_be_allowed(network: str) -> None:
    with pytest.raises(ValidationError, match="addresses that serve credentials: name narrower networks"):
        FetchOptions(networks=(network,))  # type: ignore[arg-type]
