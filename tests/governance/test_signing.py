"""Signatures against the libraries that others would verify them with, and against every change of a byte."""

from __future__ import annotations

import json
from base64 import b64decode, b64encode, urlsafe_b64decode

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from governance.signing import Signer, verify
from rag.errors import Rejected

SEED = "hX2_q9ZrT0bWm4cVd81LkYsNfPjRgQ7uEo5AiJ3tMwA"
PAYLOAD = {"erasure": "42", "title": "Größe", "stores": ["ledger", "vectors"]}


def _bytes(text: str) -> bytes:
    return urlsafe_b64decode(text + "=" * (-len(text) % 4))


def test_a_signed_payload_verifies_with_the_published_keys() -> None:
    signer = Signer.load(SEED)
    assert verify(signer.sign(PAYLOAD, kind="a"), signer.jwks(), kind="a") == PAYLOAD


def test_the_signature_is_one_of_plain_ed25519_over_header_and_payload() -> None:
    signer = Signer.load(SEED)
    header, payload, signature = signer.sign(PAYLOAD, kind="a").split(".")
    key = Ed25519PublicKey.from_public_bytes(_bytes(signer.jwks()["keys"][0]["x"]))
    key.verify(_bytes(signature), f"{header}.{payload}".encode())
    with pytest.raises(InvalidSignature):
        key.verify(_bytes(signature), f"{header}.{payload}x".encode())


def test_a_key_is_read_in_both_alphabets_of_base64() -> None:
    raw = b64decode("+/" + "A" * 41 + "=")
    standard = b64encode(raw).decode()
    url = standard.replace("+", "-").replace("/", "_").rstrip("=")
    assert Signer.load(standard).jwks() == Signer.load(url).jwks() == Signer.load(f" {url}\n").jwks()


def test_the_published_keys_have_no_private_half() -> None:
    published = json.dumps(Signer.load(SEED, [_public(SEED)]).jwks())
    assert SEED not in published
    assert '"d"' not in published
    assert SEED not in repr(Signer.load(SEED))


def test_without_a_seed_every_process_has_a_key_of_its_own() -> None:
    assert Signer.load("").jwks() != Signer.load("").jwks()


def _public(seed: str) -> str:
    return str(Signer.load(seed).jwks()["keys"][0]["x"])


def test_signatures_of_a_retired_key_verify_until_it_is_removed() -> None:
    old, new = Signer.load(SEED), Signer.load("A" * 43, [_public(SEED)])
    signed = old.sign(PAYLOAD, kind="a")
    assert verify(signed, new.jwks(), kind="a") == PAYLOAD
    assert verify(new.sign(PAYLOAD, kind="a"), new.jwks(), kind="a") == PAYLOAD
    with pytest.raises(Rejected, match="retired key"):
        verify(signed, Signer.load("A" * 43).jwks(), kind="a")


def test_a_payload_of_one_kind_does_not_pass_as_another_kind() -> None:
    signer = Signer.load(SEED)
    with pytest.raises(Rejected, match="of the type b"):
        verify(signer.sign(PAYLOAD, kind="a"), signer.jwks(), kind="b")


def test_every_changed_character_is_refused() -> None:
    signer = Signer.load(SEED)
    signed, jwks = signer.sign(PAYLOAD, kind="a"), signer.jwks()
    # The last character of a part has bits that its bytes do not, so changing it may keep the bytes.
    ends = {index - 1 for index, character in enumerate(f"{signed}.") if character == "."}
    for position in range(len(signed)):
        other = "A" if signed[position] != "A" else "B"
        changed = signed[:position] + other + signed[position + 1 :]
        if position in ends and [_bytes(a) for a in changed.split(".")] == [_bytes(b) for b in signed.split(".")]:
            continue
        with pytest.raises(Rejected) as refused:
            verify(changed, jwks, kind="a")
        assert refused.value.reason == "bad_signature"


@pytest.mark.parametrize("signed", ["", "a", "a.b", "a.b.c", "....", "é.é.é", "0123456789abcdef"])
def test_a_text_that_is_not_a_signature_is_refused(signed: str) -> None:
    with pytest.raises(Rejected, match="signature is refused"):
        verify(signed, Signer.load(SEED).jwks(), kind="a")


def test_a_token_that_names_the_public_key_as_a_shared_secret_is_refused() -> None:
    from joserfc import jws
    from joserfc.jwk import OctKey

    signer = Signer.load(SEED)
    key = signer.jwks()["keys"][0]
    header = {"alg": "HS256", "kid": key["kid"], "typ": "a"}
    forged = jws.serialize_compact(header, b"{}", OctKey.import_key(_bytes(key["x"])), algorithms=["HS256"])
    with pytest.raises(Rejected):
        verify(forged, signer.jwks(), kind="a")
