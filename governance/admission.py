"""Admission: documents that are suppressed, or about a suppressed person, are refused before parsing and again in ``apply``."""

from __future__ import annotations

from collections.abc import Sequence

from rag.ingest.pipeline import FindSuppressed
from rag.ports import Suppressions


def find_suppressed(suppressions: Suppressions) -> FindSuppressed:
    """Create the check that every derivation calls: it returns the suppressed ids among a tenant's document and subject ids."""

    async def find(tenant: str, ids: Sequence[str]) -> set[str]:
        return await suppressions.suppressed(tenant, ids) if ids else set()

    return find
