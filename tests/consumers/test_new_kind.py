"""The example of ``docs/sources.md``, as it stands there: one file and one registration bring a new source into the platform."""

from __future__ import annotations

import importlib.util
import json
import re
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from fastapi import FastAPI, HTTPException

from consumers import sources
from consumers.runner import Stream, step
from rag.adapters.memory.events import MemoryEventLog
from rag.adapters.memory.ledger import MemoryLedger
from rag.adapters.memory.objects import MemoryObjects
from rag.errors import Unavailable
from rag.ids import Ids
from rag.settings import SourceSettings
from tests.fakes.serving import serving

PAGE = (Path(__file__).parents[2] / "docs" / "sources.md").read_text()
CODE = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)[0]
ENTRY = json.loads(re.findall(r"```json\n(.*?)```", PAGE.partition("consumers/tickets.py")[2], re.DOTALL)[0])
IDS = Ids(b"0123456789abcdef")


class Desk:
    """A help desk. ``tickets`` is id → ticket."""

    def __init__(self) -> None:
        self.tickets: dict[str, dict[str, Any]] = {}
        self.changes = 0
        self.is_down = False
        self.app = FastAPI()
        self.app.get("/api/tickets")(self._changed)

    def write(self, number: str, text: str, *, deleted: bool = False) -> None:
        self.changes += 1
        changed = f"2026-11-01T00:00:{self.changes:02}Z"
        self.tickets[number] = {"id": number, "title": "Ticket", "text": text, "changed": changed, "deleted": deleted}

    async def _changed(self, since: str) -> list[dict[str, Any]]:
        if self.is_down:
            raise HTTPException(503)
        return [ticket for ticket in self.tickets.values() if ticket["changed"] > since]


@pytest.fixture
def desk() -> Desk:
    return Desk()


@pytest.fixture
def tickets(tmp_path: Path) -> ModuleType:
    path = tmp_path / "tickets.py"
    path.write_text(CODE)
    spec = importlib.util.spec_from_file_location("tickets", path)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def stream(desk: Desk, tickets: ModuleType, monkeypatch: pytest.MonkeyPatch) -> Iterator[Stream]:
    """The stream of the entry of the page, over the help desk."""
    monkeypatch.setattr(sources, "KINDS", {**sources.KINDS, "tickets": tickets.streams})
    with serving(desk.app) as url:
        chosen = SourceSettings(**ENTRY | {"options": {"url": f"{url}/api/tickets", "every": 0.0}})
        opened = SimpleNamespace(objects=MemoryObjects("s3://tidemark-internal"), ledger=MemoryLedger())
        yield sources.streams(chosen, opened)["desk"]  # type: ignore[arg-type]


async def stored(stream: Any) -> dict[str, bytes]:
    objects = stream._objects
    uris = [state.uri async for state in objects.list("s3://tidemark-internal/desk")]
    return {uri.rsplit("/", 1)[-1]: (await objects.get(uri)).content for uri in uris}


def test_the_example_is_short() -> None:
    assert len([line for line in CODE.splitlines() if line.strip()]) <= 40


async def test_tickets_become_objects_and_events_and_follow_their_changes(desk: Desk, stream: Stream) -> None:
    log = MemoryEventLog()
    desk.write("T-1", "The pump leaks.")
    desk.write("T-2", "The lamp is dark.")
    assert await step(stream, IDS, log) == 2
    assert await stored(stream) == {"T-1": b"The pump leaks.", "T-2": b"The lamp is dark."}
    assert await step(stream, IDS, log) == 0
    desk.write("T-1", "", deleted=True)
    assert await step(stream, IDS, log) == 1
    assert await stored(stream) == {"T-2": b"The lamp is dark."}


async def test_a_help_desk_that_is_down_loses_nothing(desk: Desk, stream: Stream) -> None:
    desk.write("T-1", "The pump leaks.")
    desk.is_down = True
    with pytest.raises(Unavailable, match="help desk http"):
        await step(stream, IDS, MemoryEventLog())
    desk.is_down = False
    assert await step(stream, IDS, MemoryEventLog()) == 1


def test_an_unknown_kind_is_refused_by_its_name() -> None:
    chosen = SourceSettings(**ENTRY | {"kind": "carrier_pigeons"})
    with pytest.raises(ValueError, match="'desk' is of the unknown kind 'carrier_pigeons': choose one of"):
        sources.streams(chosen, SimpleNamespace())  # type: ignore[arg-type]
