"""An OpenID provider as far as a resource server sees it, and the users of the tests."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from functools import cache
from typing import Any

import httpx
from joserfc import jws
from joserfc.jwk import ECKey, Key, OKPKey, RSAKey

ISSUER = "http://issuer.test"
USERS: dict[str, dict[str, Any]] = {
    "alice": {"tenant": "acme", "groups": ["staff", "engineering"]},
    "bob": {"tenant": "acme", "groups": ["contractors"]},
    "eve": {"tenant": "globex", "groups": ["staff", "engineering"]},
    "dpo": {"tenant": "acme", "groups": ["staff", "privacy"]},
    "evaluator": {"tenant": "evals", "groups": ["staff"]},
    "nobody": {},
}


@cache
def rsa_key(number: int) -> Key:
    """The key of this number in this session: to generate one takes 0.05 s."""
    return RSAKey.generate_key(2048, auto_kid=True)


class Issuer:
    """An OIDC provider as far as a resource server sees it. ``reads`` counts requests for its keys."""

    def __init__(self) -> None:
        self.keys: list[Key] = []
        self.rotations = 0
        self.reads = 0
        self.is_down = False
        self.document = {"issuer": ISSUER, "jwks_uri": f"{ISSUER}/jwks",
                         "authorization_endpoint": f"{ISSUER}/authorize", "token_endpoint": f"{ISSUER}/token"}  # fmt: skip
        self.rotate()

    def rotate(self, kind: str = "RS256") -> None:
        make: dict[str, Callable[[], Key]] = {
            "RS256": lambda: rsa_key(self.rotations),
            "ES256": lambda: ECKey.generate_key("P-256", auto_kid=True),
            "EdDSA": lambda: OKPKey.generate_key("Ed25519", auto_kid=True),
        }
        self.rotations += 1
        self.algorithm = kind
        self.keys = [make[kind]()]

    def answer(self, request: httpx.Request) -> httpx.Response:
        if self.is_down:
            raise httpx.ConnectError("refused")
        if request.url.path == "/jwks":
            self.reads += 1
            return httpx.Response(200, json={"keys": [key.as_dict(private=False) for key in self.keys]})
        return httpx.Response(200, json=self.document)

    def claims(self, user: str, scope: str = "rag:query rag:ingest") -> dict[str, Any]:
        now = int(time.time())
        times = {"iat": now, "nbf": now, "exp": now + 300}
        return {"iss": ISSUER, "aud": "tidemark", "sub": user, "scope": scope, **times, **USERS[user]}

    def token(self, user: str, scope: str = "rag:query rag:ingest", typ: Any = "at+jwt", **changes: Any) -> str:
        """Return a signed token; a claim (or ``typ``) of None is left out."""
        claims = {name: value for name, value in (self.claims(user, scope) | changes).items() if value is not None}
        key = self.keys[0]
        header = {"alg": self.algorithm, "kid": key.kid} | ({} if typ is None else {"typ": typ})
        return jws.serialize_compact(header, json.dumps(claims), key, algorithms=[self.algorithm])
