from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from rag.errors import Rejected
from rag.settings import Settings, load

SECRETS = {"identity_secret": "0123456789abcdef0123456789abcdef", "database_url": "postgresql://127.0.0.1/x"}


def settings(**values: Any) -> Settings:
    return Settings(_env_file=None, tidemark_environment="development", **SECRETS, **values)


def test_secrets_have_no_default_and_are_not_in_the_representation() -> None:
    with pytest.raises(ValidationError, match="identity_secret"):
        Settings(_env_file=None)
    assert "0123456789abcdef" not in repr(settings())


def test_a_mapping_names_compound_keys_texts_and_principals() -> None:
    described = {
        "table": "NOTES",
        "key": ["A", "B"],
        "text": "{NAME}: {NOTE}",
        "principals": ["TEAM"],
        "principals_prefix": "group:",
    }
    table = settings(snowflake_tables=json.dumps([described])).snowflake_tables[0].mapped()
    assert table.columns == ("A", "B", "NAME", "NOTE", "TEAM")
    assert settings(snowflake_tables="NOTES:ID:AT").snowflake_tables[0].mapped().key_columns == ("ID",)


@pytest.mark.parametrize(
    "described",
    [
        {"text": "{NAME.__class__}"},
        {"text": "{NAME!r}"},
        {"text": "{NAME:>9}"},
        {"text": "{NAME[0]}"},
        {"text": "{"},
        {"text": "{}"},
        {"text": "no column"},
        {"key": []},
        {"key": ["A", "B C"]},
        {"principals": ["A; drop"]},
        {"subjects": ["A-B"]},
        {"principals_prefix": "a,b"},
    ],
)
def test_a_mapping_that_is_no_mapping_is_refused(described: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="snowflake_tables"):
        settings(snowflake_tables=json.dumps([{"table": "T", **described}]))


def test_a_table_is_mapped_once_in_a_source() -> None:
    twice = {"name": "a", "kind": "snowflake", "tenant": "acme", "base_uri": "s3://internal/a", "principals": ["x"],
             "tables": [{"table": "T"}, {"table": "t"}]}  # fmt: skip
    with pytest.raises(ValueError, match="mapped twice"):
        settings(sources=[twice])


def test_tables_are_read_in_both_forms() -> None:
    short = settings(snowflake_tables="CUSTOMERS:ID:UPDATED_AT:NAME,TICKETS:ID:UPDATED_AT")
    assert [(table.table, table.title) for table in short.snowflake_tables] == [
        ("CUSTOMERS", "NAME"),
        ("TICKETS", None),
    ]
    long = settings(snowflake_tables=json.dumps([{"table": "T", "subjects": ["EMAIL"]}]))
    assert long.snowflake_tables[0].subjects == ("EMAIL",)


@pytest.mark.parametrize("table", ["T; drop table x", "T--", "a.b.c.d", "1T", "T ID"])
def test_a_table_is_an_identifier(table: str) -> None:
    with pytest.raises(ValidationError):
        settings(snowflake_tables=json.dumps([{"table": table}]))


def source(name: str, base_uri: str, tenant: str = "acme") -> dict[str, Any]:
    return {"name": name, "kind": "s3", "tenant": tenant, "base_uri": base_uri, "principals": ["group:staff"]}


def test_sources_do_not_overlap_and_have_distinct_names() -> None:
    with pytest.raises(ValidationError, match="lies within"):
        settings(sources=[source("a", "s3://b"), source("b", "s3://b/inner", "globex")])
    with pytest.raises(ValidationError, match="lies within"):
        settings(s3_bucket="one", internal_bucket="one")
    with pytest.raises(ValidationError, match="twice"):
        settings(sources=[source("a", "s3://b"), source("a", "s3://c")])
    with pytest.raises(ValidationError):
        settings(sources=[source("a", "s3://b/with space")])


def test_a_source_owns_only_the_objects_below_it() -> None:
    sources = settings(sources=[source("a", "s3://b/in"), source("c", "s3://c", "globex")]).source_registry()
    assert sources.owner("a", "acme", "s3://b/in/x.md").name == "a"
    for name, tenant, uri in (
        ("a", "acme", "s3://b/inner/x.md"),
        ("a", "globex", "s3://b/in/x.md"),
        ("z", "acme", "s3://b/in/x"),
    ):
        with pytest.raises(Rejected):
            sources.owner(name, tenant, uri)


def test_the_longest_rule_wins_and_labels_win_over_rules() -> None:
    (configured,) = settings(
        sources=[source("a", "s3://b") | {"rules": {"f/": ["group:f"], "f/x/": ["group:x"]}}]
    ).configured_sources
    only_source = configured.source()
    assert only_source.access("s3://b/f/1.md", {}).principals == ("group:f",)
    assert only_source.access("s3://b/f/x/1.md", {}).principals == ("group:x",)
    assert only_source.access("s3://b/1.md", {}).principals == ("group:staff",)
    assert only_source.access("s3://b/f/1.md", {"principals": "user:b, group:a"}).principals == ("group:a", "user:b")
    assert only_source.access("s3://b/f/1.md", {"principals": ""}).principals == ()


def test_a_local_stack_s_env_file_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "env").write_text(
        "".join(f"{name.upper()}={value}\n" for name, value in SECRETS.items())
        + "TIDEMARK_ENVIRONMENT=development\nS3_BUCKET=mine\n"
    )
    assert load(tmp_path).s3_bucket == "mine"


@pytest.mark.parametrize(
    "values", [{"signing_key": "short"}, {"signing_key": "k" * 44}, {"signing_public_keys": ["x"]}]
)
def test_a_signing_key_of_another_length_is_refused_and_not_quoted(values: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match="signing_") as caught:
        settings(**values)
    assert "kkk" not in str(caught.value)


def test_a_read_only_source_is_a_source_of_others() -> None:
    assert settings(read_only_sources=("s3",)).read_only_sources == ("s3",)
    with pytest.raises(ValidationError, match="not a source"):
        settings(read_only_sources=("s4",))
    with pytest.raises(ValidationError, match="own copies"):
        settings(read_only_sources=("uploads",))
