"""The layers around every request: one span, one measurement, a bounded body, headers for browsers, and errors as problems."""

from __future__ import annotations

import time
from collections.abc import Mapping

from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gateway import problems
from rag.telemetry import REQUEST_SECONDS, REQUESTS, span

MAX_BODY = 256 * 1024  # bytes of a JSON body: the longest question, escaped, and all filters
FORM_OVERHEAD = 64 * 1024  # bytes that a form adds to its file
_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Cache-Control": "no-store",
}


class Observed:
    """The outermost layer: turns each exception from below into a problem with the trace's id."""

    def __init__(self, app: ASGIApp, *, https: bool = False) -> None:
        self._app = app
        self._headers = _HEADERS | ({"Strict-Transport-Security": "max-age=31536000"} if https else {})

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        status = 0

        async def observed_send(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                _set_defaults(message, self._headers)
            await send(message)

        started = time.perf_counter()
        # a link, not the parent: a caller must not choose the trace's id, nor write into the trace of another request
        theirs = {name: value for name, value in Headers(scope=scope).items() if name in {"traceparent", "tracestate"}}
        try:
            with span("gateway.request", link=theirs, method=scope["method"]) as current:
                try:
                    await self._app(scope, receive, observed_send)
                except Exception as error:
                    answer = problems.of(error)
                    if not status:
                        await answer(scope, receive, observed_send)
                current.set_attributes({"route": _route(scope), "status": status})
        finally:
            REQUESTS.labels(_route(scope), str(status)).inc()
            REQUEST_SECONDS.labels(_route(scope)).observe(time.perf_counter() - started)


class BoundedBody:
    """A layer that answers 413 to a body over its bound, announced or not, before more than the bound was read."""

    def __init__(self, app: ASGIApp, *, bounds: Mapping[str, int]) -> None:
        self._app, self._bounds = app, bounds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        bound = self._bounds.get(scope["path"], MAX_BODY)
        length = Headers(scope=scope).get("content-length", "0")
        if not length.isdecimal() or int(length) > bound:
            await problems.problem(413, _too_large(bound))(scope, receive, send)
            return
        seen = 0

        async def bounded_receive() -> Message:
            nonlocal seen
            message = await receive()
            seen += len(message.get("body", b""))
            if seen > bound:
                raise HTTPException(413, _too_large(bound))
            return message

        await self._app(scope, bounded_receive, send)


def _too_large(bound: int) -> str:
    return f"the body is larger than {bound} bytes"


def _set_defaults(message: Message, headers: Mapping[str, str]) -> None:
    present = MutableHeaders(scope=message)
    for name, value in headers.items():
        present.setdefault(name, value)


def _route(scope: Scope) -> str:
    """Return the route's pattern, never the path, because paths carry ids."""
    return getattr(scope.get("route"), "path", "unmatched")
