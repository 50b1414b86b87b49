from __future__ import annotations

import base64
import hashlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest
from authlib.integrations.httpx_client import OAuth2Client
from joserfc import jwt
from joserfc.errors import BadSignatureError, InvalidKeyIdError
from joserfc.jwk import KeySet
from starlette.testclient import TestClient

from deploy.local.issuer.app import create_app
from deploy.local.issuer.grants import CODE_SECONDS, REFRESH_SECONDS, Grants
from deploy.local.issuer.keys import Keys
from deploy.local.issuer.tokens import Issuer

URL = "http://127.0.0.1:9080"
SECRET = "a-secret-of-the-test-suite"
VERIFIER = "v" * 64
CHALLENGE = base64.urlsafe_b64encode(hashlib.sha256(VERIFIER.encode()).digest()).rstrip(b"=").decode()
REDIRECT = "http://127.0.0.1:4321/callback"
EVERY_SCOPE = "rag:query rag:ingest rag:erase rag:audit rag:admin"


class Clock:
    def __init__(self) -> None:
        self.seconds = int(time.time())

    def __call__(self) -> int:
        return self.seconds


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def issuer(signing_keys: Keys, tmp_path: Path, clock: Clock) -> Issuer:
    grants = Grants(tmp_path / "grants.json")
    return Issuer(
        url=URL, audience="tidemark", lifetime=900, secret=SECRET, keys=signing_keys, grants=grants, now=clock
    )


@pytest.fixture
def web(issuer: Issuer) -> Iterator[TestClient]:
    with TestClient(create_app(issuer), base_url=URL, follow_redirects=False) as web:
        yield web


def request(**changes: str | None) -> dict[str, str]:
    parameters = {
        "client_id": "tidemark-cli",
        "redirect_uri": REDIRECT,
        "response_type": "code",
        "scope": "openid rag:query",
        "state": "opaque",
        "code_challenge": CHALLENGE,
        "code_challenge_method": "S256",
        "login_hint": "alice",
    }
    return {name: value for name, value in (parameters | changes).items() if value is not None}


def authorize(web: TestClient, **changes: str | None) -> dict[str, str]:
    """The parameters of the redirect back."""
    answer = web.get("/authorize", params=request(**changes))
    assert answer.status_code == 303, answer.text
    location = urlsplit(answer.headers["location"])
    assert f"{location.scheme}://{location.netloc}{location.path}" == REDIRECT
    return {name: values[0] for name, values in parse_qs(location.query).items()}


def exchange(web: TestClient, code: str, **changes: str) -> Any:
    form = {"client_id": "tidemark-cli", "code": code, "redirect_uri": REDIRECT, "code_verifier": VERIFIER}
    return web.post("/token", data={"grant_type": "authorization_code"} | form | changes)


def login(web: TestClient, user: str, **changes: str | None) -> dict[str, Any]:
    answer = exchange(web, authorize(web, login_hint=user, **changes)["code"])
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


def claims(web: TestClient | httpx.Client, token: str) -> dict[str, Any]:
    published = KeySet.import_key_set(web.get(web.get("/.well-known/openid-configuration").json()["jwks_uri"]).json())
    return dict(jwt.decode(token, published, algorithms=["RS256"]).claims)


def test_the_demo_client_gets_a_token_that_verifies_with_the_published_keys(web: TestClient, clock: Clock) -> None:
    answer = web.post("/token", data={"grant_type": "client_credentials"}, auth=("demo", SECRET)).json()
    found = claims(web, answer["access_token"])
    assert found.pop("jti")
    assert found == {
        "iss": URL,
        "sub": "demo",
        "aud": "tidemark",
        "client_id": "demo",
        "iat": clock(),
        "nbf": clock(),
        "exp": clock() + 900,
        "scope": EVERY_SCOPE,
        "tenant": "acme",
        "groups": ["staff", "engineering", "finance", "people", "contractors"],
    }
    assert (answer["token_type"], answer["expires_in"], answer["scope"]) == ("Bearer", 900, EVERY_SCOPE)


def test_the_scope_parameter_narrows(web: TestClient) -> None:
    form = {"grant_type": "client_credentials", "client_id": "demo", "client_secret": SECRET, "scope": "rag:query"}
    assert claims(web, web.post("/token", data=form).json()["access_token"])["scope"] == "rag:query"


