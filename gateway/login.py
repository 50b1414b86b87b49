"""Tokens for the command line: got by browser (code and PKCE) or client credentials, refreshed, and readable by their owner alone."""

from __future__ import annotations

import json
import time
import webbrowser
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx
from authlib.common.security import generate_token
from authlib.integrations.base_client import OAuthError
from authlib.integrations.httpx_client import OAuth2Client
from filelock import FileLock

from rag.files import write_whole

SCOPE = "openid offline_access rag:query rag:ingest"
PUBLIC = {"token_endpoint_auth_method": "none"}  # PKCE stands in for a secret, which a program on a laptop cannot keep
PATIENCE = 300  # seconds to log in at the browser
EARLY = 30  # seconds before its end at which a token is renewed
TIMEOUT = 10.0


class LoginFailed(Exception):
    """A login that did not succeed. The message has the remedy; ``is_unreachable`` when the issuer did not answer."""

    def __init__(self, message: str, *, is_unreachable: bool = False) -> None:
        super().__init__(message)
        self.is_unreachable = is_unreachable


@dataclass(frozen=True, slots=True)
class Target:
    """A gateway and the issuer whose tokens it accepts."""

    gateway: str
    issuer: str
    client_id: str  # a public client that may redirect to loopback
    machine_id: str = ""  # the client of client credentials
    machine_secret: str = ""


class TokenFile:
    """A file of tokens by gateway: a token is only sent to the gateway that it was issued for."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def read(self, gateway: str) -> dict[str, Any] | None:
        try:
            tokens = json.loads(self._path.read_bytes())
        except (FileNotFoundError, ValueError):
            return None
        found = tokens.get(gateway)
        return found if isinstance(found, dict) else None

    def write(self, gateway: str, token: Mapping[str, Any]) -> None:
        try:
            tokens = json.loads(self._path.read_bytes())
        except (FileNotFoundError, ValueError):
            tokens = {}
        self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_whole(self._path, json.dumps(tokens | {gateway: dict(token)}).encode())

    def locked(self) -> FileLock:
        """Return the lock to hold while a token is renewed. A refresh token works once, so only one process may spend it."""
        self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        return FileLock(self._path.with_suffix(".lock"), mode=0o600)


def access_token(target: Target, kept: TokenFile) -> str:
    """Return a token that is valid for at least half a minute. Raises LoginFailed when only a login helps."""
    with kept.locked():
        token = kept.read(target.gateway)
        if token is None or token.get("issuer") != target.issuer:
            raise LoginFailed("you are not logged in: run `tidemark login`")
        if token["expires_at"] - EARLY < time.time():
            token = _renewed(target, token)
            kept.write(target.gateway, token)
        return str(token["access_token"])


def by_client_credentials(target: Target, scope: str = "") -> dict[str, Any]:
    """Return a token of the program itself. Raises LoginFailed."""
    if not target.machine_secret:
        raise LoginFailed(
            "client credentials need OIDC_CLIENT_ID and OIDC_CLIENT_SECRET in the environment or the stack's env"
        )
    endpoints = discover(target.issuer)
    with OAuth2Client(target.machine_id, target.machine_secret, timeout=TIMEOUT) as client:
        narrowed = {"scope": scope} if scope else {}
        return _fetched(target, "machine", lambda: client.fetch_token(
            endpoints["token_endpoint"], grant_type="client_credentials", **narrowed))  # fmt: skip


def by_browser(target: Target, *, user: str = "", scope: str = SCOPE, show: Callable[[str], None]) -> dict[str, Any]:
    """Return a person's token, by authorization code with PKCE (RFC 8252). Raises LoginFailed.

    ``user`` is for issuers that log in by a hint, as the development issuer does. ``show`` gets the address to open.
    """
    endpoints = discover(target.issuer)
    with _Listener(("127.0.0.1", 0), _Callback) as listener:
        redirect = f"http://127.0.0.1:{listener.server_port}/callback"
        client = OAuth2Client(
            target.client_id,
            scope=scope,
            redirect_uri=redirect,
            code_challenge_method="S256",
            timeout=TIMEOUT,
            **PUBLIC,
        )
        with client:
            verifier = generate_token(64)
            hint = {"login_hint": user} if user else {}
            url, state = client.create_authorization_url(
                endpoints["authorization_endpoint"], code_verifier=verifier, **hint
            )
            answer = _hinted(url, redirect) if user else listener.wait(url, show)
            _check(answer, state, endpoints)
            return _fetched(target, "person", lambda: client.fetch_token(
                endpoints["token_endpoint"], authorization_response=answer, state=state, code_verifier=verifier))  # fmt: skip


def discover(issuer: str) -> dict[str, Any]:
    """Return the issuer's discovery document. Raises LoginFailed."""
    if not issuer:
        raise LoginFailed("no issuer is known: pass --issuer, or set OIDC_ISSUER, or start the local stack")
    try:
        answer = httpx.get(f"{issuer.rstrip('/')}/.well-known/openid-configuration", timeout=TIMEOUT)
        answer.raise_for_status()
        discovery = answer.json()
        if discovery["issuer"] != issuer or not {"authorization_endpoint", "token_endpoint"} <= discovery.keys():
            raise ValueError("another issuer's document")
        return dict(discovery)
    except (httpx.HTTPError, ValueError, KeyError, TypeError) as error:
        raise LoginFailed(
            f"the issuer {issuer} cannot be read ({type(error).__name__}): check its address", is_unreachable=True
        ) from None


