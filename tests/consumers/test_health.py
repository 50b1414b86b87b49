"""A source that has failed for minutes shows in /healthz, in the metrics and by its reason."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from prometheus_client import REGISTRY

from consumers.__main__ import source_loops
from consumers.announcements import Announcements
from consumers.health import Loop, health_app
from consumers.reconcile import RETRY_SECONDS, reconcile_forever
from consumers.runner import run
from rag.adapters.memory.events import MemoryEventLog
from rag.adapters.memory.ledger import MemoryLedger
from rag.errors import Unavailable
from rag.ids import Ids
from rag.settings import Settings
from rag.sources import Source
from tests.fakes.sleeping import skip_sleeps

SOURCE = Source("s3", "acme", "s3://docs", ("group:staff",))


@dataclass
class Clock:
    now: float = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


async def get(path: str, *loops: Loop, after: float = 120) -> httpx.Response:
    transport = httpx.ASGITransport(health_app(loops, after))
    async with httpx.AsyncClient(transport=transport, base_url="http://consumers.test") as client:
        return await client.get(path)


async def test_a_source_is_unhealthy_once_it_has_failed_for_longer_than_the_setting(clock: Clock) -> None:
    loops = Loop("s3", clock=clock), Loop("s3/listing", interval=600, clock=clock)
    assert (await get("/healthz", *loops)).json()["sources"]["s3"]["state"] == "starting"
    for loop in loops:
        loop.succeed()
    clock.now += 5
    loops[0].fail("SQS receive_message of q: QueueDoesNotExist")
    clock.now += 120
    assert (await get("/healthz", *loops)).status_code == 200
    clock.now += 1
    loops[0].fail("SQS receive_message of q: QueueDoesNotExist")
    answer = await get("/healthz", *loops)
    assert answer.status_code == 503
    assert answer.json() == {
        "status": "unhealthy",
        "unhealthy": ["s3"],
        "sources": {
            "s3": {
                "state": "failing",
                "since": "2027-01-15T08:00:05+00:00",
                "why": "SQS receive_message of q: QueueDoesNotExist",
            },
            "s3/listing": {"state": "working", "since": "2027-01-15T08:00:00+00:00", "why": ""},
        },
    }


def test_a_turn_that_hangs_is_unhealthy_even_without_an_error(clock: Clock) -> None:
    starting, working = Loop("s3", interval=60, clock=clock), Loop("folder", interval=60, clock=clock)
    working.succeed()
    clock.now += 180
    assert not starting.is_unhealthy(120)
    clock.now += 1
    assert starting.is_unhealthy(120)
    assert working.is_unhealthy(120)
    working.succeed()
    assert not working.is_unhealthy(120)


async def test_a_recovered_source_is_healthy_again_and_a_new_outage_counts_from_its_own_start(clock: Clock) -> None:
    loop = Loop("s3", clock=clock)
    loop.fail("no answer")
    clock.now += 500
    loop.succeed()
    assert (await get("/healthz", loop)).json() == {
        "status": "ok",
        "unhealthy": [],
        "sources": {"s3": {"state": "working", "since": "2027-01-15T08:08:20+00:00", "why": ""}},
    }
    loop.fail("no answer")
    clock.now += 100
    assert (await get("/healthz", loop)).status_code == 200


async def test_the_metrics_show_the_last_success_of_a_failing_source(clock: Clock) -> None:
    loop = Loop("s3", clock=clock)
    loop.succeed()
    clock.now += 500
    loop.fail("no answer")
    text = (await get("/metrics", loop)).text
    assert 'tidemark_source_up{source="s3"} 0.0' in text
    assert 'tidemark_source_last_success_timestamp_seconds{source="s3"} 1.8e+09' in text


class FailingStream:
    """A stream whose queue is missing."""

    source = SOURCE

    def __init__(self, error: Exception) -> None:
        self.error = error

    async def receive(self) -> Any:
        raise self.error


@pytest.mark.parametrize(
    ("error", "why"),
    [
        (Unavailable("the queue is missing"), "the queue is missing"),
        (ZeroDivisionError("secret"), "bug: ZeroDivisionError, see source.bug in the log"),
    ],
)
async def test_the_runner_records_the_reason_of_a_failed_turn(error: Exception, why: str) -> None:
    loop = Loop("s3")
    stream: Any = FailingStream(error)
    task = asyncio.create_task(run(stream, Ids(b"0123456789abcdef"), MemoryEventLog(), loop))
    await until_failing(loop)
    task.cancel()
    assert loop.why == why


@pytest.mark.parametrize(
    ("error", "why"), [(Unavailable("no listing"), "no listing"), (KeyError("x"), "bug: KeyError")]
)
async def test_a_failed_listing_counts_and_is_tried_again_soon(
    error: Exception, why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Objects:
        def list(self, prefix: str) -> Any:
            raise error

    opened: Any = SimpleNamespace(
        objects=Objects(), ledger=MemoryLedger(), events=MemoryEventLog(), spec=SimpleNamespace(index_id="i")
    )
    loop = Loop("broken/listing")
    waits = skip_sleeps(monkeypatch)
    task = asyncio.create_task(reconcile_forever(SOURCE, opened, 300.0, loop, Announcements(900)))
    for _ in range(10_000):
        if len(waits) >= 2:
            break
        await asyncio.sleep(0)
    task.cancel()
    assert loop.why.startswith(why)
    assert waits[0] == RETRY_SECONDS
    assert REGISTRY.get_sample_value("tidemark_source_up", {"source": "broken/listing"}) == 0


def test_every_source_has_a_loop_for_each_stream_and_for_its_listing() -> None:
    settings = Settings(
        _env_file=None,  # type: ignore[call-arg]
        tidemark_environment="development",
        identity_secret="only-for-these-tests-1234567890",
        database_url="postgresql://none",
        s3_queue_url="http://127.0.0.1:1/queue",
        aws_access_key_id="key",
        aws_secret_access_key="only-for-these-tests",
        inbox_dir="inbox",
        snowflake_tables="CUSTOMERS:ID:UPDATED_AT,TICKETS:ID:UPDATED_AT",
    )
    opened: Any = SimpleNamespace(
        settings=settings, ids=None, events=None, objects=None, ledger=None, spec=SimpleNamespace(index_id="i")
    )
    loops = source_loops(opened)
    for _, work in loops:
        work.close()
    assert [loop.name for loop, _ in loops] == [
        "s3", "s3/listing", "uploads/listing", "folder", "folder/listing", "snowflake/CUSTOMERS", "snowflake/TICKETS",
        "snowflake/listing", "erasures", "retired",
    ]  # fmt: skip


async def until_failing(loop: Loop) -> None:
    for _ in range(10_000):
        if loop.state == "failing":
            return
        await asyncio.sleep(0)
    pytest.fail("the loop did not fail")
