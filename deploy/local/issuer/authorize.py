"""The authorization endpoint. It redirects only after it has checked the client and the redirect_uri."""

from __future__ import annotations

import re
import secrets
from collections.abc import Mapping
from urllib.parse import parse_qsl, urlencode

from fastapi.responses import RedirectResponse, Response

from deploy.local.issuer.accounts import CLIENTS, USERS
from deploy.local.issuer.grants import CODE_SECONDS, Grant
from deploy.local.issuer.pages import login_page
from deploy.local.issuer.tokens import Issuer, TokenError, known_scopes, requested_scope

_PATH = r"[A-Za-z0-9._~!$&'()*+,;=:@%/-]*"
# A pattern rather than a parser: it excludes backslashes and userinfo, which browsers and parsers read differently.
LOOPBACK_REDIRECT = re.compile(rf"http://(127\.0\.0\.1|localhost|\[::1\])(:[0-9]{{1,5}})?(/{_PATH})?(\?{_PATH})?")
CHALLENGE = re.compile(r"[A-Za-z0-9_-]{43}")
_KEPT = (
    "client_id",
    "redirect_uri",
    "response_type",
    "scope",
    "state",
    "nonce",
    "code_challenge",
    "code_challenge_method",
)


class Refused(Exception):
    """A request that is answered with an error page and never redirected."""


def parse_form(encoded: str) -> dict[str, str]:
    """Return the parameters. Raises Refused when one is given twice (RFC 6749, section 3.1)."""
    try:
        pairs = parse_qsl(encoded, keep_blank_values=True, max_num_fields=30, errors="strict")
    except ValueError:
        raise Refused("the parameters are not UTF-8, or too many") from None
    if len(pairs) != len(dict(pairs)):
        raise Refused("a parameter is given more than once")
    return dict(pairs)


def authorize(issuer: Issuer, request: Mapping[str, str]) -> Response:
    """Return the login page. Once the page or login_hint names a user, return the redirect with a code or an error."""
    client = CLIENTS.get(request.get("client_id", ""))
    if client is None or "authorization_code" not in client.grants:
        raise Refused(f"client_id must be one that logs users in, not {request.get('client_id', '')!r}")
    redirect = request.get("redirect_uri", "")
    if not LOOPBACK_REDIRECT.fullmatch(redirect):
        raise Refused(f"redirect_uri must be http://127.0.0.1:PORT/... or http://localhost:PORT/..., not {redirect!r}")
    try:
        name = request.get("user") or request.get("login_hint")
        _check(request)
        if not name:
            return login_page(USERS.values(), client.name, {key: request[key] for key in _KEPT if key in request})
        if name not in USERS:
            raise TokenError("access_denied", f"no user {name!r}; there are {', '.join(USERS)}")
        scope = requested_scope(request.get("scope"), USERS[name].scopes)
    except TokenError as error:
        return _back(issuer, request, {"error": error.code, "error_description": str(error)})
    now = issuer.now()
    grant = Grant(
        user=name,
        client=client.name,
        scope=scope,
        family=secrets.token_urlsafe(16),
        authenticated=now,
        expires=now + CODE_SECONDS,
        nonce=request.get("nonce"),
        redirect_uri=redirect,
        challenge=request["code_challenge"],
    )
    return _back(issuer, request, {"code": issuer.grants.new_code(grant, now)})


def _check(request: Mapping[str, str]) -> None:
    if request.get("response_type") != "code":
        raise TokenError("unsupported_response_type", "response_type must be code")
    if request.get("code_challenge_method") != "S256" or not CHALLENGE.fullmatch(request.get("code_challenge", "")):
        raise TokenError("invalid_request", "PKCE is required: code_challenge with code_challenge_method S256")
    known_scopes(request.get("scope"))
    if request.get("prompt") == "none" and not request.get("login_hint"):
        raise TokenError("login_required", "prompt=none needs a login_hint: there are no sessions here")


def _back(issuer: Issuer, request: Mapping[str, str], answer: Mapping[str, str]) -> RedirectResponse:
    state = {"state": request["state"]} if "state" in request else {}
    redirect = request["redirect_uri"]
    query = urlencode({**answer, **state, "iss": issuer.url})
    return RedirectResponse(
        f"{redirect}{'&' if '?' in redirect else '?'}{query}",
        303,
        {"Cache-Control": "no-store", "Referrer-Policy": "no-referrer"},
    )