@pytest.mark.parametrize(
    ("form", "status", "error"),
    [
        ({"client_secret": "wrong"}, 401, "invalid_client"),
        ({"client_secret": ""}, 401, "invalid_client"),
        ({"client_id": "nobody"}, 401, "invalid_client"),
        ({"client_id": "tidemark-cli"}, 401, "invalid_client"),
        ({"client_id": "tidemark-cli", "client_secret": ""}, 400, "unauthorized_client"),
        ({"scope": "rag:query rag:root"}, 400, "invalid_scope"),
        ({"grant_type": "password", "username": "alice"}, 400, "unsupported_grant_type"),
        ({"grant_type": "authorization_code", "code": "x"}, 400, "unauthorized_client"),
        ({"grant_type": "refresh_token", "refresh_token": "x"}, 400, "unauthorized_client"),
    ],
)
def test_a_wrong_token_request_is_refused_by_name(
    web: TestClient, form: dict[str, str], status: int, error: str
) -> None:
    right = {"grant_type": "client_credentials", "client_id": "demo", "client_secret": SECRET}
    answer = web.post("/token", data=right | form)
    assert (answer.status_code, answer.json()["error"]) == (status, error)
    assert ("www-authenticate" in answer.headers) == (status == 401)
    assert "no-store" in answer.headers["cache-control"]


@pytest.mark.parametrize(
    "header", ["Basic", "Basic !!!", "Basic " + base64.b64encode(b"demo").decode(), "Bearer x", "Basic " + "//79"]
)
def test_broken_client_authentication_is_a_401(web: TestClient, header: str) -> None:
    answer = web.post("/token", data={"grant_type": "client_credentials"}, headers={"Authorization": header})
    assert (answer.status_code, answer.json()["error"]) == (401, "invalid_client")


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (b"{}", "application/json"),
        (b"grant_type=a&grant_type=b", "application/x-www-form-urlencoded"),
        (b"grant_type=%ff", "application/x-www-form-urlencoded"),
        (b"a=" + b"x" * 70_000, "application/x-www-form-urlencoded"),
        (b"&".join(b"p%d=1" % n for n in range(40)), "application/x-www-form-urlencoded"),
    ],
)
def test_a_malformed_body_is_an_invalid_request(web: TestClient, content: bytes, kind: str) -> None:
    answer = web.post("/token", content=content, headers={"Content-Type": kind})
    assert (answer.status_code, answer.json()["error"]) == (400, "invalid_request")


@pytest.mark.parametrize(
    ("user", "tenant", "groups", "scope"),
    [
        ("alice", "acme", ["staff", "engineering", "finance"], "rag:query rag:ingest"),
        ("bob", "acme", ["contractors"], "rag:query rag:ingest"),
        ("eve", "globex", ["staff", "engineering"], "rag:query rag:ingest"),
        ("dpo", "acme", ["staff", "privacy"], "rag:query rag:erase rag:audit"),
    ],
)
def test_each_user_has_a_tenant_groups_and_scopes(
    web: TestClient, user: str, tenant: str, groups: list[str], scope: str
) -> None:
    found = claims(web, login(web, user, scope=None)["access_token"])
    assert (found["sub"], found["tenant"], found["groups"], found["scope"]) == (user, tenant, groups, scope)
    assert (found["aud"], found["client_id"]) == ("tidemark", "tidemark-cli")


def test_a_user_gets_no_scope_beyond_their_own_and_the_answer_names_the_granted_ones(web: TestClient) -> None:
    answer = login(web, "alice", scope="rag:query rag:erase rag:admin")
    assert answer["scope"] == claims(web, answer["access_token"])["scope"] == "rag:query"
    assert authorize(web, scope="rag:admin")["error"] == "invalid_scope"


def test_an_id_token_names_client_and_nonce_and_is_not_an_access_token(web: TestClient) -> None:
    answer = login(web, "alice", nonce="n-1")
    found = claims(web, answer["id_token"])
    assert (found["aud"], found["nonce"], found["sub"]) == ("tidemark-cli", "n-1", "alice")
    assert "scope" not in found
    refused = web.get("/userinfo", headers={"Authorization": f"Bearer {answer['id_token']}"})
    assert refused.status_code == 401


def test_userinfo_answers_the_bearer_until_the_token_expires(web: TestClient, clock: Clock) -> None:
    bearer = {"Authorization": f"Bearer {login(web, 'bob')['access_token']}"}
    assert web.get("/userinfo", headers=bearer).json() == {
        "sub": "bob",
        "preferred_username": "bob",
        "name": "Bob, contractor",
        "email": "bob@acme.example",
        "tenant": "acme",
        "groups": ["contractors"],
    }
    clock.seconds += 901
    assert web.get("/userinfo", headers=bearer).status_code == 401
    assert web.get("/userinfo").status_code == 401


