"""The order of delivery of every source: a crash at any step repeats messages and loses none."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import pytest
import structlog
from prometheus_client import REGISTRY

from consumers.health import Loop
from consumers.runner import run, step
from rag.adapters.memory.events import MemoryEventLog
from rag.errors import Rejected, Unavailable
from rag.ids import Ids
from rag.ingest.change_events import ObjectChange
from rag.sources import Source
from schemas.topics import CHANGED
from tests.fakes.sleeping import skip_sleeps

IDS = Ids(b"0123456789abcdef")
STEPS = ("receive", "decode", "handle", "publish", "commit")


class Crash(Exception):
    """The end of a process in the middle of a turn."""


@dataclass
class Queue:
    """A broker that outlives the process: it keeps a message until the message is committed."""

    waiting: list[str]
    calls: list[str] = field(default_factory=list)  # steps, in the order in which they ended
    crash_after: str = ""

    def done(self, name: str) -> None:
        self.calls.append(name)
        if name == self.crash_after:
            self.crash_after = ""
            raise Crash(name)


@dataclass
class QueueStream:
    """A source over a queue. ``bad`` is a message that cannot be decoded."""

    queue: Queue
    source: Source = field(default_factory=lambda: Source("s3", "acme", "s3://docs", ("group:staff",)))

    async def receive(self) -> Sequence[str]:
        messages = list(self.queue.waiting[:2])
        self.queue.done("receive")
        return messages

    def decode(self, message: str) -> Sequence[ObjectChange]:
        if message == "bad":
            raise Rejected("not an event", reason="undecodable")
        change = ObjectChange(f"s3://docs/{message}", datetime.now(UTC), "notification")
        self.queue.done("decode")
        return (change,)

    async def handle(self, changes: Sequence[ObjectChange]) -> Sequence[ObjectChange]:
        self.queue.done("handle")
        return changes

    async def commit(self, messages: Sequence[str]) -> None:
        self.queue.waiting = [each for each in self.queue.waiting if each not in messages]
        self.queue.done("commit")


class WatchedLog(MemoryEventLog):
    """A log that reports its calls to the queue, so that their order shows."""

    def __init__(self, queue: Queue) -> None:
        super().__init__()
        self._queue = queue

    async def publish(
        self, topic: str, events: Sequence[tuple[str, Any]], *, headers: Mapping[str, str] | None = None
    ) -> None:
        await super().publish(topic, events, headers=headers)
        self._queue.done("publish")


async def published(log: MemoryEventLog) -> list[str]:
    bounds = (await log.describe(CHANGED)).bounds
    records = [record for p, (low, end) in bounds.items() for record in await log.read(CHANGED, p, low, end)]
    return sorted(record.value.uri.removeprefix("s3://docs/") for record in records)


async def test_a_turn_receives_decodes_handles_publishes_and_only_then_commits() -> None:
    queue = Queue(["a.md"])
    assert await step(QueueStream(queue), IDS, WatchedLog(queue)) == 1
    assert queue.calls == [*STEPS]
    assert queue.waiting == []


@pytest.mark.parametrize("crash_after", STEPS)
async def test_a_crash_after_any_step_repeats_messages_and_loses_none(crash_after: str) -> None:
    queue = Queue(["a.md", "b.md", "c.md"], crash_after=crash_after)
    log = WatchedLog(queue)
    with pytest.raises(Crash):
        await step(QueueStream(queue), IDS, log)
    while queue.waiting:
        await step(QueueStream(queue), IDS, log)  # a new process over the same broker
    announced = await published(log)
    assert set(announced) == {"a.md", "b.md", "c.md"}
    repeated = announced != ["a.md", "b.md", "c.md"]
    assert repeated is (crash_after == "publish")


async def test_nothing_is_committed_when_the_log_does_not_acknowledge() -> None:
    queue = Queue(["a.md"])
    log = WatchedLog(queue)
    log._topics.pop(CHANGED)
    with pytest.raises(Unavailable, match=CHANGED):
        await step(QueueStream(queue), IDS, log)
    assert queue.waiting == ["a.md"]


async def test_an_empty_turn_neither_publishes_nor_commits() -> None:
    queue = Queue([])
    assert await step(QueueStream(queue), IDS, WatchedLog(queue)) == 0
    assert queue.calls == ["receive"]


async def test_an_undecodable_message_is_counted_skipped_and_committed() -> None:
    queue = Queue(["bad", "a.md"])
    log = WatchedLog(queue)
    before = _errors("s3", "undecodable")
    assert await step(QueueStream(queue), IDS, log) == 1
    assert await published(log) == ["a.md"]
    assert queue.waiting == []
    assert _errors("s3", "undecodable") == before + 1


# -- run


@dataclass
class FailingStream(QueueStream):
    """Its first turns raise ``failures``, one each; later turns come from the queue."""

    failures: list[Exception] = field(default_factory=list)

    async def receive(self) -> Sequence[str]:
        if self.failures:
            raise self.failures.pop(0)
        return await super().receive()


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The seconds that the loop would have slept, at their upper bound."""
    monkeypatch.setattr(random, "uniform", lambda low, high: high)
    return skip_sleeps(monkeypatch)


