from __future__ import annotations

import os
import random

import httpx
import psutil
import pytest

from evals import speed
from evals.speed import BYTES, SEED, _search, _seconds, _spent, _text
from rag.errors import Unavailable
from rag.settings import Settings


@pytest.fixture
def settings(monkeypatch: pytest.MonkeyPatch) -> Settings:
    monkeypatch.setattr(speed, "_cpu", lambda _: {"gateway": 1.0})
    return Settings.model_construct()


def client(hits: list[str]) -> httpx.AsyncClient:
    transport = httpx.MockTransport(lambda request: httpx.Response(200, json={"hits": hits}))
    return httpx.AsyncClient(transport=transport, base_url="http://gateway.test")


def test_the_documents_are_the_same_in_every_run_and_as_long_as_said() -> None:
    first, again = (_text(7, random.Random(SEED)) for _ in range(2))
    assert first == again
    assert BYTES <= len(first.encode()) < 1.2 * BYTES


async def test_every_question_is_asked_once_whatever_the_number_of_callers(settings: Settings) -> None:
    for callers in (1, 8):
        found = await _search(client(["a hit"]), ["question"] * 20, callers, settings)
        assert (found.n, found.callers, found.cpu) == (20, callers, {"gateway": 0.0})
        assert 0 < found.p50 <= found.p95


async def test_a_search_that_finds_nothing_is_no_measurement(settings: Settings) -> None:
    with pytest.raises(Unavailable, match="found nothing"):
        await _search(client([]), ["question"], 1, settings)


def test_the_cpu_of_a_process_that_has_ended_is_none_of_its_own() -> None:
    own = _seconds(psutil.Process(os.getpid()))
    assert own > 0
    assert _spent({"a": 1.0}, {"a": 1.5, "started since": 3.0}) == {"a": 0.5}
