"""``/v1/documents``: upload, list, look at, trace and withdraw."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Query, Request, Response
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException

from gateway import uploads
from gateway.dependencies import Asking, Backend, Ingesting, access_of
from gateway.identity import Caller
from gateway.messages import DocumentList, DocumentMessage, LineageMessage, UploadResponse
from rag.errors import Conflict, Rejected, Unavailable
from rag.models import DocumentStatus
from rag.telemetry import logger

if TYPE_CHECKING:
    from rag.wiring import Services

PATH = "/v1/documents"
PENDING_SECONDS = 24 * 3600.0  # how long an accepted upload is remembered before the ledger knows it
_AT_ONCE = asyncio.Semaphore(4)  # uploads held in memory at a time: each may be as large as UPLOAD_BYTES
_FORM = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["file"],
                    "properties": {
                        "file": {"type": "string", "format": "binary"},
                        "title": {"type": "string", "description": "instead of the one that the file has"},
                        "principals": {
                            "type": "array",
                            "items": {"type": "string"},
                            "description": "who may see it (user:NAME, group:NAME), of your own; default: you alone",
                        },
                    },
                }
            }
        },
    }
}

router = APIRouter(prefix=PATH, tags=["documents"])


@router.post("", status_code=202, response_model=UploadResponse, openapi_extra=_FORM)
async def upload(request: Request, response: Response, caller: Ingesting, services: Backend) -> UploadResponse:
    """Accept a file. It is searchable when ``status_url`` says live."""
    # The form is read here and not declared as parameters, so that nobody's file is read before they are known.
    uploads.source_of(caller, services)
    async with request.form(max_files=1, max_fields=100, max_part_size=16 * 1024) as form:  # received to disk
        file = form.get("file")
        if not isinstance(file, UploadFile):
            raise Rejected("the form has no file in its field 'file'", reason="no_file")
        async with _AT_ONCE:  # taken when the slow part, the caller's line, is over
            content = await file.read()
            if not 0 < len(content) <= services.settings.upload_bytes:
                raise HTTPException(
                    413 if content else 422, f"a file of 1 to {services.settings.upload_bytes} bytes is taken"
                )
            document_id, uri = await uploads.store(
                content,
                name=file.filename or "",
                media_type=file.content_type or "",
                title=str(form.get("title", "")),
                principals=[each for each in form.getlist("principals") if isinstance(each, str)],
                caller=caller,
                services=services,
            )
    await _note_pending(document_id, uri, caller, services)
    response.headers["Location"] = status_url = f"{PATH}/{document_id}"
    return UploadResponse(document_id=document_id, uri=uri, status_url=status_url)


@router.get("")
async def listed(
    caller: Asking,
    services: Backend,
    after: UUID | None = None,
    limit: Annotated[int, Query(ge=1, le=500)] = 100,
    status: DocumentStatus | None = None,
) -> DocumentList:
    """Documents that the caller may see, dead ones with their reason, in order of id."""
    rows = await services.ledger.documents(
        services.spec.index_id, access_of(caller), after=str(after or ""), limit=limit + 1, status=status
    )
    documents = [DocumentMessage.model_validate(row) for row in rows[:limit]]
    return DocumentList(documents=documents, next=documents[-1].document_id if len(rows) > limit else None)


@router.get("/{document_id}")
async def document(document_id: UUID, caller: Asking, services: Backend) -> DocumentMessage:
    row = await _row(document_id, caller, services)
    return DocumentMessage.model_validate(row or await _pending(str(document_id), caller, services))


@router.get("/{document_id}/lineage")
async def lineage(document_id: UUID, caller: Asking, services: Backend) -> LineageMessage:
    """Where each chunk comes from: source version, event and run."""
    return LineageMessage.model_validate(await _row(document_id, caller, services) or _absent(str(document_id)))


@router.delete("/{document_id}", status_code=202)
async def withdraw(document_id: UUID, caller: Ingesting, services: Backend) -> DocumentMessage:
    """Delete an upload. What comes from another source is deleted there."""
    row = await _row(document_id, caller, services) or await _pending(str(document_id), caller, services)
    if row["source"] != uploads.source_of(caller, services).name:
        raise Conflict(f"document {document_id} comes from source {row['source']!r}: delete it there, and it goes here")
    await uploads.withdraw(str(document_id), row["uri"], caller, services)
    return DocumentMessage.model_validate(row)


async def _row(document_id: UUID, caller: Caller, services: Services) -> dict[str, Any] | None:
    return await services.ledger.document(services.spec.index_id, str(document_id), access_of(caller))


def _absent(document_id: str) -> dict[str, Any]:
    """Not there and not allowed look alike."""
    raise HTTPException(404, f"there is no document {document_id} that you may see")


async def _note_pending(document_id: str, uri: str, caller: Caller, services: Services) -> None:
    try:
        value = json.dumps({"uri": uri, "source": uploads.source_of(caller, services).name}).encode()
        await services.cache.put(_pending_key(document_id, caller, services), value, ttl=PENDING_SECONDS)
    except Unavailable as error:  # its status is unknown until it is indexed; nothing else is lost
        logger(__name__).warning("pending_not_noted", why=str(error))


async def _pending(document_id: str, caller: Caller, services: Services) -> dict[str, Any]:
    """An upload of this caller that the ledger does not know yet. Raises 404."""
    try:
        value = await services.cache.get(_pending_key(document_id, caller, services))
    except Unavailable:
        value = None
    return {"document_id": document_id, "status": "pending", **json.loads(value)} if value else _absent(document_id)


def _pending_key(document_id: str, caller: Caller, services: Services) -> str:
    return services.ids.query_id(caller.tenant, "pending", uploads.owner_of(caller, services), document_id)
