"""``/v1/holds``: place, list and lift legal holds. All of it needs the scope rag:admin, so that an officer who erases cannot lift one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated
from uuid import UUID

from fastapi import APIRouter, Query
from starlette.exceptions import HTTPException

from gateway.access import known
from gateway.auditing import Audited
from gateway.dependencies import Administering, Backend
from gateway.identity import Caller
from gateway.messages import HoldList, HoldMessage, HoldRequest
from governance.access_rules import folder_of
from rag.ids import hold_id
from rag.models import Hold

if TYPE_CHECKING:
    from rag.wiring import Services

router = APIRouter(prefix="/v1/holds", tags=["holds"])


@router.post("", status_code=201)
async def place(request: HoldRequest, caller: Administering, services: Backend, audit: Audited) -> HoldMessage:
    """Forbid every erasure and withdrawal of a document, a folder or a source, now and of documents that come later."""
    hold = await _hold(request, caller, services)
    async with audit.acting("hold.set", f"hold:{hold.hold_id}", _object(hold)):
        return HoldMessage.model_validate(await services.ledger.place(hold))


@router.get("")
async def listed(
    caller: Administering,
    services: Backend,
    document_id: UUID | None = None,
    after: UUID | None = None,
    limit: Annotated[int, Query(ge=1, le=500)] = 100,
) -> HoldList:
    """List the holds of the caller's tenant, oldest first. With ``document_id``, those that protect the document."""
    record = await known(document_id, caller, services) if document_id else None
    scopes = services.ids.scopes(record.tenant, record.source, record.uri, record.document_id) if record else None
    found = await services.ledger.holds(caller.tenant, scopes=scopes, after=str(after or ""), limit=limit + 1)
    page = [HoldMessage.model_validate(each) for each in found[:limit]]
    return HoldList(holds=page, next=page[-1].hold_id if len(found) > limit else None)


@router.delete("/{hold_id}")
async def lift(hold_id: UUID, caller: Administering, services: Backend, audit: Audited) -> HoldMessage:
    """Lift a hold, and return it. Other holds on the same documents stand."""
    async with audit.acting("hold.lift", f"hold:{hold_id}") as recorded:
        hold = await services.ledger.lift(caller.tenant, str(hold_id))
        if hold is None:
            raise HTTPException(404, f"hold {hold_id} is not one of your tenant: list the holds for their ids")
        recorded.objects.append(_object(hold))
    return HoldMessage.model_validate(hold)


async def _hold(request: HoldRequest, caller: Caller, services: Services) -> Hold:
    actor = services.ids.caller_id(caller.tenant, caller.subject)
    if request.document_id:
        record = await known(request.document_id, caller, services)
        document = record.document_id
        return Hold(hold_id(), caller.tenant, document, record.source, "", document, actor, request.reason)
    folder = folder_of(request.source, request.uri_prefix, tenant=caller.tenant, sources=services.sources)
    scope = services.ids.scope(caller.tenant, request.source, folder)
    return Hold(hold_id(), caller.tenant, scope, request.source, folder, "", actor, request.reason)


def _object(hold: Hold) -> str:
    """Return the document or the source of the hold, for the audit log. The uri of a folder is in the hold alone."""
    return f"document:{hold.document_id}" if hold.document_id else f"source:{hold.source}"
