from __future__ import annotations

import base64
import hmac
import json
import time
from typing import Any

import pytest
from joserfc import jwt
from joserfc.jwk import RSAKey

from gateway.identity import MAX_TOKEN, InvalidToken, NoToken, Verifier, bearer
from gateway.issuer import COOLDOWN, REFRESH, STALE
from rag.errors import Unavailable


def unsigned(header: dict[str, Any], claims: dict[str, Any]) -> str:
    parts = [base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=").decode() for part in (header, claims)]
    return ".".join([*parts, ""])


async def test_a_good_token_names_its_caller(world: Any) -> None:
    caller = await world.verifier.verify(world.issuer.token("alice"))
    assert (caller.subject, caller.tenant, caller.groups) == ("alice", "acme", ("engineering", "staff"))
    assert caller.scopes == {"rag:query", "rag:ingest"}


@pytest.mark.parametrize("kind", ["RS256", "ES256", "EdDSA"])
async def test_each_allowed_algorithm_is_verified(world: Any, kind: str) -> None:
    world.issuer.rotate(kind)
    with pytest.warns() if kind == "EdDSA" else _nothing():
        token = world.issuer.token("alice")
        assert (await world.verifier.verify(token)).subject == "alice"


def _nothing() -> Any:
    from contextlib import nullcontext

    return nullcontext()


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"aud": "another-api"}, "aud"),
        ({"aud": ["another-api", "third"]}, "aud"),
        ({"aud": None}, "aud"),
        ({"iss": "http://elsewhere.test"}, "iss"),
        ({"iss": None}, "iss"),
        ({"exp": int(time.time()) - 3600}, "expired"),
        ({"exp": None}, "exp"),
        ({"exp": "tomorrow"}, "exp"),
        ({"nbf": int(time.time()) + 86_400}, "nbf"),
        ({"sub": None}, "sub"),
        ({"sub": ""}, "sub"),
        ({"sub": 7}, "sub"),
        ({"sub": "al\nice"}, "sub"),
        ({"tenant": "../acme"}, "tenant"),
        ({"tenant": ["acme"]}, "tenant"),
        ({"groups": {"staff": True}}, "groups"),
        ({"groups": ["staff", 3]}, "groups"),
        ({"groups": [f"g{n}" for n in range(501)]}, "groups"),
    ],
)
async def test_a_token_with_a_wrong_claim_is_refused(world: Any, changes: dict[str, Any], why: str) -> None:
    with pytest.raises(InvalidToken, match=why):
        await world.verifier.verify(world.issuer.token("alice", **changes))


async def test_clocks_may_differ_by_half_a_minute(world: Any) -> None:
    now = int(time.time())
    token = world.issuer.token("alice", exp=now - 20, nbf=now + 20, iat=now + 20)
    assert (await world.verifier.verify(token)).subject == "alice"


async def test_one_of_several_audiences_is_enough(world: Any) -> None:
    assert (await world.verifier.verify(world.issuer.token("alice", aud=["other", "tidemark"]))).tenant == "acme"


async def test_scopes_are_read_from_scp_too(world: Any) -> None:
    token = world.issuer.token("alice", scope=None, scp=["rag:query"])
    assert (await world.verifier.verify(token)).scopes == {"rag:query"}


async def test_an_unsigned_token_is_refused(world: Any) -> None:
    for alg in ("none", "None", "NONE", ""):
        with pytest.raises(InvalidToken):
            await world.verifier.verify(unsigned({"alg": alg}, world.issuer.claims("alice")))


async def test_the_public_key_as_a_shared_secret_is_refused(world: Any) -> None:
    """The classic confusion: HS256 with the published RSA key as the secret."""
    public = world.issuer.keys[0].as_pem(private=False)
    signed = unsigned({"alg": "HS256", "kid": world.issuer.keys[0].kid}, world.issuer.claims("alice")).rstrip(".")
    mac = base64.urlsafe_b64encode(hmac.digest(public, signed.encode(), "sha256")).rstrip(b"=").decode()
    with pytest.raises(InvalidToken, match="RS256"):
        await world.verifier.verify(f"{signed}.{mac}")


async def test_a_token_of_another_key_under_a_known_kid_is_refused(world: Any) -> None:
    forger = RSAKey.generate_key(2048)
    header = {"alg": "RS256", "kid": world.issuer.keys[0].kid, "typ": "at+jwt"}
    with pytest.raises(InvalidToken, match="not signed"):
        await world.verifier.verify(jwt.encode(header, world.issuer.claims("alice"), forger))


async def test_a_key_inside_the_token_is_not_believed(world: Any) -> None:
    forger = RSAKey.generate_key(2048, auto_kid=True)
    header = {"alg": "RS256", "kid": forger.kid, "typ": "at+jwt",
              "jwk": forger.as_dict(private=False), "jku": "http://evil.test/jwks"}  # fmt: skip
    with pytest.raises(InvalidToken, match="not signed"):
        await world.verifier.verify(jwt.encode(header, world.issuer.claims("alice"), forger))


