"""The command that the message of a lost index names."""

from __future__ import annotations

import sys
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any

import pytest

from assets import __main__ as command
from rag.adapters.memory.vectors import MemoryVectors
from rag.ingest.pipeline import REBUILD_REMEDY
from tests.assets.settings import SETTINGS
from tests.fakes.world import World


async def test_the_command_of_the_message_rebuilds_the_index(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    world = World()
    await world.put("a.md")
    await world.run_lane()
    world.vectors = MemoryVectors()

    @asynccontextmanager
    async def opened(_: Any) -> Any:
        yield SimpleNamespace(pipeline=world.pipeline, events=world.log, ledger=world.ledger)

    monkeypatch.setattr(command, "services", opened)
    await command._rebuild(SETTINGS)
    assert "1 documents were written again" in capsys.readouterr().out
    assert "Three ropes" in await world.found("ropes")


def test_the_message_names_a_command_that_exists(monkeypatch: pytest.MonkeyPatch) -> None:
    _, _, module, *arguments = REBUILD_REMEDY.split("`")[1].split()
    ran: list[Any] = []

    async def rebuilt(settings: Any) -> None:
        ran.append(settings)

    monkeypatch.setattr(command, "_rebuild", rebuilt)
    monkeypatch.setattr(command, "load", lambda: SETTINGS)
    monkeypatch.setattr(sys, "argv", [module, *arguments])
    command.main()
    assert (module, ran) == ("assets", [SETTINGS])
