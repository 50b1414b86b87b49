from __future__ import annotations

import ast
from pathlib import Path
from typing import Any

import pytest

from governance.access import MAX_VALUES, filter_for
from rag.errors import Denied, Rejected

ROOT = Path(__file__).parents[2]
PACKAGES = ("schemas", "rag", "governance", "consumers", "assets", "gateway", "evals", "deploy")


def test_a_caller_is_a_user_and_their_groups() -> None:
    access = filter_for(tenant="acme", subject="alice", groups=["staff", "eng", "staff", ""])
    assert access.tenant == "acme"
    assert access.principals == ("group:eng", "group:staff", "user:alice")
    assert access.narrow == {}


def test_a_group_cannot_pose_as_a_user() -> None:
    access = filter_for(tenant="acme", subject="bob", groups=["user:alice"])
    assert access.principals == ("group:user:alice", "user:bob")


@pytest.mark.parametrize(("tenant", "subject"), [("", "alice"), ("acme", ""), ("", "")])
def test_a_filter_requires_an_identity(tenant: str, subject: str) -> None:
    with pytest.raises(Denied):
        filter_for(tenant=tenant, subject=subject, groups=["staff"])


def test_the_callers_own_filters_narrow_the_access() -> None:
    access = filter_for(tenant="acme", subject="a", narrow={"source": "s3", "language": ["en", "de", "en"]})
    assert access.narrow == {"language": ("de", "en"), "source": ("s3",)}


@pytest.mark.parametrize("field", ["tenant", "principals", "partition", "", "Source", "source ", "__class__"])
def test_other_fields_are_refused(field: str) -> None:
    with pytest.raises(Rejected, match="document_id, language, media_type, source"):
        filter_for(tenant="acme", subject="a", narrow={field: "x"})


@pytest.mark.parametrize("value", ["", [], [""], ["a\x00"], "x" * 513, [3], [["a"]], [None], ["v"] * (MAX_VALUES + 1)])
def test_invalid_values_are_refused(value: Any) -> None:
    with pytest.raises(Rejected):
        filter_for(tenant="acme", subject="a", narrow={"source": value})


def constructor_lines(source: str) -> list[int]:
    """Return the lines that call AccessFilter, or create one with a type adapter."""
    return [
        node.lineno
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Call)
        and any(
            getattr(part, "id", getattr(part, "attr", "")) == "AccessFilter"
            for part in (node.func, *(node.args if getattr(node.func, "id", "") == "TypeAdapter" else ()))
        )
    ]


def test_the_rule_finds_a_constructor() -> None:
    assert constructor_lines("from rag.models import AccessFilter\nx = AccessFilter('a', ())") == [2]
    assert constructor_lines("import rag\nrag.models.AccessFilter('a', ())") == [2]


def test_only_governance_access_creates_an_access_filter() -> None:
    creators = {
        str(path.relative_to(ROOT)): lines
        for package in PACKAGES
        for path in sorted((ROOT / package).rglob("*.py"))
        if (lines := constructor_lines(path.read_text()))
    }
    assert list(creators) == ["governance/access.py"], f"only governance.access may create an AccessFilter: {creators}"
