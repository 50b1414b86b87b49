"""Web pages: those that the settings list, and those that sitemaps and feeds name.

A page is withdrawn only when its site says so: it answers 404, 410 or 451, its owner forbids to read or to show it, a complete sitemap
no longer has it, or it has become too large to be read. Any other failure leaves the page as it is, and is tried again. After
PARKED_STALE_SECONDS of failures nobody can tell whether the page may still be shown, and it is withdrawn.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import re
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import webencodings
from pydantic import Field

from consumers.collected import CollectedStream, Document
from consumers.feeds import read_feed
from consumers.fetching import Address, Answer, Fetcher, FetchOptions, canonical, host_of
from consumers.robots import AGENT, Robots, is_unlisted
from consumers.sitemaps import MAX_BYTES as MAX_SITEMAP_BYTES
from consumers.sitemaps import read_sitemap
from rag.errors import Rejected, Unavailable
from rag.ports import Cursors, ObjectStore
from rag.settings import SourceSettings
from rag.sources import Source
from rag.telemetry import SOURCE_ERRORS, logger
from rag.wiring import Services

_log = logger(__name__)

TABLE = "pages"  # of what is remembered of each page
TURN_SECONDS = 5.0  # visits of one turn; their pages are announced together
TURN_PAGES = 50
TURN_BYTES = 32 * 2**20
AGAIN_SECONDS = 300.0  # until the next try after a failure
IDLE_SECONDS = 5.0  # longest sleep of a turn without visits
_MEDIA_TYPE = re.compile(r"[a-z0-9.+-]{1,60}/[a-z0-9.+-]{1,60}")
GONE = {404, 410, 451}  # a site's own statement that there is no such page for us


class WebOptions(FetchOptions):
    """The ``options`` of a source of the kind ``web``."""

    urls: tuple[Address, ...] = ()
    sitemaps: tuple[Address, ...] = ()  # sitemaps or indexes of sitemaps
    feeds: tuple[Address, ...] = ()  # feeds that name pages
    hosts: frozenset[str] = frozenset()  # more hosts whose pages may be read, besides those of the addresses above
    every: float = Field(3600.0, gt=0)  # seconds between two visits of a page
    delay: float = Field(1.0, ge=0)  # least seconds between two requests to a host
    max_pages: int = Field(10_000, ge=1, le=100_000)

    @property
    def allowed_hosts(self) -> frozenset[str]:
        return self.hosts | {host_of(url) for url in (*self.urls, *self.sitemaps, *self.feeds)}


@dataclass(frozen=True, slots=True)
class Seen:
    """What the last visit of a page found. ``digest`` is empty while the page is not a document; times are in seconds since 1970."""

    visited: float
    digest: str = ""
    etag: str = ""
    modified: str = ""
    changed: str = ""  # the sitemap's time of change at that visit
    failing: float = 0.0  # since when the page cannot be read
    found_in: str = ""  # the sitemap or feed that named it


@dataclass(frozen=True, slots=True)
class _Wanted:
    changed: str
    found_in: str = ""


class WebPages:
    """The ``Collector`` of web pages."""

    def __init__(
        self, source: Source, options: WebOptions, objects: ObjectStore, cursors: Cursors, *, stale_seconds: float
    ) -> None:
        if not (options.urls or options.sitemaps or options.feeds):
            raise ValueError(f"source {source.name!r} names no page: set urls, sitemaps or feeds in its options")
        self._source = source
        self._options = options
        self._hosts = options.allowed_hosts
        self._objects = objects
        self._cursors = cursors
        self._stale_seconds = stale_seconds
        self._robots = Robots()
        self._seen: dict[str, Seen] = {}
        self._is_loaded = False
        self._wanted: dict[str, _Wanted] = {}
        self._discover_at = 0.0
        self._is_complete = False  # whether every list was read to its end
        self._outage = ""  # why no list could be read
        self._free_at: dict[str, float] = {}  # host → when it may be asked again
        self._news: dict[str, Seen | None] = {}  # of this turn; None for a page that is forgotten

    async def collect(self) -> Sequence[Document]:
        self._news = {}
        if not self._is_loaded:
            remembered = await self._cursors.row_hashes(self._source.name, TABLE)
            self._seen = {url: Seen(**json.loads(value)) for url, value in remembered.items()}
            self._is_loaded = True
        async with Fetcher(agent=AGENT, networks=self._options.networks) as fetcher:
            if time.time() >= self._discover_at:
                await self._discover(fetcher)
            left = self._left()
            visited = await self._visit_due(fetcher)
        if not self._news:
            if self._outage:
                raise Unavailable(f"no list of pages can be read: {self._outage}")
            await asyncio.sleep(IDLE_SECONDS)
        return left + visited

    async def done(self, documents: Sequence[Document]) -> None:
        kept = {url: seen for url, seen in self._news.items() if seen}
        gone = self._news.keys() - kept.keys()
        if self._news:
            hashes = {url: json.dumps(asdict(seen)) for url, seen in kept.items()}
            await self._cursors.set_row_hashes(self._source.name, TABLE, hashes, sorted(gone))
        self._seen = {url: seen for url, seen in self._seen.items() if url not in gone} | kept
        self._news = {}

    # pages that there are

    async def _discover(self, fetcher: Fetcher) -> None:
        """Read the sitemaps and feeds. A failure of one keeps its pages, and leaves the others."""
        wanted = {url: _Wanted("") for url in self._options.urls}
        lists = [(root, self._of_sitemap) for root in self._options.sitemaps]
        lists += [(root, self._of_feed) for root in self._options.feeds]
        failed: list[str] = []
        for root, find in lists:
            try:
                for url, changed in (await find(fetcher, root)).items():
                    wanted.setdefault(url, _Wanted(changed, root))
            except (Rejected, Unavailable) as error:
                failed.append(f"{root}: {error}")
                SOURCE_ERRORS.labels(self._source.name, _reason(error)).inc()
                _log.warning("web.no_list", source=self._source.name, list=root, why=str(error))
        is_too_large = len(wanted) > self._options.max_pages
        if is_too_large:
            SOURCE_ERRORS.labels(self._source.name, "too_many_pages").inc()
            _log.warning("web.too_many_pages", source=self._source.name, max_pages=self._options.max_pages)
            known_first = sorted(wanted, key=lambda url: url not in self._seen)
            wanted = {url: wanted[url] for url in known_first[: self._options.max_pages]}
        self._wanted = wanted
        self._is_complete = not (failed or is_too_large)
        self._outage = failed[0] if lists and len(failed) == len(lists) else ""
        self._discover_at = time.time() + (min(self._options.every, AGAIN_SECONDS) if failed else self._options.every)

    async def _of_sitemap(self, fetcher: Fetcher, root: str) -> dict[str, str]:
        """Return the pages of a sitemap and of those below it. Raises what its first unreadable one does: an incomplete list is none."""
        pages: dict[str, str] = {}
        waiting, read = [root], set()
        while waiting and len(pages) <= self._options.max_pages:
            url = waiting.pop()
            if url in read:
                continue
            read.add(url)
            answer = await self._get(fetcher, url, limit=MAX_SITEMAP_BYTES)
            found = await asyncio.to_thread(read_sitemap, answer.content)
            waiting += [each for each in map(canonical, found.sitemaps) if self._is_allowed(each)]
            pages |= await asyncio.to_thread(self._usable, found.pages)
        return pages

    async def _of_feed(self, fetcher: Fetcher, root: str) -> dict[str, str]:
        answer = await self._get(fetcher, root, limit=self._options.max_bytes)
        feed = await asyncio.to_thread(read_feed, answer.content)
        return await asyncio.to_thread(self._usable, {entry.link: entry.changed for entry in feed if entry.link})

    async def _get(self, fetcher: Fetcher, url: str, *, limit: int) -> Answer:
        """Return a list's answer, which must be 200. Raises Unavailable also while its host has asked to be left alone."""
        if self._free_at.get(host_of(url), 0.0) > time.monotonic() + TURN_SECONDS:
            raise Unavailable("its host has asked to be left alone for a while")
        await self._wait_for(url)
        answer = await fetcher.get(url, limit=limit, permit=self._permit_host)
        if answer.status != 200:
            self._pause(url, answer)
            raise Unavailable(f"it answers {answer.status}")
        return answer

    def _usable(self, pages: Mapping[str, str]) -> dict[str, str]:
        """Return the pages that may be read, by the one form of their addresses. A list may name what it does not own."""
        usable: dict[str, str] = {}
        for url, changed in pages.items():
            try:
                address = canonical(url)
            except Rejected:
                continue
            if self._is_allowed(address):
                usable[address] = changed
        if others := len(pages) - len(usable):
            SOURCE_ERRORS.labels(self._source.name, "other_host").inc(others)
        return usable

    def _left(self) -> list[Document]:
        """Return the documents that no list has any more. Pages of a feed stay when they leave it: a feed has the newest alone."""
        if not self._is_complete:
            return []
        left = [
            url
            for url, seen in self._seen.items()
            if url not in self._wanted and seen.found_in not in self._options.feeds
        ]
        self._news |= dict.fromkeys(left)
        return [Document(url, None) for url in left if self._seen[url].digest]

    # visits

    def _due(self) -> dict[str, list[str]]:
        """Return host → pages that are due, the longest waiting first."""
        now = time.time()
        due: dict[str, list[str]] = defaultdict(list)
        known = {url: self._seen.get(url) for url in self._wanted | self._seen if url not in self._news}
        for url, seen in sorted(known.items(), key=lambda item: item[1].visited if item[1] else 0.0):
            if seen is None or self._is_due(seen, self._wanted.get(url), now):
                due[host_of(url)].append(url)
        return due

    def _is_due(self, seen: Seen, wanted: _Wanted | None, now: float) -> bool:
        if seen.failing:
            return now >= seen.visited + min(self._options.every, AGAIN_SECONDS)
        return now >= seen.visited + self._options.every or bool(
            wanted and wanted.changed and wanted.changed != seen.changed
        )

    async def _visit_due(self, fetcher: Fetcher) -> list[Document]:
        """Visit the pages that are due: those of a host one after the other, and the hosts at the same time."""
        documents: list[Document] = []
        deadline = time.monotonic() + TURN_SECONDS

        async def visit_host(urls: Sequence[str]) -> None:
            for url in urls:
                is_full = (
                    len(documents) >= TURN_PAGES or sum(len(each.content or b"") for each in documents) > TURN_BYTES
                )
                if is_full or max(time.monotonic(), self._free_at.get(host_of(url), 0.0)) > deadline:
                    return
                if document := await self._visit(fetcher, url):
                    documents.append(document)

        try:
            async with asyncio.TaskGroup() as group:
                for urls in self._due().values():
                    group.create_task(visit_host(urls))
        except* Unavailable as errors:  # of the store: those of sites are noted with their pages
            raise errors.exceptions[0] from errors
        return documents

    async def _visit(self, fetcher: Fetcher, url: str) -> Document | None:
        """Visit a page, note what is found in ``_news``, and return the document when it changed."""
        before = self._seen.get(url) or Seen(0.0)
        wanted = self._wanted.get(url) or _Wanted(before.changed, before.found_in)
        now = Seen(time.time(), changed=wanted.changed, found_in=wanted.found_in)
        has_object = bool(before.digest) and await self._objects.head(Document(url, None).uri(self._source)) is not None
        try:
            await self._robots.require_allowed(fetcher, url)
            await self._wait_for(url)
            answer = await fetcher.get(
                url,
                limit=self._options.max_bytes,
                headers=_conditions(before) if has_object else {},
                permit=lambda hop: self._permit(fetcher, hop),
            )
            if answer.status == 304:
                self._news[url] = replace(before, visited=now.visited, changed=now.changed, failing=0.0)
                return None
            if answer.status not in {200, *GONE}:
                self._pause(url, answer)
                raise Unavailable(f"{host_of(url)} answers {answer.status}")
        except (Rejected, Unavailable) as error:
            SOURCE_ERRORS.labels(self._source.name, _reason(error)).inc()
            _log.warning("web.not_read", source=self._source.name, page=url.partition("?")[0], why=str(error))
            if _reason(error) not in {"disallowed", "too_large"}:
                return self._fail(url, before, now)
            return self._withdraw(url, before, now)
        if answer.status in GONE or await asyncio.to_thread(is_unlisted, answer.headers, answer.content):
            return self._withdraw(url, before, now)
        media_type, content, digest = await asyncio.to_thread(_readable, answer)
        self._news[url] = replace(now, digest=digest, **_validators(answer))
        if has_object and digest == before.digest:
            return None
        return Document(url, content, media_type)

    def _withdraw(self, url: str, before: Seen, now: Seen) -> Document | None:
        self._news[url] = now
        return Document(url, None) if before.digest else None

    def _fail(self, url: str, before: Seen, now: Seen) -> Document | None:
        failing = before.failing or now.visited
        if before.digest and now.visited - failing >= self._stale_seconds:
            _log.warning("web.withdrawn", source=self._source.name, page=url.partition("?")[0], failing_since=failing)
            return self._withdraw(url, before, replace(now, failing=failing))
        self._news[url] = replace(before, visited=now.visited, failing=failing, found_in=now.found_in)
        return None

    # manners

    async def _permit_host(self, url: str) -> None:
        if not self._is_allowed(url):
            raise Rejected(
                f"it leads to {host_of(url)}: add that to hosts of the source, if it may be read", reason="other_host"
            )

    async def _permit(self, fetcher: Fetcher, url: str) -> None:
        await self._permit_host(url)
        await self._robots.require_allowed(fetcher, url)

    def _is_allowed(self, url: str) -> bool:
        return host_of(url) in self._hosts

    async def _wait_for(self, url: str) -> None:
        """Wait until the host may be asked again, and take that turn."""
        host, now = host_of(url), time.monotonic()
        at = max(now, self._free_at.get(host, now))
        self._free_at[host] = at + max(self._options.delay, self._robots.delay(url))
        await asyncio.sleep(at - now)

    def _pause(self, url: str, answer: Answer) -> None:
        """Leave the host alone for as long as it asks."""
        asked = answer.headers.get("retry-after", "")
        if answer.status in {429, 503} and asked.isascii() and asked.isdigit():
            self._free_at[host_of(url)] = time.monotonic() + min(int(asked[:9]), self._options.every)


