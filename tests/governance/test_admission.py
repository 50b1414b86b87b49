from __future__ import annotations

from collections.abc import Sequence

import pytest

from governance.admission import find_suppressed
from rag.adapters.memory.ledger import MemoryLedger
from rag.errors import Unavailable


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
