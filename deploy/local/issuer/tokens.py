"""The token endpoint: it checks the client, the grant and the scopes, and issues the tokens."""

from __future__ import annotations

import base64
import hashlib
import re
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import unquote_plus

from deploy.local.issuer.accounts import CLIENTS, LOGIN_SCOPES, SCOPES, USERS, Client, Principal
from deploy.local.issuer.grants import REFRESH_SECONDS, Grant, Grants
from deploy.local.issuer.keys import Keys

ACCESS_TOKEN, ID_TOKEN = "at+jwt", "JWT"
VERIFIER = re.compile(r"[A-Za-z0-9._~-]{43,128}")


class TokenError(Exception):
    """An error of RFC 6749, section 5.2."""

    def __init__(self, code: str, description: str) -> None:
        super().__init__(description)
        self.code = code


@dataclass(frozen=True)
class Issuer:
    """The token endpoint of one issuer. `now` returns seconds since 1970. `secret` is that of the confidential client."""

    url: str
    audience: str
    lifetime: int
    secret: str
    keys: Keys
    grants: Grants
    now: Callable[[], int]

    def token(self, authorization: str | None, form: Mapping[str, str]) -> dict[str, Any]:
        client = self._client(authorization, form)
        kind = form.get("grant_type", "")
        grants = {
            "client_credentials": self._client_credentials,
            "authorization_code": self._authorization_code,
            "refresh_token": self._refresh_token,
        }
        if kind not in grants:
            raise TokenError("unsupported_grant_type", f"grant_type {kind!r}; use one of {', '.join(grants)}")
        if kind not in client.grants:
            raise TokenError("unauthorized_client", f"{client.name} may not use {kind}")
        return grants[kind](client, form)

    def _client(self, authorization: str | None, form: Mapping[str, str]) -> Client:
        name, secret = form.get("client_id", ""), form.get("client_secret")
        if authorization is not None:
            if secret is not None:
                raise TokenError("invalid_request", "authenticate once: by HTTP Basic or by client_secret, not both")
            name, secret = _basic(authorization)
        client = CLIENTS.get(name)
        confidential = client is not None and client.principal is not None
        expected = self.secret if confidential else ""
        right = secrets.compare_digest((secret or "").encode(), expected.encode())
        if client is None or not right:
            raise TokenError("invalid_client", "unknown client, or not its secret")
        return client

    def _client_credentials(self, client: Client, form: Mapping[str, str]) -> dict[str, Any]:
        if client.principal is None:
            raise TokenError("unauthorized_client", f"{client.name} acts for users only")
        scope = requested_scope(form.get("scope"), client.principal.scopes)
        return self._access(client.principal, client, scope)

    def _authorization_code(self, client: Client, form: Mapping[str, str]) -> dict[str, Any]:
        grant = self.grants.take_code(form.get("code", ""), self.now())
        if grant is None or grant.client != client.name or grant.redirect_uri != form.get("redirect_uri"):
            raise TokenError("invalid_grant", "the code is unknown, used, expired, or was made for another request")
        if not _proves(form.get("code_verifier", ""), grant.challenge):
            raise TokenError("invalid_grant", "code_verifier does not match code_challenge")
        return self._login(client, grant, grant.scope)

    def _refresh_token(self, client: Client, form: Mapping[str, str]) -> dict[str, Any]:
        token = form.get("refresh_token", "")
        grant = self.grants.find_refresh(token, self.now())
        if grant is None or grant.client != client.name or grant.user not in USERS:
            raise TokenError("invalid_grant", "the refresh token is unknown, used or expired; log in again")
        scope = requested_scope(form.get("scope"), grant.scope)
        if not set(scope) <= set(grant.scope):
            raise TokenError("invalid_scope", f"the login granted {' '.join(grant.scope)}")
        answer = self._login(client, grant, scope)
        self.grants.drop_refresh(token, self.now())
        return answer

    def _login(self, client: Client, grant: Grant, scope: tuple[str, ...]) -> dict[str, Any]:
        user = USERS[grant.user]
        answer = self._access(user, client, scope)
        answer["refresh_token"] = self.grants.new_refresh(replace(grant, expires=self.now() + REFRESH_SECONDS))
        if "openid" in scope:
            claims = (
                user.profile() | self._times() | {"iss": self.url, "aud": client.name, "auth_time": grant.authenticated}
            )
            claims |= {"nonce": grant.nonce} if grant.nonce else {}
            answer["id_token"] = self.keys.sign(claims, ID_TOKEN)
        return answer

    def _access(self, who: Principal, client: Client, scope: tuple[str, ...]) -> dict[str, Any]:
        claims = self._times() | {
            "iss": self.url,
            "sub": who.name,
            "aud": self.audience,
            "client_id": client.name,
            "jti": secrets.token_urlsafe(16),
            "scope": " ".join(scope),
            "tenant": who.tenant,
            "groups": list(who.groups),
        }
        return {
            "access_token": self.keys.sign(claims, ACCESS_TOKEN),
            "token_type": "Bearer",
            "expires_in": self.lifetime,
            "scope": " ".join(scope),
        }

    def _times(self) -> dict[str, Any]:
        now = self.now()
        return {"iat": now, "nbf": now, "exp": now + self.lifetime}


def requested_scope(requested: str | None, allowed: tuple[str, ...]) -> tuple[str, ...]:
    """Return the allowed ones of the requested scopes, or all allowed ones when none is requested. Unknown scopes are refused.

    An answer that is narrower than its request names its scopes (RFC 6749, section 3.3).
    """
    scopes = known_scopes(requested)
    if not scopes:
        return allowed
    granted = tuple(scope for scope in scopes if scope in allowed or scope in LOGIN_SCOPES)
    if not granted:
        raise TokenError("invalid_scope", f"none of {' '.join(scopes)} may be granted; allowed are {' '.join(allowed)}")
    return granted


def known_scopes(requested: str | None) -> tuple[str, ...]:
    scopes = tuple(dict.fromkeys((requested or "").split()))
    if unknown := [scope for scope in scopes if scope not in SCOPES]:
        raise TokenError("invalid_scope", f"unknown scope {unknown[0]!r}; known are {' '.join(SCOPES)}")
    return scopes


def _basic(authorization: str) -> tuple[str, str]:
    scheme, _, encoded = authorization.partition(" ")
    try:
        name, separator, secret = base64.b64decode(encoded, validate=True).decode().partition(":")
    except ValueError:
        separator = ""
    if scheme.lower() != "basic" or not separator:
        raise TokenError("invalid_client", "client authentication is HTTP Basic, or client_id and client_secret")
    return unquote_plus(name), unquote_plus(secret)


def _proves(verifier: str, challenge: str) -> bool:
    digest = base64.urlsafe_b64encode(hashlib.sha256(verifier.encode()).digest()).rstrip(b"=")
    return VERIFIER.fullmatch(verifier) is not None and secrets.compare_digest(digest, challenge.encode())
