"""``/v1/erasures``: run dry, accept, follow, and certify. All of it needs the scope rag:erase."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated
from uuid import UUID

from fastapi import APIRouter, Query, Response
from starlette.exceptions import HTTPException

from gateway.auditing import Audited
from gateway.dependencies import Backend, Erasing
from gateway.identity import Caller
from gateway.messages import ErasureList, ErasureMessage, ErasureRequest, LocatedMessage
from governance.erasure import Located, Target, accept, locate
from governance.mentions import Identifier
from rag.errors import Unavailable
from rag.ingest.change_events import publish_outbox
from rag.models import Erasure
from rag.telemetry import logger

if TYPE_CHECKING:
    from rag.wiring import Services

PATH = "/v1/erasures"
router = APIRouter(prefix=PATH, tags=["erasures"])


@router.post(
    "", status_code=202, responses={200: {"model": LocatedMessage, "description": "a dry run"}}, response_model=None
)
async def request(
    body: ErasureRequest, response: Response, caller: Erasing, services: Backend, audit: Audited
) -> LocatedMessage | ErasureMessage:
    """Erase a document, the documents under a prefix of uris, or those of a person. With ``dry_run``, list them and change nothing.

    From the response on, no search, answer or list shows them. Follow the state until the certificate.
    """
    person = Identifier(body.subject.kind, body.subject.value) if body.subject else None
    target = Target(str(body.document_id or ""), body.uri_prefix, person)
    if body.dry_run:
        async with audit.recording("erasure.locate") as recorded:
            located = await located_for(target, caller, services)
            recorded.add_documents(each.document_id for each in located.documents)
        response.status_code = 200
        return LocatedMessage.of(located)
    located = await located_for(target, caller, services)
    confirmed = None if body.documents is None else [str(each) for each in body.documents]
    named = [f"document:{each.document_id}" for each in located.chosen(confirmed)]
    async with audit.acting("erasure.request", *named) as recorded:
        accepted = await accept_for(located, body.reason, confirmed, caller, services)
        recorded.objects.append(f"erasure:{accepted.erasure_id}")
    response.headers["Location"] = f"{PATH}/{accepted.erasure_id}"
    return ErasureMessage.of(accepted)


@router.get("")
async def listed(
    caller: Erasing, services: Backend, after: UUID | None = None, limit: Annotated[int, Query(ge=1, le=500)] = 100
) -> ErasureList:
    """List the erasures of the caller's tenant, oldest first."""
    found = await services.ledger.erasures(caller.tenant, after=str(after or ""), limit=limit + 1)
    page = [ErasureMessage.of(each) for each in found[:limit]]
    return ErasureList(erasures=page, next=page[-1].erasure_id if len(found) > limit else None)


@router.get("/{erasure_id}")
async def status(erasure_id: UUID, caller: Erasing, services: Backend) -> ErasureMessage:
    """Return an erasure with its state, its stores and its history."""
    return ErasureMessage.of(await _known(erasure_id, caller, services))


@router.get(
    "/{erasure_id}/certificate", response_class=Response, responses={200: {"content": {"application/jose": {}}}}
)
async def certificate(erasure_id: UUID, caller: Erasing, services: Backend) -> Response:
    """Return the certificate, a JWS in compact form. Its keys are at /.well-known/tidemark/jwks.json."""
    found = await _known(erasure_id, caller, services)
    if not found.certificate:
        raise HTTPException(404, f"erasure {erasure_id} is {found.state.value} and not certified yet")
    return Response(found.certificate, media_type="application/jose")


async def located_for(target: Target, caller: Caller, services: Services) -> Located:
    """Return the documents that the target means. Raises 404 when a named document or prefix has none."""
    located = await locate(
        target,
        tenant=caller.tenant,
        index_id=services.spec.index_id,
        ids=services.ids,
        ledger=services.ledger,
        catalog=services.ledger,
        artifacts=services.pipeline.artifacts,
    )
    if not located.documents and target.person is None:
        raise HTTPException(
            404, f"there is no document {target.document_id or target.uri_prefix} of your tenant to erase"
        )
    return located


async def accept_for(
    located: Located, reason: str, confirmed: Sequence[str] | None, caller: Caller, services: Services
) -> Erasure:
    """Accept the erasure in the caller's name, and publish its events. The consumers publish them after an outage."""
    accepted = await accept(
        located,
        tenant=caller.tenant,
        actor=services.ids.caller_id(caller.tenant, caller.subject),
        reason=reason,
        now=datetime.now(UTC),
        deadline_days=services.settings.erasure_deadline_days,
        ledger=services.ledger,
        ids=services.ids,
        confirmed=confirmed,
    )
    try:
        await publish_outbox(services.ledger, services.events)
    except Unavailable as error:
        logger(__name__).warning("erasure.published_later", erasure_id=accepted.erasure_id, why=str(error))
    return accepted


async def _known(erasure_id: UUID, caller: Caller, services: Services) -> Erasure:
    found = await services.ledger.erasure(caller.tenant, str(erasure_id))
    if found is None:
        raise HTTPException(404, f"there is no erasure {erasure_id} of your tenant")
    return found
