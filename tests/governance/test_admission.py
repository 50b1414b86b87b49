from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

import pytest

from governance.admission import admitted_rows, find_suppressed
from rag.adapters.memory.ledger import MemoryLedger
from rag.errors import Unavailable
from rag.ids import Ids
from rag.ingest.warehouse_rows import RowChange, row_uri
from rag.ports import Row
from rag.sources import Source
from rag.tables import Table


async def test_only_the_suppressed_ids_are_returned() -> None:
    ledger = MemoryLedger()
    await ledger.suppress("acme", ["doc-1", "person-1"], reason="erasure")
    find = find_suppressed(ledger)
    assert await find("acme", ["doc-1", "doc-2", "person-1", "person-2"]) == {"doc-1", "person-1"}
    assert await find("acme", ["doc-2"]) == set()


async def test_a_suppression_belongs_to_one_tenant() -> None:
    ledger = MemoryLedger()
    await ledger.suppress("acme", ["doc-1"], reason="erasure")
    assert await find_suppressed(ledger)("globex", ["doc-1"]) == set()


async def test_a_later_suppression_applies_to_the_next_call() -> None:
    ledger = MemoryLedger()
    find = find_suppressed(ledger)
    assert await find("acme", ["doc-1"]) == set()
    await ledger.suppress("acme", ["doc-1"], reason="erasure")
    assert await find("acme", ["doc-1"]) == {"doc-1"}


class UnavailableSuppressions:
    """A store of suppressions that does not answer."""

    async def suppressed(self, tenant: str, ids: Sequence[str]) -> set[str]:
        raise Unavailable("the ledger does not answer")

    async def suppress(self, tenant: str, ids: Sequence[str], *, reason: str) -> None:
        raise NotImplementedError


async def test_an_unavailable_ledger_is_an_outage_and_never_an_admission() -> None:
    with pytest.raises(Unavailable):
        await find_suppressed(UnavailableSuppressions())("acme", ["doc-1"])


async def test_without_ids_the_store_is_not_read() -> None:
    assert await find_suppressed(UnavailableSuppressions())("acme", []) == set()


async def test_the_object_of_a_suppressed_row_is_not_written_again() -> None:
    ids, ledger = Ids(b"0123456789abcdef"), MemoryLedger()
    source = Source("rows", "acme", "s3://internal/rows", ("group:staff",))
    table = Table("TICKETS", "ID", "UPDATED_AT")
    changes = [RowChange(table, key, Row(key, datetime.now(UTC), "{}"), "poll") for key in ("1", "2", "3")]
    gone = ids.document_id("acme", "rows", row_uri(source, table, "2"))
    assert await admitted_rows(changes, source, ids, ledger) == changes
    await ledger.suppress("acme", [gone], reason="erasure")
    assert [change.key for change in await admitted_rows(changes, source, ids, ledger)] == ["1", "3"]
    assert await admitted_rows([], source, ids, ledger) == []
