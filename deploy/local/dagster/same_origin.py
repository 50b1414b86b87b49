"""The gate in front of Dagster's webserver, which has no login. Only programs of this machine and Dagster's own pages may pass.

Without the gate, any web page that a developer opens can start runs: Dagster takes GraphQL mutations by GET and by form, from any origin,
and a foreign name that resolves to 127.0.0.1 makes a page's requests look local.
"""

from __future__ import annotations

from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.responses import PlainTextResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from deploy.local.local_server import is_loopback_authority

SAFE_METHODS = ("GET", "HEAD", "OPTIONS")


class SameOrigin:
    """Middleware that refuses foreign hosts and origins, posts that are not JSON, and GraphQL by GET."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket") or (refusal := refuse(scope)) is None:
            await self.app(scope, receive, send)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})  # before the handshake: the client receives a 403
        else:
            await refusal(scope, receive, send)


def refuse(scope: Scope) -> Response | None:
    """Return the answer to a request that must not reach Dagster, or None for one that may."""
    headers = Headers(scope=scope)
    hosts, origins, types = (headers.getlist(name) for name in ("host", "origin", "content-type"))
    if len(hosts) != 1 or not is_loopback_authority(hosts[0]):
        return PlainTextResponse(
            "Dagster answers to the name of this machine only: use http://127.0.0.1 or localhost\n", 403
        )
    if len(origins) > 1 or any(not _is_same(origin, hosts[0]) for origin in origins):
        return PlainTextResponse("a page of another origin may not use this Dagster\n", 403)
    if scope["type"] == "websocket":
        return None
    if scope["method"] not in SAFE_METHODS:
        if [kind.partition(";")[0].strip().lower() for kind in types] != ["application/json"]:
            return PlainTextResponse("send JSON, with Content-Type: application/json\n", 415)
    elif scope["path"].rstrip("/") == "/graphql" and "text/html" not in headers.get("accept", ""):
        return PlainTextResponse("GraphQL is served by POST only\n", 405, {"Allow": "POST"})
    return None


def _is_same(origin: str, host: str) -> bool:
    parts = urlsplit(origin)
    return parts.scheme in ("http", "https") and parts.netloc == host
