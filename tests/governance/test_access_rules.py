from __future__ import annotations

from dataclasses import replace

import pytest

from governance.access_rules import explain, for_document, for_source
from rag.errors import Rejected
from rag.ids import Ids
from rag.models import AccessRule, DocumentRecord, DocumentStatus, Effect
from rag.sources import Source, Sources

IDS = Ids(b"0123456789abcdef")
SOURCE = Source("s3", "acme", "s3://docs/kb", ("group:staff",), {"finance/": ("group:finance",)})
SOURCES = Sources({"s3": SOURCE, "other": Source("other", "globex", "s3://other", ("group:staff",))})
URI = "s3://docs/kb/hr/pay/1.md"
DOCUMENT = IDS.document_id("acme", "s3", URI)
RECORD = DocumentRecord(
    DOCUMENT, 3, DocumentStatus.LIVE, "acme", "s3", URI, principals=("group:staff",),
    scopes=IDS.scopes("acme", "s3", URI, DOCUMENT),
)  # fmt: skip


def rule(
    effect: Effect = Effect.GRANT, principal: str = "user:bob", *, name: str = "s3", uri_prefix: str = ""
) -> AccessRule:
    return for_source(
        name, uri_prefix, effect, principal, tenant="acme", sources=SOURCES, ids=IDS, actor="a" * 24, reason="asked"
    )


def on_document(effect: Effect, principal: str) -> AccessRule:
    return for_document(RECORD, effect, principal, ids=IDS, actor="a" * 24, reason="")


@pytest.mark.parametrize(
    "prefix", ["", "s3://docs/kb/", "s3://docs/kb/hr/", "s3://docs/kb/hr/pay/", "s3://docs/kb/hr/%70ay/"]
)
def test_a_folder_of_a_source_is_a_scope_of_the_documents_below_it(prefix: str) -> None:
    assert rule(uri_prefix=prefix).scope in RECORD.scopes


@pytest.mark.parametrize(
    "prefix",
    [
        "s3://docs/",
        "s3://docs/kbx/",
        "s3://docs/kb/hr",
        "s3://other/hr/",
        "hr/",
        "s3://docs/kb/../kb/",
        "s3://docs/kb/" + "a/" * 40,
    ],
)
def test_other_prefixes_are_refused(prefix: str) -> None:
    with pytest.raises(Rejected):
        rule(uri_prefix=prefix)


@pytest.mark.parametrize("name", ["", "none", "other"])
def test_only_a_source_of_the_own_tenant_can_be_ruled(name: str) -> None:
    with pytest.raises(Rejected, match="not one of your tenant \\(s3\\)"):
        rule(name=name)


@pytest.mark.parametrize(
    "principal", ["", "bob", "user:", "group: ", "team:x", "user:a\nb", "user:" + "x" * 600, "User:bob"]
)
def test_a_principal_is_a_user_or_a_group(principal: str) -> None:
    with pytest.raises(Rejected, match="user:NAME or group:NAME"):
        rule(principal=principal)
    with pytest.raises(Rejected, match="user:NAME or group:NAME"):
        on_document(Effect.GRANT, principal)


def test_a_later_rule_for_the_same_scope_and_principal_takes_the_place_of_the_earlier_one() -> None:
    ids = {rule(effect).rule_id for effect in Effect}
    assert len(ids) == 1
    assert ids.isdisjoint({rule(principal="user:eve").rule_id, rule(uri_prefix="s3://docs/kb/hr/").rule_id})


@pytest.mark.parametrize(
    ("principals", "rules", "sees", "reason"),
    [
        (["group:staff"], [], True, "the source's settings name group:staff"),
        (["group:temps", "user:bob"], [], False, "the source's settings name group:staff, and no grant names the caller"),
        (["user:bob"], [rule()], True, "source s3 is granted to user:bob"),
        (["user:bob"], [rule(), rule(uri_prefix="s3://docs/kb/hr/")], True, "folder s3://docs/kb/hr/ is granted to user:bob"),
        (["user:eve"], [rule()], False, "no grant names the caller"),
        (["group:staff"], [rule(Effect.REVOKE, "group:staff", uri_prefix="s3://docs/kb/hr/")], False,
         "folder s3://docs/kb/hr/ is revoked for group:staff, and a revoke wins"),
        (["user:bob"], [rule(Effect.REVOKE), on_document(Effect.GRANT, "user:bob")], False, "source s3 is revoked for user:bob"),
        (["user:bob"], [rule(Effect.REVOKE), on_document(Effect.REVOKE, "user:bob")], False, f"document {DOCUMENT} is revoked"),
        (["user:bob"], [replace(rule(Effect.REVOKE), scope="elsewhere"), rule()], True, "source s3 is granted"),
    ],
)  # fmt: skip
def test_the_rule_that_decides_is_named(
    principals: list[str], rules: list[AccessRule], sees: bool, reason: str
) -> None:
    decided = explain(RECORD, principals, rules, is_suppressed=False, source=SOURCE)
    assert decided.is_visible is sees
    assert reason in decided.reason


def test_a_label_that_differs_from_the_settings_is_named() -> None:
    labelled = replace(RECORD, principals=("group:board",))
    assert (
        "the document's label names group:board"
        in explain(labelled, ["group:board"], [], is_suppressed=False, source=SOURCE).reason
    )
    unknown = explain(replace(RECORD, principals=()), ["user:bob"], [], is_suppressed=False, source=None)
    assert unknown.reason == "the document's label names nobody, and no grant names the caller"


def test_erased_and_dead_documents_are_hidden_whatever_rules_say() -> None:
    grant = on_document(Effect.GRANT, "user:bob")
    erased = explain(RECORD, ["user:bob"], [grant], is_suppressed=True, source=SOURCE)
    assert (erased.is_visible, "was erased" in erased.reason, erased.rule) == (False, True, None)
    dead = replace(RECORD, status=DocumentStatus.DEAD, reason="corrupt")
    assert "dead corrupt" in explain(dead, ["user:bob"], [grant], is_suppressed=False, source=SOURCE).reason