@pytest.mark.parametrize(
    "changes",
    [
        {"code_verifier": "w" * 64},
        {"code_verifier": ""},
        {"code_verifier": CHALLENGE},
        {"redirect_uri": "http://127.0.0.1:9999/callback"},
        {"client_id": "tidemark-docs"},
    ],
)
def test_a_code_is_good_only_for_the_request_that_began_it(web: TestClient, changes: dict[str, str]) -> None:
    code = authorize(web)["code"]
    answer = exchange(web, code, **changes)
    assert (answer.status_code, answer.json()["error"]) == (400, "invalid_grant")
    assert exchange(web, code).status_code == 400, "a failed try uses the code up"


def test_a_reused_code_is_refused_and_its_tokens_are_withdrawn(web: TestClient) -> None:
    code = authorize(web)["code"]
    refresh = exchange(web, code).json()["refresh_token"]
    assert exchange(web, code).json()["error"] == "invalid_grant"
    form = {"grant_type": "refresh_token", "client_id": "tidemark-cli", "refresh_token": refresh}
    assert web.post("/token", data=form).json()["error"] == "invalid_grant"


def test_a_code_expires(web: TestClient, clock: Clock) -> None:
    code = authorize(web)["code"]
    clock.seconds += CODE_SECONDS
    assert exchange(web, code).json()["error"] == "invalid_grant"


def test_a_refresh_token_works_once_narrows_and_survives_a_restart(
    web: TestClient, issuer: Issuer, clock: Clock
) -> None:
    form = {"grant_type": "refresh_token", "client_id": "tidemark-cli", "scope": "rag:query"}
    first = login(web, "alice", scope="rag:query rag:ingest")["refresh_token"]
    restarted = replace(issuer, keys=Keys(issuer.keys.path), grants=Grants(issuer.grants.path))
    with TestClient(create_app(restarted), base_url=URL) as web:
        narrow = web.post("/token", data=form | {"refresh_token": first}).json()
        assert claims(web, narrow["access_token"])["scope"] == "rag:query"
        assert web.post("/token", data=form | {"refresh_token": first}).json()["error"] == "invalid_grant"
        full = web.post("/token", data=form | {"refresh_token": narrow["refresh_token"], "scope": ""}).json()
        assert full["scope"] == "rag:query rag:ingest"
        clock.seconds += REFRESH_SECONDS
        expired = web.post("/token", data=form | {"refresh_token": full["refresh_token"]})
        assert expired.json()["error"] == "invalid_grant"
    assert first not in issuer.grants.path.read_text()


@pytest.mark.parametrize(
    "redirect",
    [
        "https://evil.example/cb",
        "http://evil.example/cb",
        "http://127.0.0.1.evil.example/cb",
        "http://localhost.evil.example/cb",
        "http://127.0.0.1@evil.example/cb",
        "http://127.0.0.1:80@evil.example/cb",
        "http://127.0.0.1\\@evil.example/cb",
        "http://127.0.0.1:4321/cb#@evil.example",
        "http://127.0.0.1:4321/cb\r\nLocation: http://evil.example",
        "//127.0.0.1/cb",
        "http:///evil.example",
        "http://2130706433/cb",
        "javascript:alert(1)",
        "",
        " http://127.0.0.1/cb",
    ],
)
@pytest.mark.parametrize("method", ["GET", "POST"])
@pytest.mark.parametrize("broken", [{}, {"scope": "rag:root"}, {"response_type": "token"}])
def test_no_redirect_leaves_this_machine(web: TestClient, redirect: str, method: str, broken: dict[str, str]) -> None:
    parameters = request(redirect_uri=redirect, **broken)
    sent: dict[str, Any] = {"params": parameters} if method == "GET" else {"data": parameters}
    answer = web.request(method, "/authorize", **sent)
    assert answer.status_code == 400
    assert "location" not in answer.headers


@pytest.mark.parametrize("client", ["demo", "nobody", None])
def test_an_unknown_client_gets_an_error_page_and_no_redirect(web: TestClient, client: str | None) -> None:
    answer = web.get("/authorize", params=request(client_id=client))
    assert answer.status_code == 400
    assert "location" not in answer.headers


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"code_challenge": None}, "invalid_request"),
        ({"code_challenge_method": "plain", "code_challenge": VERIFIER}, "invalid_request"),
        ({"code_challenge_method": None}, "invalid_request"),
        ({"response_type": "token"}, "unsupported_response_type"),
        ({"scope": "rag:root"}, "invalid_scope"),
        ({"login_hint": "mallory"}, "access_denied"),
        ({"login_hint": None, "prompt": "none"}, "login_required"),
    ],
)
def test_a_wrong_login_goes_back_to_the_client_with_an_error(
    web: TestClient, changes: dict[str, str | None], error: str
) -> None:
    answer = authorize(web, **changes)
    assert (answer["error"], answer["state"], answer["iss"]) == (error, "opaque", URL)
    assert "code" not in answer


