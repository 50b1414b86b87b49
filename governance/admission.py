"""The gate in: what was asked to be forgotten is refused before it is parsed, and again inside ``apply``."""

from __future__ import annotations

from collections.abc import Sequence

from rag.ingest.pipeline import Admit
from rag.ports import Suppressions


def admit(suppressions: Suppressions) -> Admit:
    """The question every derivation asks: which of these documents and subjects of a tenant must not come back?"""

    async def refused(tenant: str, ids: Sequence[str]) -> set[str]:
        return await suppressions.suppressed(tenant, ids) if ids else set()

    return refused
