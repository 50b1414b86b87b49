from __future__ import annotations

from typing import Any

import pytest

from rag.settings import Settings
from rag.wiring import qdrant_key, remote_containers


@pytest.mark.parametrize(
    ("keys", "reads_only", "expected"),
    [
        ({"qdrant_api_key": "writes", "qdrant_read_only_api_key": "reads"}, True, "reads"),
        ({"qdrant_api_key": "writes", "qdrant_read_only_api_key": "reads"}, False, "writes"),
        ({"qdrant_api_key": "writes"}, True, "writes"),
        ({"qdrant_read_only_api_key": "reads"}, False, None),
        ({}, True, None),
    ],
)
def test_only_a_reader_gets_the_key_that_only_reads(keys: dict[str, str], reads_only: bool, expected: Any) -> None:
    settings = Settings(
        _env_file=None,
        tidemark_environment="development",
        identity_secret="0123456789abcdef0123456789abcdef",
        database_url="postgresql://127.0.0.1/x",
        **keys,
    )
    assert qdrant_key(settings, reads_only=reads_only) == expected


def with_source(**values: Any) -> Settings:
    source = {"name": "remote", "tenant": "acme", "principals": ["group:staff"], **values}
    return Settings(
        _env_file=None,
        tidemark_environment="development",
        identity_secret="0123456789abcdef0123456789abcdef",
        database_url="postgresql://127.0.0.1/x",
        sources=[source],
        azure_storage_account_name="account",
        azure_storage_account_key="a2V5",
        gcs_endpoint_url="http://127.0.0.1:1",
    )


@pytest.mark.parametrize(("kind", "base_uri"), [("gcs", "gs://bucket/docs"), ("azure", "az://container")])
def test_a_remote_source_has_the_container_of_its_address_alone(kind: str, base_uri: str) -> None:
    containers = remote_containers(with_source(kind=kind, base_uri=base_uri))
    assert list(containers) == [base_uri.removesuffix("/docs")]


@pytest.mark.parametrize(("kind", "base_uri"), [("gcs", "s3://bucket"), ("azure", "gs://container")])
def test_a_remote_source_of_another_scheme_is_refused(kind: str, base_uri: str) -> None:
    with pytest.raises(ValueError, match="gs://BUCKET"):
        remote_containers(with_source(kind=kind, base_uri=base_uri))