@asynccontextmanager
async def running(*streams: QueueStream, log: MemoryEventLog) -> AsyncIterator[list[asyncio.Task[None]]]:
    tasks = [asyncio.create_task(run(stream, IDS, log, Loop(stream.source.name))) for stream in streams]
    try:
        yield tasks
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def until(holds: Callable[[], bool]) -> None:
    for _ in range(10_000):
        if holds():
            return
        await asyncio.sleep(0)
    pytest.fail("the loop never got there")


async def test_an_unavailable_dependency_is_waited_for_longer_each_time_up_to_a_bound(waits: list[float]) -> None:
    queue = Queue(["a.md"])
    outage: list[Exception] = [Unavailable("the queue does not answer")] * 9
    log = MemoryEventLog()
    with structlog.testing.capture_logs() as logs:
        async with running(FailingStream(queue, failures=outage), log=log):
            await until(lambda: not queue.waiting)
    assert waits == [0.5, 1, 2, 4, 8, 16, 30, 30, 30]
    assert [each["attempt"] for each in logs if each["event"] == "source.waits"] == [*range(1, 10)]
    assert await published(log) == ["a.md"]


async def test_after_a_success_the_waits_start_short_again(waits: list[float]) -> None:
    queue = Queue(["a.md"])
    stream = FailingStream(queue, failures=[Unavailable("x"), Unavailable("x")])
    async with running(stream, log=MemoryEventLog()):
        await until(lambda: not queue.waiting)
        queue.waiting.append("b.md")
        stream.failures.append(Unavailable("x"))
        await until(lambda: not queue.waiting)
    assert waits == [0.5, 1, 0.5]


async def test_a_bug_is_logged_and_counted_as_one_and_the_source_goes_on(waits: list[float]) -> None:
    queue = Queue(["a.md"])
    before = _errors("s3", "bug")
    with structlog.testing.capture_logs() as logs:
        async with running(FailingStream(queue, failures=[ZeroDivisionError("1/0")]), log=MemoryEventLog()):
            await until(lambda: not queue.waiting)
    (bug,) = [each for each in logs if each["event"] == "source.bug"]
    assert (bug["source"], bug["error"], bug["log_level"]) == ("s3", "ZeroDivisionError", "error")
    assert _errors("s3", "bug") == before + 1


async def test_a_source_that_always_fails_does_not_stop_another(waits: list[float]) -> None:
    broken, healthy = Queue(["a.md"]), Queue(["b.md"])
    failures: list[Exception] = [ZeroDivisionError()] * 1000
    failing = FailingStream(broken, Source("broken", "acme", "s3://docs", ("group:staff",)), failures)
    with structlog.testing.capture_logs():
        async with running(failing, QueueStream(healthy), log=MemoryEventLog()):
            await until(lambda: not healthy.waiting and len(failures) < 990)
    assert REGISTRY.get_sample_value("tidemark_source_up", {"source": "broken"}) == 0
    assert REGISTRY.get_sample_value("tidemark_source_up", {"source": "s3"}) == 1
    assert broken.waiting == ["a.md"]


@pytest.mark.parametrize("failures", [[], [Unavailable("x")] * 10_000])
async def test_a_cancelled_loop_ends_in_work_and_in_a_wait(waits: list[float], failures: list[Exception]) -> None:
    async with running(FailingStream(Queue([]), failures=failures), log=MemoryEventLog()) as (task,):
        await until(lambda: bool(waits) or not failures)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task


def _errors(source: str, reason: str) -> float:
    return REGISTRY.get_sample_value("tidemark_source_errors_total", {"source": source, "reason": reason}) or 0.0
