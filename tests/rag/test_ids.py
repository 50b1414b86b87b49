from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rag.errors import Rejected
from rag.ids import Ids, canonical_uri, fingerprint, object_key, object_name, object_uri, payload_hash

IDS = Ids(b"0123456789abcdef")
KEYS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"), min_size=1, max_size=60).filter(
    lambda key: not {".", ".."} & set(key.split("/"))
)


@given(KEYS)
def test_a_key_survives_its_uri_and_the_uri_is_canonical(key: str) -> None:
    uri = object_uri("s3://bucket", key)
    assert object_key(uri) == ("s3://bucket", key)
    assert canonical_uri(uri) == uri


@given(KEYS, KEYS)
def test_two_keys_never_share_a_uri(first: str, second: str) -> None:
    assert (object_uri("s3://b", first) == object_uri("s3://b", second)) == (first == second)


@pytest.mark.parametrize(
    "uri",
    [
        "", "s3://", "s3://b", "s3://b/", "/etc/passwd", "no scheme", "s3://b/../c", "s3://b/a/%2e%2e/c", "s3://b/a%00b",
        "s3://b/" + "x" * 5000,
    ],
)  # fmt: skip
def test_a_uri_without_an_object_is_rejected(uri: str) -> None:
    with pytest.raises(Rejected):
        canonical_uri(uri)


@given(st.text(max_size=600))
def test_any_row_key_makes_one_harmless_segment(key: str) -> None:
    name = object_name(key) if key.isprintable() else object_name(key.encode("utf-8", "replace").decode())
    assert "/" not in name
    assert len(name) <= 400


def test_ids_differ_by_secret_tenant_source_and_uri() -> None:
    other = Ids(b"fedcba9876543210")
    document_ids = {
        IDS.document_id("acme", "s3", "s3://b/k"),
        other.document_id("acme", "s3", "s3://b/k"),
        IDS.document_id("globex", "s3", "s3://b/k"),
        IDS.document_id("acme", "uploads", "s3://b/k"),
        IDS.document_id("acme", "s3", "s3://b/l"),
    }
    assert len(document_ids) == 5


def test_parts_of_an_id_cannot_be_moved_from_one_to_the_next() -> None:
    assert IDS.query_id("acme", "ab", "c") != IDS.query_id("acme", "a", "bc")


def test_the_same_text_twice_in_a_document_has_two_stable_ids() -> None:
    before = IDS.chunk_ids("acme", "d", ["a", "b", "a"])
    assert len(set(before)) == 3
    assert IDS.chunk_ids("acme", "d", ["new", "a", "b", "a"])[1:] == before


def test_a_persons_identifier_is_folded() -> None:
    assert IDS.subject_id("acme", " Pat@Example.com") == IDS.subject_id("acme", "pat@example.COM")


def test_hashes_do_not_depend_on_the_order_of_keys() -> None:
    assert payload_hash({"a": 1, "b": ["x"]}) == payload_hash({"b": ["x"], "a": 1})
    assert fingerprint({"a": 1, "b": 2}) == fingerprint({"b": 2, "a": 1})
    assert fingerprint({"a": 1}) != fingerprint({"a": 2})


def test_a_short_secret_is_refused() -> None:
    with pytest.raises(ValueError, match="16"):
        Ids(b"short")