def streams(chosen: SourceSettings, opened: Services) -> Mapping[str, CollectedStream]:
    """Make the stream of all pages."""
    source, options = chosen.source(), WebOptions.model_validate(chosen.options)
    stale_seconds = opened.settings.parked_stale_seconds
    pages = WebPages(source, options, opened.objects, opened.ledger, stale_seconds=stale_seconds)
    return {chosen.name: CollectedStream(source, pages, opened.objects)}


def _conditions(before: Seen) -> dict[str, str]:
    """Return the headers that ask for a page only if it changed."""
    asked = {"If-None-Match": before.etag, "If-Modified-Since": before.modified}
    return {name: value for name, value in asked.items() if value}


def _validators(answer: Answer) -> dict[str, Any]:
    """Return what to ask with the next time. A header that could not be sent back as it is counts as none."""
    found = {"etag": answer.headers.get("etag", ""), "modified": answer.headers.get("last-modified", "")}
    return {
        name: value if value.isascii() and value.isprintable() and len(value) <= 200 else ""
        for name, value in found.items()
    }


def _readable(answer: Answer) -> tuple[str, bytes, str]:
    """Return media type, content, and a digest of both. Text in the encoding that only the header names becomes UTF-8, because an
    object has no such header."""
    declared, _, parameters = answer.headers.get("content-type", "").lower().partition(";")
    media_type = declared.strip() if _MEDIA_TYPE.fullmatch(declared.strip()) else ""
    content = answer.content
    charset = webencodings.lookup(parameters.partition("charset=")[2].partition(";")[0].strip("\"' \n"))
    if charset and charset.name != "utf-8" and media_type.startswith("text/"):
        content = webencodings.decode(content, charset)[0].encode("utf-8", errors="replace")
    return media_type, content, hashlib.sha256(media_type.encode() + b"\0" + content).hexdigest()


def _reason(error: Rejected | Unavailable) -> str:
    return error.reason if isinstance(error, Rejected) else "unavailable"
