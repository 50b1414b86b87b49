"""Every error as RFC 9457 problem+json. ``detail`` holds the facts that a caller may know; for a bug, only the trace id."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.routing import Match

from gateway.identity import InvalidToken, MissingScope, NoToken
from rag.errors import Denied, Rejected, TidemarkError, Unavailable
from rag.telemetry import logger, trace_id

MEDIA_TYPE = "application/problem+json"
_METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
_REALM = 'Bearer realm="tidemark"'
_TITLES = {
    400: "Bad request", 401: "Not authenticated", 403: "Not allowed", 404: "Not found", 405: "Method not allowed",
    409: "Conflict", 413: "Too large", 415: "Unsupported media type", 422: "Not acceptable input",
    429: "Too many requests", 500: "Unexpected error", 503: "Not available",
}  # fmt: skip


class TooMany(TidemarkError):
    """A caller over a limit: 429."""

    status = 429

    def __init__(self, limit: str, retry_after: float) -> None:
        super().__init__(f"more than {limit} in a minute: wait as long as Retry-After says")
        self.retry_after = retry_after


def install(app: FastAPI) -> None:
    app.add_exception_handler(TidemarkError, _meaningful)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _http)


def problem(status: int, detail: str = "", *, headers: Mapping[str, str] | None = None, **members: Any) -> JSONResponse:
    return JSONResponse(body(status, detail, **members), status, headers, media_type=MEDIA_TYPE)


def body(status: int, detail: str = "", **members: Any) -> dict[str, Any]:
    """Return the members of a problem.

    ``type`` is about:blank, so ``title`` is the status in words. ``reason`` is a stable code where there is one.
    """
    known = {"type": "about:blank", "title": _TITLES.get(status, "Error"), "status": status, "detail": detail}
    return {name: value for name, value in {**known, **members, "trace_id": trace_id()}.items() if value != ""}


def of(error: Exception) -> JSONResponse:
    """Return the response to any error. An unexpected error is logged here, once, with its stack."""
    if isinstance(error, ClientDisconnect):
        return problem(400, "the client closed the connection before its request was complete")
    if not isinstance(error, TidemarkError):
        logger(__name__).error("unexpected", error=type(error).__name__, exc_info=error)
        return problem(500, "an unexpected error: report the trace id to the operator")
    if isinstance(error, Unavailable):
        logger(__name__).warning("unavailable", why=str(error))
    reason = error.reason if isinstance(error, Rejected) else ""
    return problem(error.status, str(error), headers=_headers(error), reason=reason)


def _headers(error: TidemarkError) -> dict[str, str]:
    retry_after = getattr(error, "retry_after", None)
    if retry_after is not None:
        return {"Retry-After": str(max(1, math.ceil(retry_after)))}
    if isinstance(error, NoToken):
        return {"WWW-Authenticate": _REALM}
    if isinstance(error, InvalidToken):
        return {"WWW-Authenticate": f'{_REALM}, error="invalid_token", error_description="{_quotable(str(error))}"'}
    if isinstance(error, MissingScope):
        return {"WWW-Authenticate": f'{_REALM}, error="insufficient_scope", scope="{error.scope}"'}
    return {"WWW-Authenticate": _REALM} if isinstance(error, Denied) and error.status == 401 else {}


def _quotable(text: str) -> str:
    """Return ``text`` without the characters that RFC 6750 forbids in error_description."""
    return "".join(c for c in text if 0x20 <= ord(c) <= 0x7E and c not in '"\\')


async def _meaningful(_: Request, error: Exception) -> JSONResponse:
    return of(error)


async def _invalid(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)  # noqa: S101  (registered for it)
    errors = [{"pointer": _pointer(each["loc"]), "detail": each["msg"]} for each in error.errors()[:20]]
    return problem(422, f"{errors[0]['pointer']}: {errors[0]['detail']}" if errors else "", errors=errors)


def _pointer(location: Sequence[Any]) -> str:
    return "/".join(str(part)[:100] for part in location)


async def _http(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)  # noqa: S101  (registered for it)
    detail = error.detail if error.detail != HTTPStatus(error.status_code).phrase else ""
    headers = {"Allow": ", ".join(_allowed(request))} if error.status_code == 405 else error.headers
    return problem(error.status_code, detail, headers=headers)


def _allowed(request: Request) -> list[str]:
    """Return the methods of all routes that match the path; the router's own answer names those of the first one only."""
    found = []
    for method in _METHODS:
        scope = {**request.scope, "method": method}
        if any(route.matches(scope)[0] is Match.FULL for route in request.app.routes):
            found.append(method)
    return found
