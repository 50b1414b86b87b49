"""A web site whose pages a test writes. It answers conditional requests, and notes what it was asked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from hashlib import sha256

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send


@dataclass
class Page:
    content: bytes
    media_type: str = "text/html"
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)

    @property
    def etag(self) -> str:
        return f'"{sha256(self.content).hexdigest()[:16]}"'


class Site:
    """``pages`` is path → page. A path without a page answers 404. ``asked`` has each request's path and status."""

    def __init__(self) -> None:
        self.pages: dict[str, Page] = {}
        self.asked: list[tuple[str, int]] = []
        self.requests: list[Request] = []

    def write(self, path: str, text: str | bytes, media_type: str = "text/html", **headers: str) -> None:
        content = text.encode() if isinstance(text, str) else text
        self.pages[path] = Page(
            content, media_type, headers={name.replace("_", "-"): headers[name] for name in headers}
        )

    def fail(self, path: str, status: int, **headers: str) -> None:
        self.pages[path] = Page(
            b"no", status=status, headers={name.replace("_", "-"): headers[name] for name in headers}
        )

    def asked_for(self, path: str) -> list[int]:
        return [status for asked, status in self.asked if asked == path]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        response = self._answer(request)
        self.requests.append(request)
        self.asked.append((request.url.path, response.status_code))
        await response(scope, receive, send)

    def _answer(self, request: Request) -> Response:
        page = self.pages.get(request.url.path)
        if page is None:
            return Response("There is no such page.", 404)
        if page.status == 200 and request.headers.get("if-none-match") == page.etag:
            return Response(None, 304)
        headers = {"etag": page.etag, "content-type": page.media_type, **page.headers}
        return Response(page.content, page.status, headers=headers)


def sitemap(*addresses: str, changed: str = "") -> str:
    lastmod = f"<lastmod>{changed}</lastmod>" if changed else ""
    urls = "".join(f"<url><loc>{address}</loc>{lastmod}</url>" for address in addresses)
    return f'<?xml version="1.0"?><urlset xmlns="http://www.sitemaps.org/schemas/sitemap/0.9">{urls}</urlset>'


def sitemap_index(*addresses: str) -> str:
    maps = "".join(f"<sitemap><loc>{address}</loc></sitemap>" for address in addresses)
    return f'<sitemapindex xmlns="http://www.sitemaps.org/schemas/sitemap/0.9">{maps}</sitemapindex>'
