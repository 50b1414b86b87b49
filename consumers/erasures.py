"""The worker of erasures: it takes the next step of each accepted erasure when it is due, until its certificate and beyond."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import AsyncExitStack
from datetime import UTC, datetime

from consumers.health import Loop
from governance.audit import SYSTEM, event
from governance.erasing import Eraser, Policy
from governance.signing import Signer
from governance.stores import ArtifactObjects, CachedAnswers, EventRecords, LedgerRows, Points, SourceObjects
from rag.adapters.dagster import DagsterReports
from rag.errors import Conflict, Unavailable
from rag.ingest.change_events import publish_outbox
from rag.models import Erasure
from rag.telemetry import AUDIT_LOST, ERASURE_DEADLINE, ERASURES_OPEN, logger
from rag.wiring import Services

_log = logger(__name__)
ASSET = "erasures"  # in Dagster
POLL_SECONDS = 0.5  # between two looks for due steps
PAGE = 100
Clock = Callable[[], datetime]


def eraser(opened: Services, signer: Signer) -> Eraser:
    """Return the eraser over every store. The objects at the source go first, so that nothing is derived from them meanwhile."""
    ledger = opened.ledger
    stores = (
        SourceObjects(opened.objects, opened.sources, opened.settings.read_only_sources),
        EventRecords(opened.events),
        CachedAnswers(opened.cache),
        LedgerRows(ledger),
        ArtifactObjects(opened.pipeline.artifacts, ledger),
        Points(opened.vectors, ledger),
    )
    policy = Policy(settle=opened.settings.erasure_settle_seconds)
    return Eraser(ledger, ledger, stores, signer, opened.spec.index_id, policy)


def signer_of(opened: Services) -> Signer:
    return Signer.load(opened.settings.required_signing_key, opened.settings.signing_public_keys)


def _now() -> datetime:
    return datetime.now(UTC)


async def turn(worker: Eraser, opened: Services, *, clock: Clock = _now, dagster: DagsterReports | None = None) -> int:
    """Take one step of every due erasure, and return their number. A slow or failing one does not hold up the others."""
    due = await opened.ledger.due_erasures(clock())
    steps = await asyncio.gather(*(_step(worker, each.erasure_id, each.tenant, opened, clock) for each in due))
    if due:
        await publish_outbox(opened.ledger, opened.events)
    if dagster:
        for moved in filter(None, steps):
            await dagster.materialized(ASSET, _metadata(moved))
    return len(due)


async def _step(worker: Eraser, erasure_id: str, tenant: str, opened: Services, clock: Clock) -> Erasure | None:
    """Take the next step of the erasure. Return it when that changed its state."""
    erasure = await opened.ledger.erasure(tenant, erasure_id)
    if erasure is None:
        return None
    try:
        after = await worker.step(erasure, clock())
    except Conflict:
        return None  # another worker took the step
    if after.certificate and not erasure.certificate:
        await _record(after, opened)
    _log.info("erasure.step", erasure_id=erasure_id, state=after.state.value, attempts=after.attempts)
    return after if after.state is not erasure.state else None


def _metadata(erasure: Erasure) -> dict[str, str | int]:
    """Return what Dagster shows of an erasure: ids, counts and times, and nothing of the documents."""
    return {
        "erasure": erasure.erasure_id,
        "tenant": erasure.tenant,
        "state": erasure.state.value,
        "kind": erasure.kind,
        "documents": len(erasure.documents),
        "requested at": erasure.requested_at.isoformat(),
        "deadline": erasure.deadline.isoformat(),
    }


async def _record(certified: Erasure, opened: Services) -> None:
    """Record in the audit log that the erasure was certified. The certificate proves it too, so an outage does not undo it."""
    objects = [f"erasure:{certified.erasure_id}", *(f"document:{each}" for each in certified.document_ids)]
    made = event("erasure.certify", tenant=certified.tenant, actor=SYSTEM, ids=opened.ids, objects=objects)
    try:
        await opened.ledger.append_audit([made])
    except Unavailable as error:
        AUDIT_LOST.labels("unavailable").inc()
        _log.error("audit.lost", erasure_id=certified.erasure_id, why=str(error))


async def run(opened: Services, loop: Loop) -> None:
    """Take due steps until cancelled, and record each turn in ``loop``."""
    worker = eraser(opened, signer_of(opened))
    async with AsyncExitStack() as stack:
        dagster = None
        if url := opened.settings.dagster_url:
            dagster = await stack.enter_async_context(DagsterReports.open(url))
        while True:
            try:
                taken = await turn(worker, opened, dagster=dagster)
                await _report_open(opened)
                loop.succeed()
            except Unavailable as error:
                taken = 0
                loop.fail(str(error))
                _log.warning("erasures.wait", why=str(error))
            if not taken:
                await asyncio.sleep(POLL_SECONDS)


async def _report_open(opened: Services) -> None:
    """Report the number of open erasures and the nearest deadline, which an alert watches."""
    deadlines = await opened.ledger.open_deadlines()
    ERASURES_OPEN.set(len(deadlines))
    ERASURE_DEADLINE.set(min(each.timestamp() for each in deadlines) if deadlines else float("inf"))