def _renewed(target: Target, token: Mapping[str, Any]) -> dict[str, Any]:
    if token.get("kind") == "machine":
        return by_client_credentials(target, token.get("scope", ""))
    if not token.get("refresh_token"):
        raise LoginFailed("your login has ended: run `tidemark login` again")
    endpoint = discover(target.issuer)["token_endpoint"]
    with OAuth2Client(target.client_id, timeout=TIMEOUT, **PUBLIC) as client:
        fresh = _fetched(target, "person", lambda: client.refresh_token(endpoint, refresh_token=token["refresh_token"]))
    return {"refresh_token": token["refresh_token"]} | fresh


def _fetched(target: Target, kind: str, fetch: Callable[[], Mapping[str, Any]]) -> dict[str, Any]:
    try:
        token = fetch()
    except (OAuthError, httpx.HTTPError) as error:
        is_unreachable = isinstance(error, httpx.TransportError)
        raise LoginFailed(
            f"the issuer gave no token ({error}): run `tidemark login` again", is_unreachable=is_unreachable
        ) from None
    names = ("access_token", "refresh_token", "scope")
    expires_at = float(token.get("expires_at") or time.time() + 300)
    found = {name: token[name] for name in names if token.get(name)}
    return {**found, "expires_at": expires_at, "issuer": target.issuer, "kind": kind}


def _hinted(url: str, redirect: str) -> str:
    try:
        answer = httpx.get(url, timeout=TIMEOUT)
    except httpx.HTTPError as error:
        raise LoginFailed(
            f"the issuer does not answer ({type(error).__name__}): try again", is_unreachable=True
        ) from None
    location = answer.headers.get("location", "")
    if not answer.is_redirect or not location.startswith(redirect):
        raise LoginFailed("this issuer does not log in by name: leave out --user and log in at the browser")
    return str(location)


def _check(answer: str, state: str, endpoints: Mapping[str, Any]) -> None:
    parameters = {name: values[0] for name, values in parse_qs(urlsplit(answer).query).items()}
    if parameters.get("state") != state:
        raise LoginFailed("the answer belongs to another login: try again")
    if parameters.get("iss", endpoints["issuer"]) != endpoints["issuer"]:  # RFC 9207
        raise LoginFailed("the answer comes from another issuer: try again")
    if "error" in parameters:
        raise LoginFailed(f"the issuer refuses: {parameters.get('error_description') or parameters['error']}")
    if "code" not in parameters:
        raise LoginFailed("the answer contains no code: try again")


class _Callback(BaseHTTPRequestHandler):
    """A page that takes the code from the browser."""

    server: _Listener

    def do_GET(self) -> None:
        known = urlsplit(self.path).path == "/callback"
        body = b"You are logged in: close this window." if known else b"Nothing here."
        self.send_response(200 if known else 404)
        self.send_header("Content-Type", "text/plain; charset=utf-8")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
        if known:
            self.server.answer = f"http://127.0.0.1{self.path}"

    def log_message(self, *_: Any) -> None:
        """Log nothing, because the path contains a code."""


class _Listener(HTTPServer):
    """A server on loopback that waits for the browser to come back."""

    answer = ""

    def wait(self, url: str, show: Callable[[str], None]) -> str:
        """Return the address that the browser came back to."""
        show(url)
        webbrowser.open(url)
        end = time.monotonic() + PATIENCE
        while not self.answer and (left := end - time.monotonic()) > 0:
            self.timeout = left
            self.handle_request()
        if not self.answer:
            raise LoginFailed(f"no login within {PATIENCE} seconds")
        return self.answer
