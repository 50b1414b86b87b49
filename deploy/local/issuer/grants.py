"""The state of the issuer between requests: authorization codes for a minute, refresh tokens for a month."""

from __future__ import annotations

import hashlib
import json
import secrets
from dataclasses import asdict, dataclass
from pathlib import Path

from rag.files import write_whole

CODE_SECONDS = 60
REFRESH_SECONDS = 30 * 24 * 3600


@dataclass(frozen=True)
class Grant:
    """The permission of a user for a client. `family` names the login that it came from. `expires` ends the code or refresh token."""

    user: str
    client: str
    scope: tuple[str, ...]
    family: str
    authenticated: int
    expires: int
    nonce: str | None = None
    redirect_uri: str = ""
    challenge: str = ""


class Grants:
    """The codes and refresh tokens, each of which works once. Hashes of refresh tokens are on the disk and survive a restart."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.codes: dict[str, Grant] = {}
        self.spent: dict[str, Grant] = {}
        stored = json.loads(path.read_bytes()) if path.exists() else {}
        self.refresh = {key: Grant(**{**grant, "scope": tuple(grant["scope"])}) for key, grant in stored.items()}

    def new_code(self, grant: Grant, now: int) -> str:
        for codes in (self.codes, self.spent):
            for key in [key for key, kept in codes.items() if kept.expires <= now]:
                del codes[key]
        code = secrets.token_urlsafe(32)
        self.codes[_digest(code)] = grant
        return code

    def take_code(self, code: str, now: int) -> Grant | None:
        """Return the grant, once. A second try means that the code leaked, so the tokens of the first are withdrawn (RFC 9700)."""
        key = _digest(code)
        if stolen := self.spent.get(key):
            self._drop({kept for kept, grant in self.refresh.items() if grant.family == stolen.family})
        grant = self.codes.pop(key, None)
        if grant is None:
            return None
        self.spent[key] = grant
        return grant if grant.expires > now else None

    def new_refresh(self, grant: Grant) -> str:
        token = secrets.token_urlsafe(32)
        self.refresh[_digest(token)] = grant
        self._save()
        return token

    def find_refresh(self, token: str, now: int) -> Grant | None:
        grant = self.refresh.get(_digest(token))
        return grant if grant and grant.expires > now else None

    def drop_refresh(self, token: str, now: int) -> None:
        expired = {key for key, grant in self.refresh.items() if grant.expires <= now}
        self._drop(expired | {_digest(token)})

    def _drop(self, keys: set[str]) -> None:
        self.refresh = {key: grant for key, grant in self.refresh.items() if key not in keys}
        self._save()

    def _save(self) -> None:
        stored = {key: asdict(grant) for key, grant in self.refresh.items()}
        write_whole(self.path, json.dumps(stored).encode())


def _digest(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()
