from __future__ import annotations

from typing import Any

import pytest

from rag.settings import Settings
from rag.wiring import qdrant_key


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
