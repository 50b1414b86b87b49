"""The issuer's signing keys: the current one signs, the previous one stays published until the next rotation."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from joserfc import jwt
from joserfc.jwk import Key, KeySet, RSAKey

from rag.files import write_whole

ALGORITHM = "RS256"
PUBLISHED = 2


class Keys:
    """Persistent in `path`, which only the owner may read: it holds the private halves."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.keys: list[Key] = (
            [RSAKey.import_key(key) for key in json.loads(path.read_bytes())["keys"]] if path.exists() else []
        )
        if not self.keys:
            self.rotate()

    def rotate(self) -> None:
        """A new signing key. Tokens of the one before still verify; those of the one before that no longer do."""
        fresh = RSAKey.generate_key(2048, parameters={"use": "sig", "alg": ALGORITHM}, auto_kid=True)
        keys: list[Key] = [fresh, *self.keys][:PUBLISHED]
        write_whole(self.path, json.dumps(KeySet(keys).as_dict(private=True)).encode())
        self.keys = keys

    def published(self) -> dict[str, Any]:
        return dict(KeySet(self.keys).as_dict(private=False))

    def sign(self, claims: dict[str, Any], kind: str) -> str:
        header = {"alg": ALGORITHM, "kid": self.keys[0].kid, "typ": kind}
        return jwt.encode(header, claims, self.keys[0], algorithms=[ALGORITHM])

    def verify(self, token: str, kind: str, expected: dict[str, str], now: int) -> dict[str, Any]:
        """The claims of a token signed here. Raises a joserfc error for any other, or one that has expired."""
        decoded = jwt.decode(token, KeySet(self.keys), algorithms=[ALGORITHM])
        jwt.JWTClaimsRegistry(now=now, exp={"essential": True}).validate(decoded.claims)
        if any(decoded.claims.get(name) != value for name, value in expected.items()):
            raise ValueError(f"a token with {expected} is needed")
        if decoded.header.get("typ") != kind:
            raise ValueError(f"a token of type {kind!r} is needed")
        return dict(decoded.claims)
