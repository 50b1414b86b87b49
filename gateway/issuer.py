"""The issuer's published keys: read by discovery, kept, and read again when a token names an unknown key."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

import httpx
from joserfc.errors import JoseError
from joserfc.jwk import ECKey, Key, KeySet, OKPKey, RSAKey

from rag.errors import Unavailable
from rag.telemetry import logger

ALGORITHMS = ("RS256", "ES256", "EdDSA", "Ed25519")  # Ed25519 is EdDSA's name in RFC 9864
REFRESH = 300.0  # seconds after which keys are read again; a withdrawn key may be accepted for so long
COOLDOWN = 10.0  # seconds between two reads, so that a flood of unknown kids does not reach the issuer
STALE = 3600.0  # seconds that known keys outlive an issuer that does not answer
MAX_DOCUMENT = 256 * 1024


class IssuerKeys:
    """The verification keys of ``issuer``, found by its discovery document. Plain http is accepted only with ``allow_http``."""

    def __init__(
        self,
        issuer: str,
        client: httpx.AsyncClient,
        *,
        allow_http: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.issuer = issuer
        self._client, self._allow_http, self._clock = client, allow_http, clock
        self._keys: tuple[Key, ...] = ()
        self._discovery: dict[str, Any] = {}
        self._read_at = self._tried_at = float("-inf")
        self._lock = asyncio.Lock()

    async def candidates(self, kid: str | None, alg: str) -> list[Key]:
        """Return the published keys that may have signed such a token.

        Raises Unavailable when the issuer does not answer and the known keys are too old, or none is known.
        """
        now = self._clock()
        if now - self._read_at > REFRESH or not self._matching(kid, alg):
            await self._refresh(now)
        if self._clock() - self._read_at > STALE:
            raise Unavailable(
                f"the token issuer {self.issuer} does not answer: its keys cannot be read", retry_after=10
            )
        return self._matching(kid, alg)

    async def discovery(self) -> dict[str, Any]:
        """Return the discovery document as last read, or an empty one before the first successful read."""
        if not self._discovery:
            await self._refresh(self._clock())
        return self._discovery

    async def _refresh(self, asked_at: float) -> None:
        async with self._lock:  # a task that waited here finds the keys that another one read meanwhile
            if self._tried_at >= asked_at or self._clock() - self._tried_at < COOLDOWN:
                return
            self._tried_at = self._clock()
            try:
                self._keys = await self._read()
                self._read_at = self._clock()
            except (httpx.HTTPError, JoseError, ValueError, KeyError, TypeError) as error:
                logger(__name__).warning("issuer_unreadable", issuer=self.issuer, error=type(error).__name__)

    async def _read(self) -> tuple[Key, ...]:
        discovery = await self._get(f"{self.issuer.rstrip('/')}/.well-known/openid-configuration")
        if discovery["issuer"] != self.issuer:
            raise ValueError("the discovery document is another issuer's")
        published = (await self._get(discovery["jwks_uri"]))["keys"]
        self._discovery = discovery
        return tuple(key for key in map(_verification_key, published) if key)

    async def _get(self, url: str) -> dict[str, Any]:
        if urlsplit(url).scheme != "https" and not self._allow_http:
            raise ValueError("the issuer must be read over https")
        async with self._client.stream("GET", url, headers={"Accept": "application/json"}) as response:
            response.raise_for_status()
            body = bytearray()
            async for piece in response.aiter_bytes():
                body += piece
                if len(body) > MAX_DOCUMENT:
                    raise ValueError("the issuer's document is too large")
        document = httpx.Response(200, content=bytes(body)).json()
        if not isinstance(document, dict):
            raise ValueError("the issuer's document is not an object")
        return document

    def _matching(self, kid: str | None, alg: str) -> list[Key]:
        return [key for key in self._keys if (kid is None or key.kid == kid) and _signs(key, alg)]


def _verification_key(published: dict[str, Any]) -> Key | None:
    """Return the key, or None for an encryption key, a symmetric key, a small RSA key or a key of an unknown kind."""
    if published.get("use", "sig") != "sig" or published.get("kty") not in {"RSA", "EC", "OKP"}:
        return None
    try:
        key = next(iter(KeySet.import_key_set({"keys": [published]})))
        if isinstance(key, RSAKey) and key.raw_value.key_size < 2048:
            return None
        return key
    except (JoseError, ValueError):
        return None


def _signs(key: Key, alg: str) -> bool:
    declared = key.get("alg")
    if declared not in {None, alg} and not {declared, alg} <= {"EdDSA", "Ed25519"}:
        return False
    if alg == "RS256":
        return isinstance(key, RSAKey)
    if alg == "ES256":
        return isinstance(key, ECKey) and key.curve_name == "P-256"
    return isinstance(key, OKPKey) and key.get("crv") == "Ed25519"
