"""Signature Version 4, checked by the server: only requests that were signed with the stack's keys are served.

The steps follow "Create a signed AWS API request" in AWS's IAM user guide. Both forms are checked: the Authorization header and the
query of a presigned URL.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple
from urllib.parse import quote, quote_from_bytes, unquote_to_bytes

from moto.core.request import PRESERVED_HEADER_NAMES_ENVIRON_KEY

ALGORITHM = "AWS4-HMAC-SHA256"
SERVICES = ("s3", "sqs", "secretsmanager")
CLOCK_SKEW = timedelta(minutes=15)  # as AWS accepts it
LONGEST_PRESIGNED = 7 * 24 * 3600  # seconds, as AWS accepts it
UNSIGNED_PAYLOADS = ("UNSIGNED-PAYLOAD", "STREAMING-UNSIGNED-PAYLOAD-TRAILER")

_HEADER = re.compile(rf"{ALGORITHM} +Credential=([^\s,]+), *SignedHeaders=([^\s,]+), *Signature=([0-9a-f]+)")
_PRESIGNED = ("X-Amz-Credential", "X-Amz-SignedHeaders", "X-Amz-Signature", "X-Amz-Date")


class BadSignature(Exception):
    """A request that is not signed as it must be. `code` is S3's code of the error."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


@dataclass(frozen=True, slots=True)
class Keys:
    """The one pair of keys that the server accepts."""

    access_key_id: str
    secret: str


class _Request(NamedTuple):
    method: str
    path: str  # as it was sent: decoding it would hide differences from the signature
    query: tuple[tuple[bytes, bytes], ...]
    headers: Mapping[str, str]


class _Claim(NamedTuple):
    """A signature and the values that it depends on."""

    credential: str
    signed_headers: str
    signature: str
    timestamp: str
    expires: int | None = None  # seconds, of a presigned URL only


def check(environ: Mapping[str, Any], body: bytes, keys: Keys, now: datetime) -> None:
    """Raise BadSignature unless the WSGI request with this body was signed with the keys, and recently."""
    request = _request(environ)
    claim = _claim(request)
    access_key_id, _, scope = claim.credential.partition("/")
    if not hmac.compare_digest(access_key_id.encode(), keys.access_key_id.encode()):
        raise BadSignature(
            "InvalidAccessKeyId", "the access key is not this stack's: take AWS_ACCESS_KEY_ID of its env file"
        )
    _check_time(claim, now)
    _check_scope(scope, claim.timestamp)
    _check_headers(request, claim)
    service = scope.split("/")[2]
    canonical = _canonical(request, claim, service, _payload(request, claim, service, body))
    text = "\n".join((ALGORITHM, claim.timestamp, scope, hashlib.sha256(canonical).hexdigest()))
    expected = hmac.digest(_signing_key(keys.secret, scope), text.encode(), "sha256").hex()
    if not hmac.compare_digest(expected, claim.signature):
        raise BadSignature(
            "SignatureDoesNotMatch",
            "the signature is not this request's: take AWS_SECRET_ACCESS_KEY of the stack's env file",
        )


def _request(environ: Mapping[str, Any]) -> _Request:
    path, _, query = environ["REQUEST_URI"].partition("?")
    pairs = (pair.partition("=") for pair in query.split("&") if pair)
    decoded = tuple((unquote_to_bytes(key), unquote_to_bytes(value)) for key, _, value in pairs)
    spelled: Mapping[str, str] = environ.get(PRESERVED_HEADER_NAMES_ENVIRON_KEY, {})  # names with underscores
    headers = {
        (spelled.get(key) or key.removeprefix("HTTP_").replace("_", "-")).lower(): str(value)
        for key, value in environ.items()
        if key.startswith("HTTP_") or key in ("CONTENT_TYPE", "CONTENT_LENGTH")
    }
    return _Request(environ["REQUEST_METHOD"], path, decoded, headers)


