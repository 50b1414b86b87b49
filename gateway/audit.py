"""``/v1/audit``: search, export and verify the audit log of the caller's tenant. All of it needs the scope rag:audit."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any, Literal

from fastapi import APIRouter, Query, Request
from fastapi.responses import StreamingResponse

from gateway.audit_messages import AuditList, AuditMessage, VerifiedMessage
from gateway.auditing import Audited
from gateway.dependencies import Auditing, Backend
from governance.audit_verification import PAGE, verify_log
from governance.ocsf import activity
from rag.models import AuditQuery

if TYPE_CHECKING:
    from rag.wiring import Services

JSON_LINES = "application/jsonl"
Code = Annotated[str, Query(max_length=200, pattern=r"^[A-Za-z0-9._:~/{}-]*$")]

router = APIRouter(prefix="/v1/audit", tags=["audit"])


@router.get("", response_model=AuditList, responses={200: {"content": {JSON_LINES: {"schema": {"type": "string"}}}}})
async def listed(
    request: Request,
    caller: Auditing,
    services: Backend,
    audit: Audited,
    since: datetime | None = None,
    until: datetime | None = None,
    actor: Code = "",
    action: Annotated[Code, Query(description="an action, or its first word: query, document, access, ...")] = "",
    object: Annotated[Code, Query(description="kind:id, or the id of a document")] = "",
    outcome: Literal["", "started", "success", "failure", "denied"] = "",
    before: Annotated[int, Query(ge=0, description="the number after which the page before ended")] = 0,
    limit: Annotated[int, Query(ge=1, le=500)] = 100,
    format: Annotated[Literal["", "jsonl"], Query(description="jsonl: all entries, as an OCSF event a line")] = "",
) -> Any:
    """List the entries of the caller's tenant, newest first. With ``Accept: application/jsonl``, export all of them, oldest first."""
    wanted = AuditQuery(_utc(since), _utc(until), actor, action, _object(object), outcome)
    exports = format == "jsonl" or JSON_LINES in request.headers.get("accept", "")
    async with audit.recording("audit.export" if exports else "audit.read"):
        await audit.trail.flush()
        if exports:
            return StreamingResponse(_exported(caller.tenant, wanted, services), media_type=JSON_LINES)
        entries = await services.ledger.audit_entries(
            caller.tenant, wanted, after=before, newest_first=True, limit=limit + 1
        )
    page = [AuditMessage.of(entry) for entry in entries[:limit]]
    return AuditList(entries=page, next=page[-1].number if len(entries) > limit else None)


@router.get("/verify")
async def verify(
    request: Request,
    caller: Auditing,
    services: Backend,
    audit: Audited,
    after: Annotated[int, Query(ge=0, description="begin at the last signed checkpoint at or before this entry")] = 0,
) -> VerifiedMessage:
    """Verify every entry of the caller's tenant, and the signed checkpoints. Findings name the entries that were changed."""
    async with audit.recording("audit.verify"):
        await audit.trail.flush()
        checkpoints = request.app.state.checkpoints
        found = await verify_log(
            caller.tenant, log=services.ledger, checkpoints=checkpoints, ids=services.ids, after=after
        )
    return VerifiedMessage.of(found)


async def _exported(tenant: str, wanted: AuditQuery, services: Services) -> AsyncIterator[bytes]:
    after = 0
    while entries := await services.ledger.audit_entries(tenant, wanted, after=after, limit=PAGE):
        yield b"".join(json.dumps(activity(entry), ensure_ascii=False).encode() + b"\n" for entry in entries)
        after = entries[-1].number


def _object(text: str) -> str:
    return text if ":" in text or not text else f"document:{text}"


def _utc(time: datetime | None) -> datetime | None:
    """Return a time without a zone as one of UTC."""
    return time if time is None or time.tzinfo else time.replace(tzinfo=UTC)
