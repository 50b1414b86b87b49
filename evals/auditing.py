"""The cost of the audit log: to a query that is noted, to an action that waits for its entry, and of a verification.

The writer shares the event loop with the queries. Therefore a probe sleeps and measures how late it wakes, in turns with and without
queries that are noted.
"""

from __future__ import annotations

import asyncio
import shutil
import tempfile
import time
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from evals.local_stack import deploy
from evals.metrics import percentile
from governance.audit import asked, event
from governance.audit_chain import Progress, check_page
from governance.audit_trail import Trail
from rag.adapters.ledger import open_ledger
from rag.ids import Ids
from rag.models import AuditQuery
from rag.ports import AuditLog
from rag.settings import load

RATE = 150  # noted queries a second, about what one gateway answers
TURN_SECONDS = 2.0
PROBE_SECONDS = 0.004
DOCUMENTS = [f"document:{uuid.UUID(int=number)}" for number in range(8)]  # of an answer


@dataclass(frozen=True, slots=True)
class AuditCost:
    """Milliseconds, except for ``verified``, in entries a second."""

    note_p50: float
    note_p95: float
    late_without_p95: float
    late_with_p95: float
    write_p50: float
    write_p95: float
    verified: float
    entries: int


async def run(turns: int = 6, writes: int = 200) -> AuditCost:
    """Measure on a PostgreSQL of its own."""
    async with _ledger() as (log, ids):
        trail, tenant = Trail(log), "bench"
        noting, late_with, late_without = list[float](), list[float](), list[float]()
        for _ in range(turns):
            late_without += await _late()
            noted = asyncio.create_task(_note(trail, tenant, ids))
            late_with += await _late()
            noting += await noted
            await trail.flush()
        writing = [await _write(trail, tenant, ids) for _ in range(writes)]
        entries, seconds = await _verify(log, tenant, ids)
        return AuditCost(
            note_p50=1000 * percentile(noting, 0.5),
            note_p95=1000 * percentile(noting, 0.95),
            late_without_p95=1000 * percentile(late_without, 0.95),
            late_with_p95=1000 * percentile(late_with, 0.95),
            write_p50=1000 * percentile(writing, 0.5),
            write_p95=1000 * percentile(writing, 0.95),
            verified=entries / seconds,
            entries=entries,
        )


async def _note(trail: Trail, tenant: str, ids: Ids) -> list[float]:
    seconds = []
    for number in range(int(RATE * TURN_SECONDS)):
        began = time.perf_counter()
        details = asked(f"How many ropes hold zeppelin {number}?", tenant=tenant, ids=ids, keep="hash")
        actor = ids.caller_id(tenant, "alice")
        trail.note(event("query.answer", tenant=tenant, actor=actor, ids=ids, objects=DOCUMENTS, details=details))
        seconds.append(time.perf_counter() - began)
        await asyncio.sleep(1 / RATE)
    return seconds


async def _write(trail: Trail, tenant: str, ids: Ids) -> float:
    began = time.perf_counter()
    await trail.write(event("document.erase", tenant=tenant, actor="", ids=ids, objects=DOCUMENTS[:1]))
    return time.perf_counter() - began


async def _late() -> list[float]:
    """Return how late each sleep of a turn ended."""
    late, end = [], time.perf_counter() + TURN_SECONDS
    while time.perf_counter() < end:
        began = time.perf_counter()
        await asyncio.sleep(PROBE_SECONDS)
        late.append(time.perf_counter() - began - PROBE_SECONDS)
    return late


async def _verify(log: AuditLog, tenant: str, ids: Ids) -> tuple[int, float]:
    began, progress = time.perf_counter(), Progress()
    while entries := await log.audit_entries(tenant, AuditQuery(), after=progress.number):
        progress, findings = check_page(progress, entries, ids)
        assert not findings  # noqa: S101  (nobody changed it)
    return progress.number, time.perf_counter() - began


@asynccontextmanager
async def _ledger() -> AsyncIterator[tuple[AuditLog, Ids]]:
    folder = Path(tempfile.mkdtemp(prefix="tidemark-bench-"))
    try:
        await deploy("up", folder, "--only", "ledger", "--free-ports")
        settings = load(folder)
        async with open_ledger(settings.database_url.get_secret_value()) as opened:
            yield opened, Ids(settings.identity_secret.get_secret_value().encode())
    finally:
        await deploy("clean", folder)
        shutil.rmtree(folder, ignore_errors=True)
