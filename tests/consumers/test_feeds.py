from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from consumers import feeds, sources
from consumers.feeds import Entry, read_feed
from consumers.runner import Stream, step
from rag.adapters.memory.events import MemoryEventLog
from rag.adapters.memory.ledger import MemoryLedger
from rag.adapters.memory.objects import MemoryObjects
from rag.errors import Rejected, Unavailable
from rag.ids import Ids
from rag.ingest.parsing.formats import parse
from rag.labels import decode_label
from rag.settings import SourceSettings
from tests.fakes.site import Site

IDS = Ids(b"0123456789abcdef")


def rss(*items: tuple[str, str, str]) -> str:
    """A feed of items with id, title and description."""
    entries = "".join(
        f"<item><guid isPermaLink='false'>{key}</guid><title>{title}</title><link>https://example.com/{key}</link>"
        f"<description><![CDATA[{text}]]></description></item>"
        for key, title, text in items
    )
    return f"<?xml version='1.0'?><rss version='2.0'><channel><title>News</title>{entries}</channel></rss>"


ATOM = """<feed xmlns="http://www.w3.org/2005/Atom"><title>Log</title>
<entry><id>urn:1</id>
<title>Pumps &amp; lamps</title><link href="/one"/><updated>2026-11-01T10:00:00Z</updated><summary>Short.</summary>
<content type="html">&lt;p&gt;The
pump was &lt;b&gt;repaired&lt;/b&gt;.&lt;/p&gt;&lt;script&gt;steal()&lt;/script&gt;</content></entry></feed>"""


@pytest.fixture
def parts() -> Any:
    return SimpleNamespace(objects=MemoryObjects("s3://internal"), ledger=MemoryLedger(), log=MemoryEventLog())


def stream(parts: Any, *addresses: str, every: float = 1e-9) -> Stream:
    chosen = SourceSettings(
        name="news",
        kind="feed",
        tenant="acme",
        base_uri="s3://internal/news",
        principals=("group:staff",),
        options={"feeds": addresses, "every": every, "networks": ["127.0.0.0/8"]},
    )
    return sources.streams(chosen, parts)["news"]


async def titles(parts: Any) -> dict[str, str]:
    """Return title → text of the stored entries."""
    found = {}
    async for state in parts.objects.list("s3://internal/news"):
        title = decode_label(state.labels["title"])
        found[title] = parse((await parts.objects.get(state.uri)).content, "entry", "text/html").text
    return found


def test_atom_and_rss_are_read() -> None:
    (entry,) = read_feed(ATOM.encode())
    assert (entry.key, entry.title, entry.changed) == ("urn:1", "Pumps & lamps", "2026-11-01T10:00:00Z")
    assert "repaired" in entry.content
    assert "steal" not in entry.content
    assert [entry.key for entry in read_feed(rss(("1", "A", "x"), ("2", "B", "y")).encode())] == ["2", "1"]


def test_of_two_entries_with_one_key_the_first_counts() -> None:
    (entry,) = read_feed(rss(("1", "New", "x"), ("1", "Old", "y")).encode())
    assert entry.title == "New"


@pytest.mark.parametrize("content", [b"", b"<html><body>404</body></html>", b"https://example.com/feed", b"\xff\x00"])
def test_anything_else_is_no_feed(content: bytes) -> None:
    with pytest.raises(Rejected, match="not a feed"):
        read_feed(content)


def test_the_content_of_a_feed_is_never_taken_for_the_name_of_a_file(tmp_path: Path) -> None:
    path = tmp_path / "feed.xml"
    path.write_text(ATOM)
    with pytest.raises(Rejected, match="not a feed"):
        read_feed(str(path).encode())


def test_a_page_of_an_entry_is_safe_html() -> None:
    page = Entry("1", 'https://example.com/?a="><script>', "<b>A & B</b>", "<p>x</p>", "").page().decode()
    assert "<script>" not in page
    assert "&lt;b&gt;A &amp; B&lt;/b&gt;" in page


