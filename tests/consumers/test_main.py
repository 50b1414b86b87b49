"""The start of the consumers."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from consumers.__main__ import declare_settings
from rag.adapters.memory.ledger import MemoryLedger
from rag.errors import OutdatedSettings, Unavailable
from rag.sources import Source, Sources

SOURCES = Sources({"s3": Source("s3", "acme", "s3://docs", ("group:staff",))})


async def test_the_settings_of_every_source_are_declared_also_when_the_ledger_is_down_at_first(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ledger, calls = MemoryLedger(), 0
    declare = ledger.declare_settings

    async def down_at_first(digests: dict[str, str]) -> None:
        nonlocal calls
        calls += 1
        if calls == 1:
            raise Unavailable("the database does not answer")
        await declare(digests)

    monkeypatch.setattr(ledger, "declare_settings", down_at_first)
    monkeypatch.setattr("consumers.__main__.FIRST_WAIT", 0.0)
    await declare_settings(SimpleNamespace(sources=SOURCES, ledger=ledger))  # type: ignore[arg-type]
    await ledger.swap("index", (), settings=SOURCES.digests(["s3"]))
    with pytest.raises(OutdatedSettings):
        await ledger.swap("index", (), settings={"s3": "other"})
