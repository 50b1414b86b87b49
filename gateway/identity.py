"""The caller of a request: an OIDC access token (RFC 9068), verified with the keys that its issuer publishes."""

from __future__ import annotations

import binascii
import json
import re
import time
from base64 import urlsafe_b64decode
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from joserfc import jwt
from joserfc.errors import JoseError
from joserfc.jws import JWSRegistry

from gateway.issuer import ALGORITHMS, IssuerKeys
from rag.errors import Denied, Rejected

LEEWAY = 30  # seconds that clocks may differ
MAX_TOKEN = 16 * 1024  # characters; servers cut headers near this size anyway
MAX_GROUPS = 500  # each is a value in the filter of every search
_TENANT = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")


class InvalidToken(Denied):
    """A refused token: 401 with ``error="invalid_token"`` of RFC 6750."""

    def __init__(self, message: str) -> None:
        super().__init__(message, status=401)


class NoToken(Denied):
    """A request without credentials: 401 without an error code, as RFC 6750 demands."""

    def __init__(self) -> None:
        super().__init__("send an access token: Authorization: Bearer TOKEN", status=401)


class MissingScope(Denied):
    """A token without the scope of a route: 403 with ``error="insufficient_scope"``."""

    def __init__(self, scope: str) -> None:
        super().__init__(f"the token lacks the scope {scope}: ask its issuer for one that has it")
        self.scope = scope


@dataclass(frozen=True, slots=True)
class Caller:
    """A verified subject of a tenant, with the groups and scopes that the token grants."""

    subject: str = field(repr=False)
    tenant: str
    groups: tuple[str, ...] = field(repr=False)
    scopes: frozenset[str]

    def require(self, scope: str) -> None:
        """Raise MissingScope unless the token grants ``scope``."""
        if scope not in self.scopes:
            raise MissingScope(scope)


class Verifier:
    """The rules for the tokens of one issuer for one audience.

    ``types`` are the accepted values of the header field ``typ``, compared without case and without ``application/``. RFC 9068
    demands ``at+jwt``, which keeps an id token from being used as an access token. An empty text stands for a missing field.
    """

    def __init__(
        self,
        keys: IssuerKeys,
        *,
        audience: str,
        tenant_claim: str = "tenant",
        groups_claim: str = "groups",
        types: Sequence[str] = ("at+jwt",),
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.keys = keys
        self._claims = jwt.JWTClaimsRegistry(
            now=lambda: int(clock()),
            leeway=LEEWAY,
            iss={"essential": True, "value": keys.issuer},
            aud={"essential": True, "value": audience},
            exp={"essential": True},
            sub={"essential": True},
        )
        self._tenant_claim, self._groups_claim = tenant_claim, groups_claim
        self._types = frozenset(map(_media_type, types))

    async def verify(self, token: str) -> Caller:
        """Return the caller that a token names.

        Raises InvalidToken (401), or Unavailable when the issuer's keys cannot be read.
        """
        header = _header(token)
        if _media_type(header.get("typ", "")) not in self._types:
            raise InvalidToken(f"the token's typ is not one of {', '.join(sorted(self._types))}: send an access token")
        for key in await self.keys.candidates(header.get("kid"), header["alg"]):
            try:
                # unknown header fields are harmless (issuers add their own); ``crit`` is still obeyed
                registry = JWSRegistry(algorithms=ALGORITHMS, strict_check_header=False)
                claims = jwt.decode(token, key, algorithms=ALGORITHMS, registry=registry).claims
            except (JoseError, ValueError):
                continue
            return self._caller(claims)
        raise InvalidToken("the token is not signed by a key of its issuer")

    def _caller(self, claims: dict[str, Any]) -> Caller:
        try:
            self._claims.validate(claims)
        except JoseError as error:
            raise InvalidToken(f"the token is refused: {_why(error)}") from None
        tenant = _claim(claims, self._tenant_claim)
        if tenant is not None and not (isinstance(tenant, str) and _TENANT.fullmatch(tenant)):
            raise InvalidToken(f"claim {self._tenant_claim!r} is not a tenant name")
        groups = _strings(_claim(claims, self._groups_claim), self._groups_claim)
        if len(groups) > MAX_GROUPS:
            raise InvalidToken(f"the token names {len(groups)} groups, at most {MAX_GROUPS}")
        return Caller(_printable(claims["sub"], "sub"), tenant or "", tuple(sorted(set(groups))), _scopes(claims))


def bearer(authorizations: Sequence[str]) -> str:
    """Return the token of a request's Authorization headers.

    Raises NoToken or InvalidToken, and Rejected (400) for several headers: a proxy might have checked another one than the first.
    """
    if len(authorizations) > 1:
        raise Rejected(
            f"the request has {len(authorizations)} Authorization headers: send one",
            reason="two_credentials",
            status=400,
        )
    scheme, _, token = "".join(authorizations).partition(" ")
    if scheme.lower() != "bearer" or not token.strip():
        raise NoToken
    if len(token) > MAX_TOKEN:
        raise InvalidToken(f"the token has {len(token)} characters, at most {MAX_TOKEN}")
    return token.strip()


def _header(token: str) -> dict[str, Any]:
    """Return the unverified header, which only chooses among the issuer's own keys."""
    if token.count(".") != 2:
        raise InvalidToken("the token is not a signed JWT")
    encoded = token.partition(".")[0]
    try:
        header = json.loads(urlsafe_b64decode(encoded + "=" * (-len(encoded) % 4)))
    except (ValueError, binascii.Error, RecursionError):
        raise InvalidToken("the token is not a signed JWT") from None
    if not isinstance(header, dict) or header.get("alg") not in ALGORITHMS:
        raise InvalidToken(f"the token must be signed with one of {', '.join(ALGORITHMS)}")
    if not isinstance(header.get("kid"), str | None):
        raise InvalidToken("the token's kid is not a text")
    return header


def _claim(claims: Mapping[str, Any], name: str) -> Any:
    """Return a claim by its name, or by a path of names (``realm_access.roles``)."""
    if name in claims:
        return claims[name]
    found: Any = claims
    for step in name.split("."):
        found = found.get(step) if isinstance(found, Mapping) else None
    return found


def _scopes(claims: Mapping[str, Any]) -> frozenset[str]:
    """Return the scopes of ``scope`` (one string, by RFC 9068) or of ``scp`` (a list or a string, as some issuers write it)."""
    scope = claims.get("scope", claims.get("scp"))
    return frozenset(scope.split() if isinstance(scope, str) else _strings(scope, "scope"))


def _strings(value: Any, claim: str) -> list[str]:
    if value is None:
        return []
    values = [value] if isinstance(value, str) else value
    if not isinstance(values, list):
        raise InvalidToken(f"claim {claim!r} is not a list of texts")
    return [_printable(each, claim) for each in values]


def _printable(value: Any, claim: str) -> str:
    if not isinstance(value, str) or not 0 < len(value) <= 256 or not value.isprintable():
        raise InvalidToken(f"claim {claim!r} has a value that is not a printable text of 1 to 256 characters")
    return value


def _media_type(typ: Any) -> str:
    """Return ``typ`` as RFC 7515 (4.1.9) compares it, or a text that no setting can name when ``typ`` is not a text."""
    return typ.lower().removeprefix("application/") if isinstance(typ, str) else "\0"


def _why(error: JoseError) -> str:
    claim = getattr(error, "claim", None)
    return f"{error.error} ({claim})" if claim else str(error.error)