async def test_entries_become_documents_and_follow_their_changes(site: Site, url: str, parts: Any) -> None:
    site.write("/feed", rss(("1", "Pump", "It leaks."), ("2", "Lamp", "It is dark.")), "application/rss+xml")
    feed = stream(parts, f"{url}/feed")
    assert await step(feed, IDS, parts.log) == 2
    assert await step(feed, IDS, parts.log) == 0
    site.write("/feed", rss(("3", "Door", "It is open."), ("1", "Pump", "It was repaired.")))
    assert await step(feed, IDS, parts.log) == 2
    found = await titles(parts)
    assert found.keys() == {"Pump", "Lamp", "Door"}, "an entry that left the feed stays"
    assert "It was repaired." in found["Pump"]
    assert await step(stream(parts, f"{url}/feed"), IDS, parts.log) == 0, "a restart repeats nothing"


async def test_an_entry_whose_object_is_lost_is_written_again(site: Site, url: str, parts: Any) -> None:
    site.write("/feed", rss(("1", "Pump", "It leaks."), ("2", "Lamp", "It is dark.")))
    feed = stream(parts, f"{url}/feed")
    await step(feed, IDS, parts.log)
    lost = await anext(state.uri async for state in parts.objects.list("s3://internal/news"))
    await parts.objects.delete([lost])
    assert await step(feed, IDS, parts.log) == 1
    assert len(await titles(parts)) == 2


async def test_two_feeds_cannot_write_each_others_entries(site: Site, url: str, parts: Any) -> None:
    site.write("/a", rss(("1", "Pump", "True.")))
    site.write("/b", rss(("1", "Fake", "False.")))
    feed = stream(parts, f"{url}/a", f"{url}/b")
    assert [await step(feed, IDS, parts.log) for _ in range(2)] == [1, 1]
    assert (await titles(parts)).keys() == {"Pump", "Fake"}


async def test_the_entries_of_a_feed_that_leaves_the_settings_go(site: Site, url: str, parts: Any) -> None:
    site.write("/a", rss(("1", "Pump", "x")))
    site.write("/b", rss(("1", "Lamp", "y")))
    both = stream(parts, f"{url}/a", f"{url}/b")
    for _ in range(2):
        await step(both, IDS, parts.log)
    assert await step(stream(parts, f"{url}/b"), IDS, parts.log) == 1
    assert (await titles(parts)).keys() == {"Lamp"}


async def test_a_feed_that_fails_does_not_stop_the_others_and_loses_nothing(site: Site, url: str, parts: Any) -> None:
    site.write("/a", rss(("1", "Pump", "x")))
    site.write("/b", rss(("1", "Lamp", "y")))
    feed = stream(parts, f"{url}/a", f"{url}/b")
    site.fail("/a", 500)
    with pytest.raises(Unavailable, match="/a: it answers 500"):
        await step(feed, IDS, parts.log)
    assert await step(feed, IDS, parts.log) == 1
    assert (await titles(parts)).keys() == {"Lamp"}
    site.write("/a", rss(("1", "Pump", "x")))
    assert await step(feed, IDS, parts.log) == 1


async def test_a_source_whose_every_feed_fails_says_so_until_one_answers(
    url: str, parts: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    feed = stream(parts, f"{url}/none", every=3600)
    with pytest.raises(Unavailable, match="/none: it answers 404"):
        await step(feed, IDS, parts.log)
    monkeypatch.setattr(feeds, "IDLE_SECONDS", 0.0)
    with pytest.raises(Unavailable, match=r"no feed can be read: http.*/none: it answers 404"):
        await step(feed, IDS, parts.log)


async def test_entries_are_read_again_when_they_could_not_be_announced(
    site: Site, url: str, parts: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def refuse(*_: object, **__: object) -> None:
        raise Unavailable("Kafka is down")

    site.write("/feed", rss(("1", "Pump", "x")))
    feed = stream(parts, f"{url}/feed", every=3600)
    with monkeypatch.context() as broken:
        broken.setattr(parts.log, "publish", refuse)
        with pytest.raises(Unavailable, match="Kafka"):
            await step(feed, IDS, parts.log)
    assert await step(feed, IDS, parts.log) == 1
