from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from rag.production import CHECKED, weakness
from rag.settings import Settings

STRONG = "kV3uZp0aQm9rTe2LxWd7Hs4B"
KEY = "hX2_q9ZrT0bWm4cVd81LkYsNfPjRgQ7uEo5AiJ3tMwC"
SAFE = {
    "identity_secret": STRONG,
    "signing_key": KEY,
    "oidc_issuer": "https://issuer.example.com",
    "database_url": f"postgresql://app:{STRONG}@db.internal/tidemark?sslmode=verify-full",
    "qdrant_url": "https://qdrant.internal:6333",
    "qdrant_api_key": STRONG,
    "redis_url": f"rediss://:{STRONG}@redis.internal:6379/0",
}
UNSAFE = [
    ("identity_secret", "a" * 40, "repeated"),
    ("identity_secret", "change-me-change-me-change-me", "default secrets"),
    ("identity_secret", "example-secret-0000-1111", "default secrets"),
    ("signing_key", "a" * 43, "repeated"),
    ("oidc_issuer", "http://issuer.internal", "https"),
    ("oidc_client_secret", "0123456789abcdef0123456789abcdef", "consecutive"),
    ("database_url", f"postgresql://app:{STRONG}@db/tidemark", "sslmode=verify-full"),
    ("database_url", f"postgresql://app:{STRONG}@db/tidemark?sslmode=prefer", "TLS"),
    ("database_url", "postgresql://app@db/tidemark?sslmode=require", "has no password"),
    ("database_url", "postgresql://app:postgres@db/tidemark?sslmode=require", "fewer than 16"),
    ("qdrant_url", "http://qdrant:6333", "https"),
    ("qdrant_api_key", None, "is not set"),
    ("qdrant_api_key", "short", "fewer than 16"),
    ("qdrant_read_only_api_key", "short", "fewer than 16"),
    ("qdrant_read_only_api_key", STRONG, "is QDRANT_API_KEY"),
    ("redis_url", f"redis://:{STRONG}@redis:6379/0", "rediss://"),
    ("redis_url", "rediss://redis:6379/0", "has no password"),
    ("s3_endpoint_url", "http://minio:9000", "https"),
    ("gcs_endpoint_url", "http://gcs:4443", "https"),
    ("azure_endpoint_url", "http://azurite:10000/account", "https"),
    ("aws_secret_access_key", "minioadmin-minioadmin", "default secrets"),
    ("snowflake_protocol", "http", "set https"),
    ("snowflake_password", "abcabcabcabcabcabcabc", "repeated"),
    ("openai_base_url", "http://models:8000/v1", "https"),
    ("cohere_base_url", "http://models:8001", "https"),
    ("rate_limit", 0, "is 0"),
    ("failed_login_limit", 0, "is 0"),
]


def production(**values: Any) -> Settings:
    return Settings(_env_file=None, **(SAFE | values))


def refusal(**values: Any) -> str:
    with pytest.raises(ValidationError) as caught:
        production(**values)
    return str(caught.value)


def test_only_a_process_that_signs_needs_the_signing_key() -> None:
    assert production().required_signing_key == KEY
    with pytest.raises(ValueError, match="SIGNING_KEY is not set"):
        _ = production(signing_key=None).required_signing_key
    assert production(signing_key=None, tidemark_environment="development").required_signing_key == ""
    assert production(signing_key=None, allow_insecure="SIGNING_KEY").required_signing_key == ""


def test_safe_settings_are_accepted() -> None:
    assert production().tidemark_environment == "production"
    assert production(qdrant_api_key=None, qdrant_read_only_api_key=STRONG)  # a gateway, which cannot write


@pytest.mark.parametrize(("name", "value", "remedy"), UNSAFE)
def test_each_unsafe_setting_is_refused_by_name_with_its_remedy(name: str, value: Any, remedy: str) -> None:
    message = refusal(**{name: value})
    assert f"- {name.upper()} " in message
    assert remedy in message


@pytest.mark.parametrize(("name", "value", "remedy"), UNSAFE)
def test_each_refusal_can_be_lifted_by_name_alone(name: str, value: Any, remedy: str) -> None:
    assert production(**{name: value}, allow_insecure=name.upper())
    other = next(each for each in CHECKED if each != name.upper())
    assert remedy in refusal(**{name: value}, allow_insecure=other)


@pytest.mark.parametrize(("name", "value", "remedy"), UNSAFE)
def test_development_accepts_each_unsafe_setting(name: str, value: Any, remedy: str) -> None:
    assert production(**{name: value}, tidemark_environment="development")


def test_every_checked_setting_has_a_case_above() -> None:
    assert {name.upper() for name, _, _ in UNSAFE} == set(CHECKED)


def test_all_refusals_are_reported_together_and_can_be_copied() -> None:
    message = refusal(qdrant_url="http://q", redis_url="redis://r", rate_limit=0)
    assert "ALLOW_INSECURE=QDRANT_URL,REDIS_URL,RATE_LIMIT" in message
    assert production(
        qdrant_url="http://q", redis_url="redis://r", rate_limit=0, allow_insecure="qdrant_url, REDIS_URL,RATE_LIMIT"
    )


def test_no_secret_is_in_a_refusal() -> None:
    weak = "hunter2hunter2hunter2"
    message = refusal(
        identity_secret=weak,
        qdrant_api_key=weak,
        redis_url=f"redis://:{weak}@r",
        database_url=f"postgresql://a:{weak}@d/x",
    )
    assert "hunter2" not in message
    assert STRONG not in message


def test_a_name_that_production_never_refuses_is_a_mistake() -> None:
    assert "'QDRANT'" in refusal(allow_insecure="QDRANT")


@pytest.mark.parametrize(
    "secret",
    ["x" * 64, "ab" * 20, "abcdefghijklmnopqrstuvwxyz", "9876543210987654321098765", "My-Password-Is-Long-9f3k", "short9Zq",
     "0123456789abcdef0123456789abcdef", "aaaaaaaabbbbbbbbcccccccc", "qwertyuiopasdfghjkl", "tidemark-2026-prod"],
)  # fmt: skip
def test_guessable_secrets_are_weak(secret: str) -> None:
    assert weakness(secret)


@pytest.mark.parametrize(
    "secret",
    [STRONG, "9f86d081884c7d659a2feaa0c55ad015", "q7Zt1LmXo4RvB9wK", "correct horse battery staple",
     "XohImNooBHFR0OVvjcYpJ3NgPQ1qq73WKhHvch0VQtg="],
)  # fmt: skip
def test_random_secrets_are_not_weak(secret: str) -> None:
    assert not weakness(secret)