@pytest.mark.parametrize(
    "token", ["", "x", "a.b", "a.b.c", "....", "é.é.é", "e30.e30.e30", "bnVsbA.e30.e30", "[" * 9000]
)
async def test_garbage_is_refused(world: Any, token: str) -> None:
    with pytest.raises(InvalidToken):
        await world.verifier.verify(token)


async def test_deeply_nested_headers_are_refused(world: Any) -> None:
    deep = base64.urlsafe_b64encode(b"[" * 9000).decode()
    with pytest.raises(InvalidToken):
        await world.verifier.verify(f"{deep}.e30.e30")


async def test_a_rotated_key_is_found_and_the_old_one_expires(world: Any) -> None:
    old = world.issuer.token("alice")
    await world.verifier.verify(old)
    world.issuer.rotate()
    world.clock += COOLDOWN + 1
    assert (await world.verifier.verify(world.issuer.token("bob"))).subject == "bob"
    with pytest.raises(InvalidToken):
        await world.verifier.verify(old)


async def test_a_withdrawn_key_is_refused_after_the_refresh_time(world: Any) -> None:
    old = world.issuer.token("alice")
    await world.verifier.verify(old)
    world.issuer.rotate()
    await world.verifier.verify(old)
    world.clock += REFRESH + 1
    with pytest.raises(InvalidToken):
        await world.verifier.verify(old)


async def test_a_flood_of_unknown_kids_reaches_the_issuer_once(world: Any) -> None:
    await world.verifier.verify(world.issuer.token("alice"))
    world.clock += COOLDOWN + 1
    forger = RSAKey.generate_key(2048)
    for number in range(20):
        header = {"alg": "RS256", "kid": f"k{number}", "typ": "at+jwt"}
        with pytest.raises(InvalidToken):
            await world.verifier.verify(jwt.encode(header, {"sub": "x"}, forger))
    assert world.issuer.reads == 2


async def test_known_keys_outlive_a_silent_issuer_but_not_for_ever(world: Any) -> None:
    token = world.issuer.token("alice")
    await world.verifier.verify(token)
    world.issuer.is_down = True
    world.clock += STALE - 1
    assert (await world.verifier.verify(token)).subject == "alice"
    world.clock += 2
    with pytest.raises(Unavailable):
        await world.verifier.verify(token)


async def test_a_discovery_document_of_another_issuer_is_not_believed(world: Any) -> None:
    world.issuer.document["issuer"] = "http://evil.test"
    with pytest.raises(Unavailable):
        await world.verifier.verify(world.issuer.token("alice"))


@pytest.mark.parametrize("headers", [[], [""], ["Bearer"], ["Bearer "], ["Basic YTpi"], ["Token abc"]])
def test_other_credentials_are_not_a_token(headers: list[str]) -> None:
    with pytest.raises(NoToken):
        bearer(headers)


@pytest.mark.parametrize("second", ["Bearer x", "Basic YTpi", ""])
async def test_two_authorization_headers_are_a_bad_request(world: Any, second: str) -> None:
    headers = [("Authorization", world.bearer("alice")["Authorization"]), ("Authorization", second)]
    for pair in (headers, headers[::-1]):
        answer = await world.client.get("/v1/documents", headers=pair)
        assert (answer.status_code, answer.json()["reason"]) == (400, "two_credentials")


@pytest.mark.parametrize("typ", ["at+jwt", "AT+JWT", "application/at+jwt"])
async def test_an_access_token_is_recognized_by_its_type(world: Any, typ: str) -> None:
    assert (await world.verifier.verify(world.issuer.token("alice", typ=typ))).subject == "alice"


@pytest.mark.parametrize("typ", ["JWT", "logout+jwt", "", None, 7, ["at+jwt"], {"at+jwt": 1}])
async def test_a_token_of_another_type_is_refused(world: Any, typ: Any) -> None:
    header = {"alg": "RS256", "kid": world.issuer.keys[0].kid} | ({} if typ is None else {"typ": typ})
    with pytest.raises(InvalidToken, match="typ"):
        await world.verifier.verify(unsigned(header, world.issuer.claims("alice")))
    if isinstance(typ, str | None):
        with pytest.raises(InvalidToken, match="typ"):
            await world.verifier.verify(world.issuer.token("alice", typ=typ))


@pytest.mark.parametrize(("types", "typ"), [(["at+jwt", "JWT"], "JWT"), (["JWT"], "jwt"), (["at+jwt", ""], None)])
async def test_an_issuer_with_other_types_can_be_configured(world: Any, types: list[str], typ: str | None) -> None:
    verifier = Verifier(world.verifier.keys, audience="tidemark", types=types)
    assert (await verifier.verify(world.issuer.token("alice", typ=typ))).subject == "alice"


def test_an_overlong_token_is_not_even_decoded() -> None:
    with pytest.raises(InvalidToken, match="at most"):
        bearer(["Bearer " + "a" * (MAX_TOKEN + 1)])
