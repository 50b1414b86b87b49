"""The command that the message of a lost index names."""

from __future__ import annotations

import sys
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any

import pytest

from assets import __main__ as command
from rag.adapters.memory.vectors import MemoryVectors
from rag.errors import Unavailable
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


async def test_prepare_creates_a_missing_index_once(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    world = World()

    @asynccontextmanager
    async def opened(_: Any) -> Any:
        yield SimpleNamespace(pipeline=world.pipeline, spec=world.pipeline.spec)

    monkeypatch.setattr(command, "services", opened)
    for _ in range(2):
        await command._prepare(SETTINGS)
    assert await world.vectors.exists(world.pipeline.spec.index_id)
    assert capsys.readouterr().out.count("is ready") == 2


def test_an_index_that_cannot_be_made_ends_the_command_with_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    async def refuse(_: Any) -> None:
        raise Unavailable("qdrant does not answer")

    monkeypatch.setattr(command, "_prepare", refuse)
    monkeypatch.setattr(command, "load", lambda: SETTINGS)
    monkeypatch.setattr(sys, "argv", ["assets", "prepare"])
    with pytest.raises(SystemExit, match="qdrant does not answer"):
        command.main()


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
