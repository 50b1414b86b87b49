"""Admission: documents that are suppressed, or about a suppressed person, are refused before parsing and again in ``apply``."""

from __future__ import annotations

from collections.abc import Sequence

from rag.ids import Ids
from rag.ingest.change_events import ObjectChange
from rag.ingest.pipeline import FindSuppressed
from rag.ingest.warehouse_rows import RowChange, object_change
from rag.ports import Suppressions
from rag.sources import Source


def find_suppressed(suppressions: Suppressions) -> FindSuppressed:
    """Create the check that every derivation calls: it returns the suppressed ids among a tenant's document and subject ids."""

    async def find(tenant: str, ids: Sequence[str]) -> set[str]:
        return await suppressions.suppressed(tenant, ids) if ids else set()

    return find


async def announceable(
    changes: Sequence[ObjectChange], source: Source, ids: Ids, suppressions: Suppressions
) -> list[ObjectChange]:
    """Return the changes without those of suppressed documents. An event about one would only write its uri to the log again."""
    by_id = {ids.document_id(source.tenant, source.name, change.uri): change for change in changes}
    suppressed = await suppressions.suppressed(source.tenant, list(by_id)) if by_id else set()
    if not suppressed:
        return list(changes)
    return [each for each in changes if ids.document_id(source.tenant, source.name, each.uri) not in suppressed]


async def admitted_rows(
    changes: Sequence[RowChange], source: Source, ids: Ids, suppressions: Suppressions
) -> list[RowChange]:
    """Return the changes without those of suppressed rows, whose objects must not be written again."""
    by_uri = {each.uri: each for each in (object_change(source, change) for change in changes)}
    kept = {each.uri for each in await announceable(list(by_uri.values()), source, ids, suppressions)}
    return [change for change in changes if object_change(source, change).uri in kept]
