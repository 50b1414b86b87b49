from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from governance import audit_trail
from governance.audit import event
from governance.audit_trail import BATCH, Trail
from rag.adapters.memory.audit import MemoryAuditLog
from rag.errors import Unavailable
from rag.ids import Ids
from rag.models import AuditEvent
from rag.telemetry import AUDIT_LOST

IDS = Ids(b"0123456789abcdef")


class Log(MemoryAuditLog):
    """A log that counts its transactions, and that may be down or broken, or wait for ``gate``."""

    def __init__(self) -> None:
        super().__init__()
        self.batches: list[int] = []
        self.error: Exception | None = None
        self.gate: asyncio.Event | None = None

    async def append_audit(self, events: Sequence[AuditEvent]) -> None:
        if self.gate:
            await self.gate.wait()
        if self.error:
            raise self.error
        self.batches.append(len(events))
        await super().append_audit(events)

    @property
    def events(self) -> list[AuditEvent]:
        return [entry.event for entry in self.chains["acme"]]


@pytest.fixture(autouse=True)
def _fast(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audit_trail, "GATHER_SECONDS", 0.01)
    monkeypatch.setattr(audit_trail, "RETRY_SECONDS", 0.01)


def made() -> AuditEvent:
    return event("query.search", tenant="acme", actor="", ids=IDS)


def lost(reason: str) -> float:
    return AUDIT_LOST.labels(reason)._value.get()


async def test_noted_events_are_written_in_order_and_in_few_transactions() -> None:
    log, events = Log(), [made() for _ in range(BATCH + 10)]
    trail = Trail(log)
    for each in events:
        trail.note(each)
    assert log.events == []
    assert await trail.flush()
    assert log.events == events
    assert log.batches == [BATCH, 10]


async def test_a_written_event_is_in_the_log_when_the_call_returns() -> None:
    log = Log()
    trail = Trail(log)
    noted, written = made(), made()
    trail.note(noted)
    await trail.write(written)
    assert log.events == [noted, written]


async def test_events_that_wait_for_a_transaction_share_the_next_one() -> None:
    log = Log()
    log.gate = asyncio.Event()
    trail = Trail(log)
    writers = [asyncio.create_task(trail.write(made()))]
    await asyncio.sleep(0.05)  # the first transaction is under way
    writers += [asyncio.create_task(trail.write(made())) for _ in range(20)]
    await asyncio.sleep(0)
    log.gate.set()
    await asyncio.gather(*writers)
    assert log.batches == [1, 20]


async def test_an_action_is_refused_when_the_log_cannot_be_written() -> None:
    log = Log()
    log.error = Unavailable("down")
    with pytest.raises(Unavailable, match="nothing was done"):
        await Trail(log).write(made())


async def test_an_action_is_refused_when_the_log_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audit_trail, "WRITE_SECONDS", 0.05)
    log = Log()
    log.gate = asyncio.Event()
    trail = Trail(log)
    with pytest.raises(Unavailable, match="nothing was done"):
        await trail.write(made())
    log.gate.set()


async def test_noted_events_survive_an_outage_in_their_order() -> None:
    log, events = Log(), [made() for _ in range(3)]
    log.error = Unavailable("down")
    trail = Trail(log)
    for each in events:
        trail.note(each)
    await asyncio.sleep(0.05)
    with pytest.raises(Unavailable):
        await trail.write(made())
    log.error = None
    assert await trail.flush()
    assert log.events == events


async def test_the_queue_is_bounded_and_what_is_lost_is_counted() -> None:
    log, before = Log(), lost("queue_full")
    log.error = Unavailable("down")
    trail = Trail(log, capacity=3)
    for _ in range(5):
        trail.note(made())
    assert lost("queue_full") == before + 2
    with pytest.raises(Unavailable):
        await trail.write(made())
    log.error = None
    assert await trail.flush()
    assert len(log.events) == 3


async def test_a_batch_that_can_never_be_written_does_not_hold_up_those_behind_it() -> None:
    log, before = Log(), lost("bug")
    log.error = ZeroDivisionError()
    trail = Trail(log)
    trail.note(made())
    await trail.flush()
    assert lost("bug") == before + 1
    log.error = None
    later = made()
    await trail.write(later)
    assert log.events == [later]


async def test_only_a_strict_trail_refuses_a_query_that_cannot_be_recorded() -> None:
    log = Log()
    log.error = Unavailable("down")
    await Trail(log).record(made())
    with pytest.raises(Unavailable):
        await Trail(log, strict=True).record(made())


async def test_the_queue_is_written_before_the_process_ends() -> None:
    log, last = Log(), made()
    trail = Trail(log)
    trail.note(last)
    await trail.close()
    assert log.events == [last]


async def test_what_cannot_be_written_before_the_end_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    log, before = Log(), lost("shutdown")
    log.error = Unavailable("down")
    trail = Trail(log)
    trail.note(made())
    monkeypatch.setattr(Trail.flush, "__defaults__", (0.05,))
    await trail.close()
    assert lost("shutdown") == before + 1
