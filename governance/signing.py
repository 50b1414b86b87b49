"""Signatures that anyone can verify without this platform: compact JWS (RFC 7515) by Ed25519 keys (RFC 8037, RFC 9864) and a JWKS.

A key is replaced in two steps: its public half (``x`` in the JWKS) joins the retired keys, and a new key signs. All signatures of
retired keys still verify. A key that is neither current nor retired verifies nothing.
"""

from __future__ import annotations

import json
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from joserfc import jws
from joserfc.errors import JoseError
from joserfc.jwk import OKPKey

from rag.errors import Rejected

ALGORITHM = "Ed25519"
_CURVE: dict[str, str | list[str]] = {"kty": "OKP", "crv": ALGORITHM}


@dataclass(frozen=True, slots=True)
class Signer:
    """A private key, and the public keys of its predecessors. A key's id (``kid``) is its thumbprint (RFC 7638)."""

    key: OKPKey = field(repr=False)
    retired: tuple[OKPKey, ...] = ()

    @classmethod
    def load(cls, seed: str, retired: Sequence[str] = ()) -> Self:
        """Return the signer of a private key, 32 bytes in base64, and of retired public keys in the same form.

        Without a seed, the key is new and ends with the process. Only development gets so far.
        """
        key = _private(seed) if seed else OKPKey.generate_key("Ed25519")
        return cls(key, tuple(OKPKey.import_key(_CURVE | {"x": _base64url(each)}) for each in retired))

    def sign(self, payload: Mapping[str, Any], *, kind: str) -> str:
        """Return the payload as a compact JWS. ``kind`` is its type: a signed payload of one kind never passes as another kind."""
        header = {"alg": ALGORITHM, "kid": self.key.thumbprint(), "typ": kind}
        return jws.serialize_compact(header, _canonical(payload), self.key, algorithms=[ALGORITHM])

    def jwks(self) -> dict[str, Any]:
        """Return the public keys, the current one first."""
        return {"keys": [_public(each) for each in (self.key, *self.retired)]}


def verify(signed: str, jwks: Mapping[str, Any], *, kind: str) -> dict[str, Any]:
    """Return the payload of a compact JWS of this kind that a key of ``jwks`` signed. Raises Rejected("bad_signature")."""
    try:
        header = jws.extract_compact(signed.strip().encode()).headers()
        if header.get("typ") != kind:
            raise _refused(f"it is not of the type {kind}")
        key = next((each for each in jwks["keys"] if each["kid"] == header.get("kid")), None)
        if key is None:
            raise _refused("its key is not among the published keys: add the retired key that signed it")
        payload = jws.deserialize_compact(signed.strip(), OKPKey.import_key(dict(key)), algorithms=[ALGORITHM]).payload
        found = json.loads(payload)
    except (JoseError, ValueError, TypeError, KeyError) as error:
        raise _refused(f"it does not verify ({type(error).__name__})") from None
    if not isinstance(found, dict):
        raise _refused("its payload is not an object")
    return found


def _private(seed: str) -> OKPKey:
    private = Ed25519PrivateKey.from_private_bytes(urlsafe_b64decode(_base64url(seed) + "="))
    x = urlsafe_b64encode(private.public_key().public_bytes_raw()).rstrip(b"=").decode()
    return OKPKey.import_key(_CURVE | {"d": _base64url(seed), "x": x})


def _base64url(text: str) -> str:
    """Return 32 bytes in the alphabet of JSON web keys. ``openssl rand -base64 32`` writes the other one."""
    return text.strip().rstrip("=").replace("+", "-").replace("/", "_")


def _public(key: OKPKey) -> dict[str, Any]:
    return {**key.as_dict(private=False), "kid": key.thumbprint(), "use": "sig", "alg": ALGORITHM}


def _canonical(payload: Mapping[str, Any]) -> bytes:
    return json.dumps(payload, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def _refused(why: str) -> Rejected:
    return Rejected(f"the signature is refused: {why}", reason="bad_signature")
