"""Web pages: what a site says of its pages decides, and what it does not say changes nothing."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from consumers import sources, web
from consumers.runner import step
from rag.adapters.memory.events import MemoryEventLog
from rag.adapters.memory.ledger import MemoryLedger
from rag.adapters.memory.objects import MemoryObjects
from rag.errors import Unavailable
from rag.ids import Ids
from rag.settings import SourceSettings
from tests.consumers.test_feeds import rss
from tests.fakes.site import Site, sitemap, sitemap_index
from tests.fakes.world import World as IndexWorld

IDS = Ids(b"0123456789abcdef")
WEEK = 7 * 86_400.0


class World:
    """A site, and a source that reads it. ``options`` are those of the source."""

    def __init__(self, url: str, site: Site) -> None:
        self.url = url
        self.site = site
        self.options: dict[str, Any] = {"sitemaps": [f"{url}/sitemap.xml"]}
        self.objects = MemoryObjects("s3://internal")
        self.ledger = MemoryLedger()
        self.log = MemoryEventLog()
        self.stale_seconds = WEEK
        self.restart()

    def restart(self, **options: Any) -> None:
        self.options |= options
        chosen = SourceSettings(
            name="site",
            kind="web",
            tenant="acme",
            base_uri="s3://internal/site",
            principals=("group:staff",),
            options={"every": 1e-9, "delay": 0, "networks": ["127.0.0.0/8"], **self.options},
        )
        settings = SimpleNamespace(parked_stale_seconds=self.stale_seconds)
        parts = SimpleNamespace(objects=self.objects, ledger=self.ledger, settings=settings)
        self.stream = sources.streams(chosen, parts)["site"]

    async def step(self) -> int:
        """Run a turn and return the number of announced changes."""
        return await step(self.stream, IDS, self.log)

    def list(self, *paths: str, changed: str = "") -> None:
        self.site.write("/sitemap.xml", sitemap(*(f"{self.url}{path}" for path in paths), changed=changed), "text/xml")

    async def pages(self) -> dict[str, str]:
        """Return path → content of the stored pages."""
        found = {}
        async for state in self.objects.list("s3://internal/site"):
            key = state.uri.rsplit("%252F", 1)[-1]
            found[key] = (await self.objects.get(state.uri)).content.decode()
        return found


@pytest.fixture
def world(url: str, site: Site) -> World:
    return World(url, site)


@pytest.fixture(autouse=True)
def no_idling(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(web, "IDLE_SECONDS", 0.0)


async def start(world: World, **pages: str) -> None:
    """Let the site have the pages, and the source read them."""
    world.list(*(f"/{name}" for name in pages))
    for name, text in pages.items():
        world.site.write(f"/{name}", text)
    assert await world.step() == len(pages)
    assert await world.pages() == pages


async def test_pages_are_read_and_follow_their_changes(world: World) -> None:
    await start(world, a="The pump leaks.", b="The lamp is dark.")
    assert await world.step() == 0
    world.site.write("/a", "The pump was repaired.")
    assert await world.step() == 1
    assert (await world.pages())["a"] == "The pump was repaired."


async def test_an_unchanged_page_is_not_sent_again(world: World) -> None:
    await start(world, a="The pump leaks.")
    world.restart()
    assert await world.step() == 0
    assert world.site.asked_for("/a") == [200, 304]


async def test_a_page_without_validators_is_compared_by_its_content(world: World) -> None:
    world.list("/a")
    world.site.write("/a", "The pump leaks.", etag="\xe4")
    assert await world.step() == 1
    assert await world.step() == 0
    assert world.site.asked_for("/a") == [200, 200]
    assert "if-none-match" not in world.site.requests[-1].headers


@pytest.mark.parametrize("status", [404, 410, 451])
async def test_a_page_that_its_site_declares_gone_is_withdrawn(world: World, status: int) -> None:
    await start(world, a="A", b="B")
    world.site.fail("/a", status)
    assert await world.step() == 1
    assert await world.pages() == {"b": "B"}
    world.site.write("/a", "A is back")
    assert await world.step() == 1
    assert await world.pages() == {"a": "A is back", "b": "B"}


@pytest.mark.parametrize("status", [401, 403, 418, 500, 503, 204])
async def test_a_failure_changes_nothing(world: World, status: int) -> None:
    await start(world, a="A", b="B")
    world.site.fail("/a", status)
    assert await world.step() == 0
    assert await world.pages() == {"a": "A", "b": "B"}


async def test_a_page_that_fails_for_too_long_is_withdrawn_and_comes_back(world: World) -> None:
    await start(world, a="A", b="B")
    world.stale_seconds = 0.0
    world.restart()
    world.site.fail("/a", 403)
    assert await world.step() == 1
    assert await world.pages() == {"b": "B"}
    assert await world.step() == 0
    world.site.write("/a", "A")
    assert await world.step() == 1
    assert await world.pages() == {"a": "A", "b": "B"}


async def test_a_page_that_leaves_a_complete_sitemap_is_withdrawn(world: World) -> None:
    await start(world, a="A", b="B")
    world.list("/b")
    assert await world.step() == 1
    assert await world.pages() == {"b": "B"}
    world.list("/a", "/b")
    assert await world.step() == 1
    assert await world.pages() == {"a": "A", "b": "B"}


@pytest.mark.parametrize(
    "broken",
    ["", "<html>Down for maintenance</html>", "<urlset><url>", "Sorry", None],
    ids=["empty", "page", "half", "text", "error"],
)
async def test_a_sitemap_that_cannot_be_read_withdraws_nothing(world: World, broken: str | None) -> None:
    await start(world, a="A", b="B")
    if broken is None:
        world.site.fail("/sitemap.xml", 404)
    else:
        world.site.write("/sitemap.xml", broken)
    world.site.write("/a", "A changed")
    assert await world.step() == 1, "its pages are still visited"
    assert await world.pages() == {"a": "A changed", "b": "B"}


async def test_half_an_index_withdraws_nothing(world: World) -> None:
    world.site.write("/sitemap.xml", sitemap_index(f"{world.url}/1.xml", f"{world.url}/2.xml"))
    world.site.write("/1.xml", sitemap(f"{world.url}/a"))
    world.site.write("/2.xml", sitemap(f"{world.url}/b"))
    world.site.write("/a", "A")
    world.site.write("/b", "B")
    assert await world.step() == 2
    world.site.fail("/2.xml", 500)
    assert await world.step() == 0
    assert await world.pages() == {"a": "A", "b": "B"}


async def test_an_index_that_names_itself_ends(world: World) -> None:
    world.site.write("/sitemap.xml", sitemap_index(f"{world.url}/sitemap.xml"))
    assert await world.step() == 0
    assert world.site.asked_for("/sitemap.xml") == [200]


async def test_lists_that_are_all_down_are_an_outage(world: World) -> None:
    with pytest.raises(Unavailable, match=r"no list of pages can be read: http.*sitemap\.xml: it answers 404"):
        await world.step()
    world.list("/a")
    world.site.write("/a", "A")
    assert await world.step() == 1


async def test_a_list_that_is_down_does_not_stop_the_other(world: World) -> None:
    world.restart(sitemaps=[f"{world.url}/sitemap.xml", f"{world.url}/none.xml"])
    await start(world, a="A")


async def test_what_robots_txt_forbids_is_neither_read_nor_kept(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.site.write("/robots.txt", "User-agent: *\nDisallow: /b", "text/plain")
    world.list("/a", "/b")
    world.site.write("/a", "A")
    world.site.write("/b", "B")
    assert await world.step() == 1
    assert world.site.asked_for("/b") == []
    world.restart()
    world.site.write("/robots.txt", "User-agent: *\nDisallow: /a", "text/plain")
    assert await world.step() == 2
    assert await world.pages() == {"b": "B"}


async def test_pages_stay_while_robots_txt_cannot_be_read(world: World) -> None:
    await start(world, a="A")
    world.restart()
    world.site.fail("/robots.txt", 500)
    world.site.write("/a", "A changed")
    assert await world.step() == 0
    assert await world.pages() == {"a": "A"}


async def test_a_page_marked_noindex_is_withdrawn(world: World) -> None:
    await start(world, a="A", b="B")
    world.site.write("/a", '<html><head><meta name="robots" content="noindex"></head><body>A</body></html>')
    world.site.write("/b", "B", x_robots_tag="noindex")
    assert await world.step() == 1, "/b is unchanged by its tag, so only /a is sent"
    world.site.write("/b", "B 2", x_robots_tag="noindex")
    assert await world.step() == 1
    assert await world.pages() == {}


async def test_a_redirect_is_followed_within_the_hosts_of_the_source(world: World) -> None:
    world.list("/a", "/b")
    world.site.fail("/a", 302, location="/target")
    world.site.fail("/b", 302, location="http://elsewhere.example/login")
    world.site.write("/target", "Target")
    assert await world.step() == 1
    assert await world.pages() == {"a": "Target"}


async def test_a_redirect_to_another_host_is_no_reason_to_withdraw(world: World) -> None:
    await start(world, a="A")
    world.site.fail("/a", 302, location="http://login.example/?next=a")
    assert await world.step() == 0
    assert await world.pages() == {"a": "A"}


async def test_a_redirect_to_what_robots_txt_forbids_is_not_followed(world: World) -> None:
    world.site.write("/robots.txt", "User-agent: *\nDisallow: /hidden", "text/plain")
    world.list("/a")
    world.site.fail("/a", 302, location="/hidden")
    world.site.write("/hidden", "Hidden")
    assert await world.step() == 0
    assert world.site.asked_for("/hidden") == []


async def test_a_sitemap_cannot_name_pages_of_other_hosts(world: World) -> None:
    world.site.write(
        "/sitemap.xml",
        sitemap(f"{world.url}/a", "http://169.254.169.254/latest", "file:///etc/passwd", "http://other.example/"),
    )
    world.site.write("/a", "A")
    assert await world.step() == 1
    assert await world.pages() == {"a": "A"}


async def test_a_private_address_needs_a_network(world: World) -> None:
    world.restart(networks=[])
    with pytest.raises(Unavailable, match="has no public address: add its network to networks"):
        await world.step()
    assert world.site.asked == []


async def test_a_page_that_became_too_large_is_withdrawn(world: World) -> None:
    world.restart(max_bytes=100)
    await start(world, a="A", b="B")
    world.site.write("/a", "A" * 101)
    assert await world.step() == 1
    assert await world.pages() == {"b": "B"}


async def test_only_so_many_pages_are_read_and_those_that_are_known_stay(world: World) -> None:
    world.restart(max_pages=2)
    await start(world, x="X", y="Y")
    world.list("/a", "/x", "/y")
    world.site.write("/a", "A")
    assert await world.step() == 0
    assert await world.pages() == {"x": "X", "y": "Y"}


async def test_a_page_whose_object_is_lost_is_read_again(world: World) -> None:
    await start(world, a="A")
    await world.objects.delete([state.uri async for state in world.objects.list("s3://internal/site")])
    assert await world.step() == 1
    assert await world.pages() == {"a": "A"}


async def test_pages_of_a_feed_stay_until_it_leaves_the_settings(world: World) -> None:
    world.restart(sitemaps=[], feeds=[f"{world.url}/feed"], urls=[f"{world.url}/b"])
    world.site.write("/feed", rss(("a", "A", "x")).replace("https://example.com", world.url))
    world.site.write("/a", "A")
    world.site.write("/b", "B")
    assert await world.step() == 2
    world.site.write("/feed", rss(("b", "B", "x")).replace("https://example.com", world.url))
    assert await world.step() == 0
    assert world.site.asked_for("/a") == [200, 304], "a page that left the feed is still visited"
    world.restart(feeds=[])
    assert await world.step() == 1
    assert await world.pages() == {"b": "B"}


async def test_a_changed_time_in_the_sitemap_is_reason_for_a_visit(world: World) -> None:
    world.restart(every=3600.0)
    world.list("/a", changed="2026-11-01")
    world.site.write("/a", "A")
    assert await world.step() == 1
    world.site.write("/a", "A 2")
    assert await world.step() == 0
    world.restart()  # reads the sitemap at once
    assert await world.step() == 0
    world.restart()
    world.list("/a", changed="2026-11-02")
    assert await world.step() == 1
    assert await world.pages() == {"a": "A 2"}


async def test_a_changed_time_is_no_reason_to_repeat_a_visit_that_failed(world: World) -> None:
    world.restart(every=3600.0)
    world.list("/a", changed="2026-11-01")
    world.site.write("/a", "A")
    assert await world.step() == 1
    world.list("/a", changed="2026-11-02")
    world.site.fail("/a", 500)
    world.restart()
    assert [await world.step() for _ in range(3)] == [0, 0, 0]
    assert world.site.asked_for("/a") == [200, 500]


async def test_a_host_is_left_alone_for_as_long_as_it_asks(world: World) -> None:
    await start(world, a="A", b="B", c="C")
    world.restart(every=100.0)
    world.list("/a", "/b", "/c", changed="2026-11-02")
    for path in ("/a", "/b", "/c"):
        world.site.fail(path, 429, retry_after="60")
    world.site.asked.clear()
    assert await world.step() == 0
    assert [status for _, status in world.site.asked].count(429) == 1


async def test_nothing_is_remembered_when_it_could_not_be_announced(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def refuse(*_: object, **__: object) -> None:
        raise Unavailable("down")

    world.list("/a", "/b")
    world.site.write("/a", "A")
    world.site.write("/b", "B")
    for part, method in ((world.log, "publish"), (world.objects, "put"), (world.ledger, "set_row_hashes")):
        with monkeypatch.context() as broken:
            broken.setattr(part, method, refuse)
            with pytest.raises(Unavailable):
                await world.step()
    assert await world.step() == 2
    world.site.fail("/a", 404)
    with monkeypatch.context() as broken:
        broken.setattr(world.objects, "head", refuse)
        with pytest.raises(Unavailable):
            await world.step()
    assert await world.step() == 1
    assert await world.pages() == {"b": "B"}


@pytest.mark.parametrize(
    ("header", "content", "media_type", "stored"),
    [
        ("text/html; charset=ISO-8859-1", "Käse".encode("latin-1"), "text/html", "Käse"),
        ("Text/Plain;charset='utf-16le'", "Käse".encode("utf-16le"), "text/plain", "Käse"),
        ("text/html; charset=unicode_escape", "Käse".encode(), "text/html", "Käse"),
        ("text/html\u00e9/x", b"Text", "", "Text"),
        ("application/pdf; charset=latin-1", b"%PDF", "application/pdf", "%PDF"),
    ],
)
async def test_the_encoding_that_only_a_header_tells_is_not_lost(
    world: World, header: str, content: bytes, media_type: str, stored: str
) -> None:
    world.list("/a")
    world.site.write("/a", content, header)
    await world.step()
    assert await world.pages() == {"a": stored}
    (state,) = [state async for state in world.objects.list("s3://internal/site")]
    assert (state.media_type or "") == media_type


def test_a_source_without_pages_is_refused(world: World) -> None:
    with pytest.raises(ValueError, match="source 'site' names no page: set urls, sitemaps or feeds"):
        world.restart(sitemaps=[])
    with pytest.raises(ValueError, match="web address refused: it must be http or https"):
        world.restart(urls=["file:///etc/passwd"])


async def test_a_page_is_found_by_a_search_until_it_goes(world: World) -> None:
    source = world.stream.source
    index = IndexWorld(objects=world.objects, log=world.log, ledger=world.ledger, source=source)
    await start(
        world, a="<html><head><title>Pumps</title></head><body><p>The pump leaks at the valve.</p></body></html>"
    )
    await index.run_lane()
    (hit,) = await index.hits("Which pump leaks?")
    assert (hit.provenance.title, hit.chunk.text) == ("Pumps", "The pump leaks at the valve.")
    world.site.fail("/a", 410)
    await world.step()
    await index.run_lane()
    assert await index.hits("Which pump leaks?") == []
