from __future__ import annotations

import httpx
import pytest

from evals import searching
from evals.loading import Loading
from evals.process_cpu import BENCH
from evals.searching import Searching, search
from evals.speed import loading_figures, searching_figures
from rag.errors import Unavailable
from rag.settings import Settings

ONE = Searching(1, 400, 0.007, 0.016, 120.0, {"gateway": 0.006, "vector index": 0.003, "database": 0.002, BENCH: 0.02})


@pytest.fixture
def settings(monkeypatch: pytest.MonkeyPatch) -> Settings:
    monkeypatch.setattr(searching, "cpu", lambda *_: {"gateway": 1.0})
    return Settings.model_construct()


def client(hits: list[str]) -> httpx.AsyncClient:
    transport = httpx.MockTransport(lambda request: httpx.Response(200, json={"hits": hits}))
    return httpx.AsyncClient(transport=transport, base_url="http://gateway.test")


async def test_every_question_is_asked_once_whatever_the_number_of_callers(settings: Settings) -> None:
    for callers in (1, 8):
        found = await search(client(["a hit"]), ["question"] * 20, callers, settings)
        assert (found.n, found.callers, found.cpu) == (20, callers, {"gateway": 0.0})
        assert 0 < found.p50 <= found.p95


async def test_a_search_that_finds_nothing_is_no_measurement(settings: Settings) -> None:
    with pytest.raises(Unavailable, match="found nothing"):
        await search(client([]), ["question"], 1, settings)


def test_the_cpu_is_that_of_the_platform_for_as_many_documents_as_the_aim_names() -> None:
    rate, cpu = loading_figures(Loading(500, 2.0, {"stream lane": 2.0, "database": 0.5, BENCH: 7.0}), "parse 90%")
    assert (rate.value, rate.is_reached, rate.note) == (250.0, False, "steps: parse 90%")
    assert (cpu.value, cpu.is_reached) == (10.0, True)


def test_the_cpu_of_a_search_is_that_of_the_servers_that_answer() -> None:
    p50, p95, rate, cpu = searching_figures(ONE, ONE)
    assert (p50.value, p50.is_reached, p95.is_reached, rate.is_reached) == (7.0, True, False, False)
    assert cpu.value == pytest.approx(11.0)
    assert cpu.is_reached is False
    assert "gateway 6.0" in cpu.note