def test_the_login_page_offers_the_users_and_keeps_the_request(web: TestClient) -> None:
    page = web.get("/authorize", params=request(login_hint=None, state='"><script>alert(1)</script>'))
    assert page.status_code == 200
    assert "<script>" not in page.text
    assert all(f'name="user" value="{user}"' in page.text for user in ("alice", "bob", "eve", "dpo"))
    assert "frame-ancestors 'none'" in page.headers["content-security-policy"]
    chosen = web.post("/authorize", data=request(login_hint=None) | {"user": "eve"})
    code = parse_qs(urlsplit(chosen.headers["location"]).query)["code"][0]
    assert claims(web, exchange(web, code).json()["access_token"])["tenant"] == "globex"


def test_scripts_of_loopback_pages_may_ask_and_others_may_not(web: TestClient) -> None:
    headers = {
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "authorization,x-requested-with",
    }
    for origin, allowed in (
        ("http://127.0.0.1:8000", True),
        ("http://localhost:8000", True),
        ("http://127.0.0.1.evil.example", False),
        ("https://evil.example", False),
    ):
        answer = web.options("/token", headers=headers | {"Origin": origin})
        assert (answer.headers.get("access-control-allow-origin") == origin) == allowed
    assert web.get("/jwks", headers={"Host": "evil.example"}).status_code == 403


def test_rotation_keeps_the_previous_key_published_and_drops_the_one_before(web: TestClient, issuer: Issuer) -> None:
    old = login(web, "alice")["access_token"]
    issuer.keys.rotate()
    new = login(web, "alice")["access_token"]
    assert claims(web, old)["sub"] == claims(web, new)["sub"] == "alice"
    assert (
        jwt.decode(old, KeySet(issuer.keys.keys)).header["kid"]
        != jwt.decode(new, KeySet(issuer.keys.keys)).header["kid"]
    )
    issuer.keys.rotate()
    assert claims(web, new)["sub"] == "alice"
    with pytest.raises((InvalidKeyIdError, BadSignatureError, ValueError)):
        claims(web, old)


def test_private_keys_are_neither_published_nor_readable_by_others(web: TestClient, issuer: Issuer) -> None:
    assert all(set(key) <= {"kty", "n", "e", "kid", "use", "alg"} for key in web.get("/jwks").json()["keys"])
    assert issuer.keys.path.stat().st_mode & 0o077 == 0


def test_authlib_logs_in_without_a_browser_and_keys_survive_kill_9_and_rotate_on_sighup(
    run_server: Callable[..., Any],
) -> None:
    server = run_server("issuer", "/healthz", environment={"OIDC_CLIENT_SECRET": SECRET})
    discovery = httpx.get(f"{server.url}/.well-known/openid-configuration").json()
    assert discovery["issuer"] == server.url
    with OAuth2Client(
        "tidemark-cli", redirect_uri=REDIRECT, code_challenge_method="S256", token_endpoint_auth_method="none"
    ) as cli:
        url, _ = cli.create_authorization_url(
            discovery["authorization_endpoint"], code_verifier=VERIFIER, login_hint="alice"
        )
        back = cli.request("GET", url, withhold_token=True, follow_redirects=False).headers["location"]
        token = cli.fetch_token(discovery["token_endpoint"], authorization_response=back, code_verifier=VERIFIER)
        token = cli.refresh_token(discovery["token_endpoint"], token["refresh_token"])

    server.kill_and_restart()
    with httpx.Client(base_url=server.url) as web:
        assert claims(web, token["access_token"])["sub"] == "alice"
        server.process.send_signal(signal.SIGHUP)
        deadline = time.monotonic() + 10
        while len(web.get("/jwks").json()["keys"]) < 2 and time.monotonic() < deadline:
            time.sleep(0.02)
        assert len(web.get("/jwks").json()["keys"]) == 2
        assert claims(web, token["access_token"])["sub"] == "alice"
    assert server.stop() == 0


@pytest.mark.heavy
@pytest.mark.parametrize(
    ("arguments", "secret", "reason"),
    [
        (["--host", "0.0.0.0"], SECRET, "refusing to listen on '0.0.0.0'"),  # noqa: S104
        (["--host", "::"], SECRET, "refusing to listen on '::'"),
        ([], "", "OIDC_CLIENT_SECRET"),
        ([], "short", "OIDC_CLIENT_SECRET"),
    ],
)
def test_it_does_not_start_open_or_without_a_secret(
    tmp_path: Path, arguments: list[str], secret: str, reason: str
) -> None:
    command = [sys.executable, "-m", "deploy.local.issuer", "--port", "0", "--data", str(tmp_path), *arguments]
    ended = subprocess.run(
        command,
        env=os.environ | {"OIDC_CLIENT_SECRET": secret},
        cwd=Path(__file__).parents[3],
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 1
    assert reason in ended.stderr