def _claim(request: _Request) -> _Claim:
    parameters = [(key.decode("latin-1"), value.decode("latin-1")) for key, value in request.query]
    presigned = {key: value for key, value in parameters if key.startswith("X-Amz-")}
    header = request.headers.get("authorization")
    if header is not None and "X-Amz-Signature" in presigned:
        raise BadSignature("InvalidArgument", "the request is signed twice: in its header and in its query")
    if header is not None:
        match = _HEADER.fullmatch(header.strip())
        if match is None:
            raise BadSignature("AccessDenied", "the Authorization header is not one of Signature Version 4")
        credential, signed_headers, signature = match.groups()
        return _Claim(credential, signed_headers, signature, request.headers.get("x-amz-date", ""))
    if "X-Amz-Signature" not in presigned:
        raise BadSignature(
            "AccessDenied", "the request is not signed; Signature Version 4 is the only one that is served"
        )
    if len(presigned) != sum(key.startswith("X-Amz-") for key, _ in parameters):
        raise BadSignature("AuthorizationQueryParametersError", "a parameter of the signature is given twice")
    expires = presigned.get("X-Amz-Expires", "")
    if presigned.get("X-Amz-Algorithm") != ALGORITHM or not re.fullmatch("[0-9]{1,6}", expires):
        raise BadSignature(
            "AuthorizationQueryParametersError",
            f"X-Amz-Algorithm must be {ALGORITHM}, and X-Amz-Expires a number of seconds",
        )
    credential, signed_headers, signature, timestamp = (presigned.get(name, "") for name in _PRESIGNED)
    return _Claim(credential, signed_headers, signature, timestamp, int(expires))


def _check_time(claim: _Claim, now: datetime) -> None:
    try:
        signed = datetime.strptime(claim.timestamp, "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
    except ValueError:
        raise BadSignature("AccessDenied", "X-Amz-Date must be the time of signing, like 20260131T235959Z") from None
    if claim.expires is None:
        if abs(now - signed) > CLOCK_SKEW:
            raise BadSignature(
                "RequestTimeTooSkewed", f"the request was signed at {claim.timestamp}: over 15 minutes from now"
            )
    elif claim.expires > LONGEST_PRESIGNED:
        raise BadSignature("AuthorizationQueryParametersError", f"X-Amz-Expires may be {LONGEST_PRESIGNED} at most")
    elif not signed - CLOCK_SKEW <= now <= signed + timedelta(seconds=claim.expires):
        raise BadSignature("AccessDenied", "the presigned URL has expired, or is not valid yet")


def _check_scope(scope: str, timestamp: str) -> None:
    parts = scope.split("/")
    if len(parts) != 4 or parts[0] != timestamp[:8] or parts[2] not in SERVICES or parts[3] != "aws4_request":
        raise BadSignature(
            "AccessDenied",
            f"the credential's scope is {scope!r}; it must be DATE/REGION/SERVICE/aws4_request, of {', '.join(SERVICES)}",
        )


def _check_headers(request: _Request, claim: _Claim) -> None:
    """Refuse headers that change the meaning of the request without being signed."""
    signed = claim.signed_headers.split(";")
    required = {"host", *(name for name in request.headers if name.startswith("x-amz-"))}
    unsigned = sorted(required.difference(signed))
    if unsigned or signed != sorted(set(signed)):
        raise BadSignature(
            "AccessDenied",
            f"SignedHeaders must be sorted and hold host and each x-amz- header; missing: {', '.join(unsigned) or 'none'}",
        )


def _payload(request: _Request, claim: _Claim, service: str, body: bytes) -> str:
    """Return the last line of the canonical request: the hash of the body, or the name of a form without one."""
    found = hashlib.sha256(body).hexdigest()
    if service != "s3":
        return found
    declared = request.headers.get("x-amz-content-sha256") or (
        UNSIGNED_PAYLOADS[0] if claim.expires is not None else ""
    )
    if declared in UNSIGNED_PAYLOADS or hmac.compare_digest(found.encode(), declared.encode()):
        return declared
    if declared.startswith("STREAMING-"):
        raise BadSignature(
            "NotImplemented", f"{declared}: chunks with signatures of their own are not served; sign the whole body"
        )
    raise BadSignature("XAmzContentSHA256Mismatch", "x-amz-content-sha256 is not the hash of the body")


def _canonical(request: _Request, claim: _Claim, service: str, payload: str) -> bytes:
    names = claim.signed_headers.split(";")
    pairs = sorted(
        (quote_from_bytes(key, safe="-_.~"), quote_from_bytes(value, safe="-_.~"))
        for key, value in request.query
        if key != b"X-Amz-Signature"
    )
    lines = (
        request.method,
        request.path if service == "s3" else quote(request.path, safe="/~"),  # S3 alone does not encode the path twice
        "&".join(f"{key}={value}" for key, value in pairs),
        *(f"{name}:{' '.join(request.headers.get(name, '').split())}" for name in names),
        "",
        claim.signed_headers,
        payload,
    )
    return "\n".join(lines).encode("latin-1")  # WSGI hands bytes over as latin-1


def _signing_key(secret: str, scope: str) -> bytes:
    key = f"AWS4{secret}".encode()
    for part in scope.split("/"):
        key = hmac.digest(key, part.encode(), "sha256")
    return key
