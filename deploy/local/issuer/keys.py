"""The issuer's signing keys. The current key signs; the previous key stays published until the next rotation."""

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
    """The keys in the file `path`, which only its owner may read, because it holds the private halves."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.keys: list[Key] = (
            [RSAKey.import_key(key) for key in json.loads(path.read_bytes())["keys"]] if path.exists() else []
        )
        if not self.keys:
            self.rotate()

    def rotate(self) -> None:
        """Make a new signing key. Tokens of the previous key still verify; tokens of older keys do not."""
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
        """Return the claims of a token that was signed here. Raises a joserfc error for any other token, and for an expired one."""
        decoded = jwt.decode(token, KeySet(self.keys), algorithms=[ALGORITHM])
        jwt.JWTClaimsRegistry(now=now, exp={"essential": True}).validate(decoded.claims)
        if any(decoded.claims.get(name) != value for name, value in expected.items()):
            raise ValueError(f"a token with {expected} is needed")
        if decoded.header.get("typ") != kind:
            raise ValueError(f"a token of type {kind!r} is needed")
        return dict(decoded.claims)
