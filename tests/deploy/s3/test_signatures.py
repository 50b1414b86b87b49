"""Requests as botocore signs them are accepted, and the smallest change to one is refused."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import unquote

import pytest
from botocore import auth
from botocore.awsrequest import AWSRequest
from botocore.config import Config
from botocore.credentials import Credentials

from deploy.local.s3.signatures import BadSignature, Keys, check

KEYS = Keys("stack-key", "stack-secret-of-the-tests")
CREDENTIALS = Credentials(KEYS.access_key_id, KEYS.secret)
REGION, HOST = "eu-central-1", "127.0.0.1:18050"
BODY = b"# Title"


def signed(
    signer: Any = auth.S3SigV4Auth,
    service: str = "s3",
    *,
    method: str = "PUT",
    path: str = "/documents/a%20b.md?versionId=1&acl=",
    body: bytes = BODY,
    headers: dict[str, str] | None = None,
    sign_body: bool = True,
    **options: Any,
) -> dict[str, Any]:
    """The WSGI environment of a request that botocore has signed just now."""
    request = AWSRequest(
        method, f"http://{HOST}{path}", headers or {}, None if signer is auth.S3SigV4QueryAuth else body
    )
    request.context["client_config"] = Config(s3={"payload_signing_enabled": sign_body})
    signer(CREDENTIALS, service, REGION, **options).add_auth(request)
    sent = request.prepare()
    target = sent.url.removeprefix(f"http://{HOST}")
    named = {"Host": HOST, **dict(sent.headers.items())}
    return {
        "REQUEST_METHOD": method,
        "REQUEST_URI": target,
        "PATH_INFO": unquote(target.partition("?")[0]),
        **{
            f"HTTP_{key.upper().replace('-', '_')}": as_text(value)
            for key, value in named.items()
            if key != "Content-Length"
        },
    }


def as_text(value: str | bytes) -> str:
    return value.decode("latin-1") if isinstance(value, bytes) else value


def refusal(environ: dict[str, Any], body: bytes = BODY, later: timedelta = timedelta(0), keys: Keys = KEYS) -> str:
    with pytest.raises(BadSignature) as refused:
        check(environ, body, keys, datetime.now(UTC) + later)
    return refused.value.code


@pytest.mark.parametrize(
    "path",
    [
        "/documents/a.md",
        "/documents/a%20b%2Fc%25.md",
        "/documents/..//a.md",
        "/documents?list-type=2&prefix=a%2Fb&encoding-type=url",
        "/documents?uploads=",
        "/documents?tag=b&tag=a",
    ],
)
@pytest.mark.parametrize("signer", [auth.S3SigV4Auth, auth.S3SigV4QueryAuth])
def test_a_signed_request_is_accepted_in_its_header_and_in_its_query(signer: Any, path: str) -> None:
    check(signed(signer, path=path), BODY, KEYS, datetime.now(UTC))


def test_a_request_of_another_service_signs_the_body_and_a_path_that_is_encoded_twice() -> None:
    environ = signed(auth.SigV4Auth, "sqs", method="POST", path="/123456789012/a%20b")
    check(environ, BODY, KEYS, datetime.now(UTC))
    assert refusal(environ, body=BODY + b" ") == "SignatureDoesNotMatch"


def test_a_body_that_was_declared_unsigned_may_be_any() -> None:
    environ = signed(sign_body=False)
    check(environ, b"another", KEYS, datetime.now(UTC))


def flipped(environ: dict[str, Any], name: str) -> None:
    value = environ[name]
    environ[name] = value[:-1] + ("0" if value[-1] != "0" else "1")


CHANGES: dict[str, Callable[[dict[str, Any]], Any]] = {
    "the method": lambda environ: environ.update(REQUEST_METHOD="DELETE"),
    "the path": lambda environ: environ.update(REQUEST_URI=environ["REQUEST_URI"].replace("a%20b", "a%20c")),
    "a parameter": lambda environ: environ.update(
        REQUEST_URI=environ["REQUEST_URI"].replace("versionId=1", "versionId=2")
    ),
    "one more parameter": lambda environ: environ.update(REQUEST_URI=environ["REQUEST_URI"] + "&tagging="),
    "the host": lambda environ: environ.update(HTTP_HOST="localhost:18050"),
    "a signed header": lambda environ: environ.update(HTTP_X_AMZ_META_GROUPS="board"),
    "the signature": lambda environ: flipped(environ, "HTTP_AUTHORIZATION"),
    "the service": lambda environ: environ.update(
        HTTP_AUTHORIZATION=environ["HTTP_AUTHORIZATION"].replace("/s3/", "/sqs/")
    ),
    "the region": lambda environ: environ.update(
        HTTP_AUTHORIZATION=environ["HTTP_AUTHORIZATION"].replace(REGION, "us-east-1")
    ),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_request_that_was_changed_after_signing_is_refused(change: str) -> None:
    environ = signed(headers={"X-Amz-Meta-Groups": "staff"})
    check(environ, BODY, KEYS, datetime.now(UTC))
    CHANGES[change](environ)
    assert refusal(environ) == "SignatureDoesNotMatch"


def test_a_body_that_was_changed_after_signing_is_refused() -> None:
    assert refusal(signed(), body=b"# Other") == "XAmzContentSHA256Mismatch"


def test_a_header_that_the_signer_did_not_sign_is_refused() -> None:
    assert refusal(signed() | {"HTTP_X_AMZ_META_GROUPS": "board"}) == "AccessDenied"
    assert refusal(signed() | {"HTTP_X_AMZ_COPY_SOURCE": "documents/secret.md"}) == "AccessDenied"


@pytest.mark.parametrize("minutes", [-16, 16])
def test_a_request_of_another_time_is_refused(minutes: int) -> None:
    assert refusal(signed(), later=timedelta(minutes=minutes)) == "RequestTimeTooSkewed"


def test_a_presigned_url_ends_with_its_time_and_cannot_be_prolonged() -> None:
    environ = signed(auth.S3SigV4QueryAuth, expires=60)
    check(environ, BODY, KEYS, datetime.now(UTC) + timedelta(seconds=50))
    assert refusal(environ, later=timedelta(seconds=70)) == "AccessDenied"
    longer = environ | {"REQUEST_URI": environ["REQUEST_URI"].replace("Expires=60", "Expires=600")}
    assert refusal(longer) == "SignatureDoesNotMatch"
    assert refusal(signed(auth.S3SigV4QueryAuth, expires=8 * 24 * 3600)) == "AuthorizationQueryParametersError"


@pytest.mark.parametrize(
    ("keys", "code"),
    [
        (Keys("another-key", KEYS.secret), "InvalidAccessKeyId"),
        (Keys(KEYS.access_key_id, "another-secret-of-tests"), "SignatureDoesNotMatch"),
    ],
)
def test_another_pair_of_keys_is_refused(keys: Keys, code: str) -> None:
    assert refusal(signed(), keys=keys) == code


@pytest.mark.parametrize(
    "header", [None, "", "Bearer x", "AWS stack-key:c2lnbmF0dXJl", "AWS4-HMAC-SHA256 Credential=a"]
)
def test_an_unsigned_request_and_an_older_signature_are_refused(header: str | None) -> None:
    environ = signed()
    del environ["HTTP_AUTHORIZATION"]
    assert refusal(environ | ({} if header is None else {"HTTP_AUTHORIZATION": header})) == "AccessDenied"


def test_a_request_that_is_signed_twice_or_names_a_parameter_twice_is_refused() -> None:
    query = signed(auth.S3SigV4QueryAuth)
    assert refusal(query | {"HTTP_AUTHORIZATION": signed()["HTTP_AUTHORIZATION"]}) == "InvalidArgument"
    twice = query | {"REQUEST_URI": query["REQUEST_URI"] + "&X-Amz-Expires=999999"}
    assert refusal(twice) == "AuthorizationQueryParametersError"


@pytest.mark.parametrize("service", ["iam", "sts", "ec2"])
def test_a_service_that_is_not_offered_is_refused(service: str) -> None:
    assert refusal(signed(auth.SigV4Auth, service, method="POST", path="/")) == "AccessDenied"


def test_chunks_with_signatures_of_their_own_are_refused_by_name() -> None:
    environ = signed() | {"HTTP_X_AMZ_CONTENT_SHA256": "STREAMING-AWS4-HMAC-SHA256-PAYLOAD"}
    assert refusal(environ) == "NotImplemented"


def test_signatures_are_compared_in_constant_time(monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[tuple[Any, Any]] = []

    def record(one: Any, other: Any) -> bool:
        compared.append((one, other))
        return bool(one == other)

    monkeypatch.setattr("deploy.local.s3.signatures.hmac.compare_digest", record)
    environ = signed()
    check(environ, BODY, KEYS, datetime.now(UTC))
    assert environ["HTTP_AUTHORIZATION"].rpartition("=")[2] in {one for one, _ in compared}
    assert hashlib.sha256(BODY).hexdigest().encode() in {one for one, _ in compared}
