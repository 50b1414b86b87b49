"""The rules of ``TIDEMARK_ENVIRONMENT=production``: each setting that would be unsafe there, with its remedy.

A message names a setting and never quotes its value, because the value may be a secret.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from itertools import pairwise
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from pydantic import SecretStr
from pydantic_settings import BaseSettings

MIN_BITS = 50.0  # sixteen random letters and digits have about 60, twelve have about 42
_RANDOM = "take 32 random bytes, for example of `openssl rand -base64 32`"
_WORDS = re.compile(
    r"example|change.?me|password|passw0rd|default|letmein|qwerty|tidemark|minioadmin|postgres|secret|dummy|insecure|todo",
    re.IGNORECASE,
)
_TLS_MODES = {"require", "verify-ca", "verify-full"}

# The settings that production may refuse, hence the names that ALLOW_INSECURE takes.
CHECKED = (
    "IDENTITY_SECRET", "SIGNING_KEY", "OIDC_ISSUER", "OIDC_CLIENT_SECRET", "DATABASE_URL",
    "QDRANT_URL", "QDRANT_API_KEY", "QDRANT_READ_ONLY_API_KEY",
    "REDIS_URL", "S3_ENDPOINT_URL", "GCS_ENDPOINT_URL", "AZURE_ENDPOINT_URL",
    "AWS_SECRET_ACCESS_KEY", "SNOWFLAKE_PROTOCOL", "SNOWFLAKE_PASSWORD", "OPENAI_BASE_URL",
    "COHERE_BASE_URL", "RATE_LIMIT", "FAILED_LOGIN_LIMIT",
)  # fmt: skip


def find_insecure(settings: BaseSettings) -> dict[str, str]:
    """Return the fault and remedy of each unsafe setting by the setting's name; ALLOW_INSECURE is not yet considered."""
    return {name: "; ".join(faults) for name in CHECKED if (faults := list(_faults(name, settings)))}


def weakness(secret: str) -> str:
    """Return why ``secret`` is guessable, or an empty string.

    The estimate counts the characters that do not follow from those before them (a repetition, a run such as ``abcd``) and
    takes the logarithm of the number of distinct characters for each.
    """
    if len(secret) < 16:
        return f"has {len(secret)} characters, fewer than 16"
    if _WORDS.search(secret):
        return "contains a word that default secrets contain"
    if _bits(secret) < MIN_BITS:
        return "is made of repeated or consecutive characters"
    return ""


def _bits(secret: str) -> float:
    period = (secret + secret).find(secret, 1)
    codes = [ord(character) for character in secret[:period]]
    surprising = 1 + sum(abs(after - before) > 1 for before, after in pairwise(codes))
    return surprising * math.log2(len(set(codes)))


def _faults(name: str, settings: BaseSettings) -> Iterator[str]:
    text = _text(name, settings)
    match name:
        case "IDENTITY_SECRET" | "OIDC_CLIENT_SECRET" | "AWS_SECRET_ACCESS_KEY" | "SNOWFLAKE_PASSWORD":
            if text is not None and (why := weakness(text)):
                yield f"{why}: {_RANDOM}"
        case (
            "SIGNING_KEY"
        ):  # a process that signs demands it (Settings.required_signing_key), and others should not have it
            if text and (why := weakness(text)):
                yield f"{why}: {_RANDOM}"
        case "QDRANT_API_KEY":
            if not text and _text("QDRANT_READ_ONLY_API_KEY", settings):
                return  # a gateway needs no other key
            if why := weakness(text) if text else "is not set, so anybody can read and write the index":
                yield f"{why}: {_RANDOM}, and give it to the Qdrant server too"
        case "QDRANT_READ_ONLY_API_KEY":
            if text and text == _text("QDRANT_API_KEY", settings):
                yield "is QDRANT_API_KEY, so the gateway could write the index: give Qdrant a read-only key of its own"
            elif text and (why := weakness(text)):
                yield f"{why}: {_RANDOM}, and give it to the Qdrant server too"
        case (
            "OIDC_ISSUER" | "QDRANT_URL" | "S3_ENDPOINT_URL" | "GCS_ENDPOINT_URL" | "AZURE_ENDPOINT_URL" | "OPENAI_BASE_URL"
            | "COHERE_BASE_URL"
        ):  # fmt: skip
            if text and urlsplit(text).scheme.lower() != "https":
                yield "is not an https address, so tokens or documents travel in the clear: use https://"
        case "SNOWFLAKE_PROTOCOL":
            if text != "https":
                yield "is http, so the password and the rows travel in the clear: set https"
        case "DATABASE_URL":
            if not _TLS_MODES.issuperset(modes := parse_qs(urlsplit(text).query).get("sslmode", [])) or not modes:
                yield "does not demand TLS: append ?sslmode=verify-full (or verify-ca, or require)"
            yield from _password_faults(text, "postgresql://USER:PASSWORD@HOST/NAME?sslmode=verify-full")
        case "REDIS_URL":
            if urlsplit(text).scheme.lower() != "rediss":
                yield "does not use TLS: write rediss:// instead of redis://"
            yield from _password_faults(text, "rediss://:PASSWORD@HOST:PORT/0")
        case "RATE_LIMIT" | "FAILED_LOGIN_LIMIT":
            if text == 0:
                yield "is 0, so one caller can take all capacity: set the requests that a minute allows"


def _text(name: str, settings: BaseSettings) -> Any:
    value = getattr(settings, name.lower())
    return value.get_secret_value() if isinstance(value, SecretStr) else value


def _password_faults(url: str, form: str) -> Iterator[str]:
    password = unquote(urlsplit(url).password or "")
    if not password:
        yield f"has no password: write it as {form}"
    elif why := weakness(password):
        yield f"its password {why}: {_RANDOM} (percent-encoded)"
