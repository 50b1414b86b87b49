"""RSS and Atom feeds. Their entries are documents, with the text that the feed has of them.

A feed lists its newest entries alone. So an entry that leaves it stays a document, until its feed leaves the settings.
"""

from __future__ import annotations

import asyncio
import hashlib
import html
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO

import feedparser
from pydantic import Field

from consumers.collected import CollectedStream, Document
from consumers.fetching import Address, Fetcher, FetchOptions
from consumers.robots import AGENT
from rag.errors import Rejected, Unavailable
from rag.ports import Cursors, ObjectStore
from rag.settings import SourceSettings
from rag.sources import Source
from rag.telemetry import SOURCE_ERRORS
from rag.wiring import Services

TABLE = "entries"  # key → hash of each entry
AGAIN_SECONDS = 300.0  # until the next try after a failure
IDLE_SECONDS = 1.0


class FeedOptions(FetchOptions):
    """The ``options`` of a source of the kind ``feed``."""

    feeds: tuple[Address, ...] = Field(min_length=1)
    every: float = Field(900.0, gt=0)  # seconds between two looks at a feed


@dataclass(frozen=True, slots=True)
class Entry:
    """An entry of a feed. ``content`` is HTML without scripts; ``changed`` is a time as the feed wrote it."""

    key: str
    link: str
    title: str
    content: str
    changed: str

    def page(self) -> bytes:
        """Return the entry as a page of HTML."""
        title = html.escape(self.title)
        link = f'<p><a href="{html.escape(self.link)}">{html.escape(self.link)}</a></p>' if self.link else ""
        return (
            f'<!DOCTYPE html><html><head><meta charset="utf-8"><title>{title}</title></head>'
            f"<body><h1>{title}</h1>{self.content}{link}</body></html>"
        ).encode(errors="replace")


def read_feed(content: bytes) -> list[Entry]:
    """Return the entries of a feed, each key once. Raises Rejected for content that is no feed."""
    # A stream, because feedparser takes bytes for the name of a file first, and texts for an address.
    parsed = feedparser.parse(BytesIO(content), response_headers={"content-type": "application/xml"})
    if not parsed.get("version"):
        raise Rejected("not a feed of RSS or Atom", reason="bad_feed")
    entries = [
        Entry(
            each.get("id") or each.get("link") or each.get("title", ""),
            each.get("link", ""),
            each.get("title", ""),
            "".join(part.get("value", "") for part in each.get("content", ())) or each.get("summary", ""),
            each["updated"] if "updated" in each else each.get("published", ""),
        )
        for each in parsed.entries
    ]
    return list({entry.key: entry for entry in reversed(entries) if entry.key}.values())


class FeedEntries:
    """The ``Collector`` of feeds. A turn reads the feed that is due for longest, so that one that fails does not stop the others."""

    def __init__(self, source: Source, options: FeedOptions, objects: ObjectStore, cursors: Cursors) -> None:
        self._source = source
        self._options = options
        self._objects = objects
        self._cursors = cursors
        self._due_at = dict.fromkeys(options.feeds, 0.0)
        self._failing: dict[str, str] = {}  # feed → why
        self._hashes: dict[str, str] = {}  # of this turn
        self._gone: list[str] = []
        self._reading = ""

    async def collect(self) -> Sequence[Document]:
        self._hashes, self._gone, self._reading = {}, [], ""
        feed = min(self._due_at, key=self._due_at.__getitem__)
        if self._due_at[feed] > time.monotonic():
            if len(self._failing) == len(self._due_at):
                raise Unavailable(f"no feed can be read: {next(iter(self._failing.values()))}")
            await asyncio.sleep(IDLE_SECONDS)
            return []
        known = await self._cursors.row_hashes(self._source.name, TABLE)
        try:
            entries = await self._read(feed)
        except (Rejected, Unavailable) as error:
            self._failing[feed] = f"{feed}: {error}"
            self._due_at[feed] = time.monotonic() + min(self._options.every, AGAIN_SECONDS)
            SOURCE_ERRORS.labels(
                self._source.name, error.reason if isinstance(error, Rejected) else "unavailable"
            ).inc()
            raise Unavailable(self._failing[feed]) from error
        self._failing.pop(feed, None)
        documents = await self._changed(feed, entries, known)
        self._gone = [key for key in known if key.partition(" ")[0] not in self._due_at]
        self._reading = feed
        return [*documents, *(Document(key, None) for key in self._gone)]

    async def done(self, documents: Sequence[Document]) -> None:
        if self._hashes or self._gone:
            await self._cursors.set_row_hashes(self._source.name, TABLE, self._hashes, self._gone)
        if self._reading:
            self._due_at[self._reading] = time.monotonic() + self._options.every
        self._hashes, self._gone, self._reading = {}, [], ""

    async def _read(self, feed: str) -> list[Entry]:
        async with Fetcher(agent=AGENT, networks=self._options.networks) as fetcher:
            answer = await fetcher.get(feed, limit=self._options.max_bytes)
        if answer.status != 200:
            raise Unavailable(f"it answers {answer.status}")
        return await asyncio.to_thread(read_feed, answer.content)

    async def _changed(self, feed: str, entries: Sequence[Entry], known: Mapping[str, str]) -> list[Document]:
        """Return the documents of the entries that changed, or whose object was lost."""
        changed: list[Document] = []
        for entry in entries:
            document = Document(f"{feed} {entry.key}", entry.page(), "text/html", entry.title)
            digest = hashlib.sha256(entry.page()).hexdigest()
            if known.get(document.key) != digest or await self._objects.head(document.uri(self._source)) is None:
                self._hashes[document.key] = digest
                changed.append(document)
        return changed


def streams(chosen: SourceSettings, opened: Services) -> Mapping[str, CollectedStream]:
    """Make the stream of all feeds."""
    source, options = chosen.source(), FeedOptions.model_validate(chosen.options)
    entries = FeedEntries(source, options, opened.objects, opened.ledger)
    return {chosen.name: CollectedStream(source, entries, opened.objects)}
