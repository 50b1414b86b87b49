"""The inbound gate: suppressed documents and people are refused before parsing, and again inside ``apply``."""

from __future__ import annotations

from collections.abc import Sequence

from rag.ingest.pipeline import FindSuppressed
from rag.ports import Suppressions


def find_suppressed(suppressions: Suppressions) -> FindSuppressed:
    """Make the check that every derivation calls: (tenant, document and subject ids) → the suppressed ones among them."""

    async def find(tenant: str, ids: Sequence[str]) -> set[str]:
        return await suppressions.suppressed(tenant, ids) if ids else set()

    return find
