"""Conversion between database rows and values."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import asdict
from typing import Any, Protocol

from psycopg import AsyncConnection

from rag.models import Cause, DocumentRecord, DocumentStatus, Placement


class LedgerPart(Protocol):
    """Base of the ledger's parts, which run their statements on ``connection``."""

    def connection(self) -> AbstractAsyncContextManager[AsyncConnection]: ...

    def reading(self) -> AbstractAsyncContextManager[AsyncConnection]: ...


DOCUMENT_COLUMNS = (
    "document_id::text, revision, status, tenant, source, uri, partition, version, stamp as change_token, content_hash, "
    "principals, scopes, subjects, title, media_type, language, reason, config_hash, artifacts, cause"
)


def recorded(row: Mapping[str, Any], chunks: Mapping[str, Placement]) -> DocumentRecord:
    values: dict[str, Any] = {name: tuple(value) if isinstance(value, list) else value for name, value in row.items()}
    values["status"] = DocumentStatus(row["status"])
    values["cause"] = cause(row["cause"]) if row["cause"] else None
    return DocumentRecord(**values, chunks=chunks)


def cause_json(cause: Cause | None) -> dict[str, Any]:
    return asdict(cause) if cause else {}


def cause(value: Mapping[str, Any]) -> Cause:
    return Cause(**value)
