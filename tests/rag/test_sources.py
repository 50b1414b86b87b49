from __future__ import annotations

import pytest

from rag.errors import Rejected
from rag.labels import PRINCIPALS_LABEL
from rag.sources import Source, Sources

DOCS = Source(
    "s3", "acme", "s3://docs/in", ("group:staff",),
    {"finance/": ("group:finance",), "finance/board/": ("user:ceo", "group:board")},
)  # fmt: skip


@pytest.mark.parametrize(
    ("uri", "owned"),
    [
        ("s3://docs/in/a.md", True),
        ("s3://docs/in/deep/er/a.md", True),
        ("s3://docs/in", False),
        ("s3://docs/inner/a.md", False),
        ("s3://docs/a.md", False),
        ("s3://other/in/a.md", False),
    ],
)
def test_a_source_owns_the_objects_below_its_address(uri: str, owned: bool) -> None:
    assert DOCS.owns(uri) is owned
    assert Source("s3", "acme", "s3://docs/in/", ()).owns(uri) is owned


@pytest.mark.parametrize(
    ("key", "principals"),
    [
        ("a.md", ("group:staff",)),
        ("finance/a.md", ("group:finance",)),
        ("finance/board/a.md", ("group:board", "user:ceo")),
        ("finance.md", ("group:staff",)),
        ("other/finance/a.md", ("group:staff",)),
    ],
)
def test_the_longest_rule_that_matches_the_key_decides(key: str, principals: tuple[str, ...]) -> None:
    access = DOCS.access(f"s3://docs/in/{key}", {})
    assert (access.tenant, access.principals) == ("acme", principals)


def test_a_label_takes_the_place_of_rules_and_principals() -> None:
    labels = {PRINCIPALS_LABEL: " user:bob , group:a,user:bob,"}
    assert DOCS.access("s3://docs/in/finance/a.md", labels).principals == ("group:a", "user:bob")


@pytest.mark.parametrize("label", ["", " ", ",", " , "])
def test_a_label_without_principals_grants_access_to_no_one(label: str) -> None:
    assert DOCS.access("s3://docs/in/a.md", {PRINCIPALS_LABEL: label}).principals == ()


def test_a_label_cannot_move_an_object_into_another_tenant() -> None:
    assert DOCS.access("s3://docs/in/a.md", {"tenant": "globex", PRINCIPALS_LABEL: "group:x"}).tenant == "acme"


def test_an_event_cannot_make_a_worker_read_outside_the_source_of_its_tenant() -> None:
    sources = Sources({"s3": DOCS})
    assert sources.owner("s3", "acme", "s3://docs/in/a.md") is DOCS
    for tenant, uri in (
        ("globex", "s3://docs/in/a.md"),
        ("acme", "s3://docs/secret.md"),
        ("acme", "file:///etc/passwd"),
    ):
        with pytest.raises(Rejected) as caught:
            sources.owner("s3", tenant, uri)
        assert caught.value.reason == "foreign_uri"
    with pytest.raises(Rejected, match="configured: s3") as caught:
        sources.owner("ftp", "acme", "s3://docs/in/a.md")
    assert caught.value.reason == "unknown_source"


def test_a_label_that_cannot_be_decoded_is_refused() -> None:
    with pytest.raises(Rejected) as caught:
        DOCS.access("s3://docs/in/a.md", {PRINCIPALS_LABEL: "group:%ff"})
    assert caught.value.reason == "bad_label"
