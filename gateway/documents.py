"""``/v1/documents``: upload, list, show, trace, redrive, withdraw and suppress."""

from __future__ import annotations

import asyncio
import json
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Query, Request, Response
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException

from gateway import erasures, uploads
from gateway.auditing import Audited
from gateway.dependencies import WITHDRAWING_SECURITY, Administering, Asking, Backend, Ingesting, Withdrawing, access_of
from gateway.identity import Caller
from gateway.messages import TEXT_PATTERN, DocumentList, DocumentMessage, LineageMessage, UploadResponse
from governance.access import MAX_VALUE
from governance.erasure import NAMED, Located, Target
from rag.errors import Conflict, Rejected, Unavailable
from rag.ingest.change_events import REDRIVE, ObjectChange, publish_changes
from rag.models import DocumentRecord, DocumentStatus
from rag.ports import DocumentQuery
from rag.telemetry import logger

if TYPE_CHECKING:
    from rag.wiring import Services

PATH = "/v1/documents"
PENDING_SECONDS = 24 * 3600.0  # an accepted upload is remembered for so long before the ledger has it
Filter = Annotated[str, Query(max_length=64, pattern=r"^[a-z0-9_-]*$")]  # a source's name or a reason
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
                        "file": {"type": "string", "format": "binary", "minLength": 1},
                        "title": {
                            "type": "string",
                            "maxLength": uploads.MAX_TITLE,
                            "pattern": TEXT_PATTERN,
                            "description": "printable; replaces the file's own title",
                        },
                        "principals": {
                            "type": "array",
                            "items": {"type": "string"},
                            "description": "user:NAME or group:NAME, some of your own; you alone when there is none",
                        },
                    },
                }
            }
        },
    }
}

router = APIRouter(prefix=PATH, tags=["documents"])


@router.post("", status_code=202, response_model=UploadResponse, openapi_extra=_FORM)
async def upload(
    request: Request, response: Response, caller: Ingesting, services: Backend, audit: Audited
) -> UploadResponse:
    """Accept a file. It is searchable when ``status_url`` reports live.

    An upload is known by its uploader and its file name: the same file again is the same document, and a changed file of that
    name replaces it.
    """
    # The form is read here and not declared as parameters, so that no file is read before its sender is known.
    source = uploads.source_of(caller, services)
    async with request.form(max_files=1, max_fields=100, max_part_size=16 * 1024) as form:  # received to disk
        file = form.get("file")
        if not isinstance(file, UploadFile):
            raise Rejected("the form has no file in its field 'file'", reason="no_file")
        async with _AT_ONCE:  # entered after the slow part, which is the caller's line
            content = await file.read()
            _check_size(len(content), services.settings.upload_bytes)
            uri = uploads.uri_of(file.filename or "", caller, services)
            document_id = services.ids.document_id(caller.tenant, source.name, uri)
            if await services.ledger.suppressed(caller.tenant, [document_id]):
                raise Conflict("your upload of this name was erased and cannot come back: upload under another name")
            earlier = await _known(document_id, caller, services)
            await uploads.store(
                uri,
                content,
                media_type=file.content_type or "",
                title=str(form.get("title", "")),
                principals=[each for each in form.getlist("principals") if isinstance(each, str)],
                caller=caller,
                services=services,
            )
    noted = _Noted(
        uri, source.name, services.ids.content_hash(caller.tenant, content), (earlier or {}).get("revision", 0)
    )
    await _note(document_id, noted, caller, services)
    await audit.record("document.upload", f"document:{document_id}")
    response.headers["Location"] = status_url = f"{PATH}/{document_id}"
    replaces = earlier is not None and earlier["status"] not in {DocumentStatus.DELETED, DocumentStatus.SUPPRESSED}
    return UploadResponse(document_id=document_id, uri=uri, status_url=status_url, replaces=replaces)


def _check_size(size: int, limit: int) -> None:
    if size == 0:
        raise Rejected("the file is empty: upload one with content", reason="empty")
    if size > limit:
        raise Rejected(f"the file has more than {limit} bytes: upload a smaller one", reason="too_large", status=413)


@router.get("")
async def listed(
    caller: Asking,
    services: Backend,
    after: UUID | None = None,
    limit: Annotated[int, Query(ge=1, le=500)] = 100,
    state: Annotated[DocumentStatus | None, Query(description="the documents' status")] = None,
    source: Filter = "",
    reason: Filter = "",
    title: Annotated[str, Query(max_length=MAX_VALUE, pattern=TEXT_PATTERN, description="a part of the title")] = "",
) -> DocumentList:
    """List the documents of the caller's tenant that the caller may see, dead and parked ones with their reason, in order of id."""
    wanted = DocumentQuery(source, state.value if state else "", reason, title)
    rows = await services.ledger.documents(
        services.spec.index_id, access_of(caller), wanted, after=str(after or ""), limit=limit + 1
    )
    documents = [DocumentMessage.model_validate(row) for row in rows[:limit]]
    return DocumentList(documents=documents, next=documents[-1].document_id if len(rows) > limit else None)


@router.get("/{document_id}")
async def document(document_id: UUID, caller: Asking, services: Backend) -> DocumentMessage:
    """Return a document's place, status and version."""
    known = await _known(str(document_id), caller, services)
    return DocumentMessage.model_validate(known or _absent(str(document_id)))


@router.get("/{document_id}/lineage")
async def lineage(document_id: UUID, caller: Asking, services: Backend) -> LineageMessage:
    """Return the lineage of a document: object version, event, run, points, and the document's state in each index version, with times.

    A document has no lineage until it is indexed.
    """
    row = await services.ledger.lineage(services.spec.index_id, str(document_id), access_of(caller))
    return LineageMessage.of(row or _absent(str(document_id)), services.spec.index_id)


@router.delete("/{document_id}", status_code=202, openapi_extra={"security": WITHDRAWING_SECURITY})
async def withdraw(document_id: UUID, caller: Withdrawing, services: Backend, audit: Audited) -> DocumentMessage:
    """Withdraw an upload, or, with the scope rag:erase, erase any document that the caller may see, as an erasure does.

    An upload may come back. An erased document is hidden at once, and no upload, replay, listing or backfill brings it back.
    """
    row = await _known(str(document_id), caller, services) or _absent(str(document_id))
    if "rag:erase" in caller.scopes:
        async with audit.acting("document.erase", f"document:{document_id}"):
            await erasures.accept_for(_named(str(document_id), row, caller), "", None, caller, services)
        row |= {"status": DocumentStatus.SUPPRESSED}
    elif row["source"] == uploads.source_of(caller, services).name:
        async with audit.acting("document.withdraw", f"document:{document_id}"):
            await _require_no_hold(str(document_id), row, caller, services)
            await uploads.withdraw(str(document_id), row["uri"], caller, services)
    else:
        raise Conflict(
            f"document {document_id} comes from source {row['source']!r}: delete it there, and it will disappear here,"
            " or get the scope rag:erase"
        )
    await _note(str(document_id), None, caller, services)
    return DocumentMessage.model_validate(row)


@router.post("/{document_id}/redrive", status_code=202)
async def redrive(document_id: UUID, caller: Administering, services: Backend, audit: Audited) -> DocumentMessage:
    """Announce a document again, so that its object is read although it did not change: after its cause of death was removed."""
    row = await _known(str(document_id), caller, services) or _absent(str(document_id))
    source = services.sources.owner(row["source"], caller.tenant, row["uri"])
    change = ObjectChange(row["uri"], datetime.now(UTC), REDRIVE, version=row.get("source_version"))
    async with audit.acting("document.redrive", f"document:{document_id}"):
        await publish_changes([change], source, services.ids, services.events)
    return DocumentMessage.model_validate(row)


async def _row(document_id: str, caller: Caller, services: Services) -> dict[str, Any] | None:
    return await services.ledger.document(services.spec.index_id, document_id, access_of(caller))


async def _require_no_hold(document_id: str, row: dict[str, Any], caller: Caller, services: Services) -> None:
    scopes = services.ids.scopes(caller.tenant, row["source"], row["uri"], document_id)
    if found := await services.ledger.holds(caller.tenant, scopes=scopes, limit=1):
        raise Conflict(found[0].refusal)


def _named(document_id: str, row: dict[str, Any], caller: Caller) -> Located:
    """Return the document, which may be an upload that is not indexed yet, as the one that an erasure means."""
    record = DocumentRecord(document_id, tenant=caller.tenant, source=row["source"], uri=row["uri"])
    return Located(Target(document_id), (record,), {document_id: NAMED}, counts={"documents": 1})


def _absent(document_id: str) -> dict[str, Any]:
    """Raise the same error for a document that does not exist and for one that the caller may not see."""
    raise HTTPException(404, f"there is no document {document_id} that you may see")


@dataclass(frozen=True, slots=True)
class _Noted:
    """An accepted upload, remembered until the ledger has it. ``revision`` is the ledger's before the upload, or 0."""

    uri: str
    source: str
    content_hash: str
    revision: int


async def _known(document_id: str, caller: Caller, services: Services) -> dict[str, Any] | None:
    """Return a document as the ledger has it, with the status ``pending`` while an upload of the caller awaits indexing, and
    ``suppressed`` when it was refused because it is about an erased person."""
    row = await _row(document_id, caller, services)
    noted = await _noted(document_id, caller, services)
    if noted is None:
        return row
    if row is None and await services.ledger.suppressed(caller.tenant, [document_id]):
        return None
    if row is None:
        record = (await services.ledger.recorded(services.spec.index_id, [document_id]))[document_id]
        is_refused = record.status is DocumentStatus.SUPPRESSED and record.content_hash == noted.content_hash
        status = "suppressed" if is_refused else "pending"
        return {"document_id": document_id, "status": status, "uri": noted.uri, "source": noted.source}
    is_older = row["revision"] == noted.revision and row["content_hash"] != noted.content_hash
    return row | {"status": "pending"} if is_older else row


async def _note(document_id: str, noted: _Noted | None, caller: Caller, services: Services) -> None:
    """Remember an accepted upload, or forget it when ``noted`` is None."""
    try:
        value = json.dumps(asdict(noted)).encode() if noted else b""
        await services.cache.put(
            _note_key(document_id, caller, services), value, ttl=PENDING_SECONDS, documents=[document_id]
        )
    except Unavailable as error:  # its status is unknown until it is indexed, and nothing else is lost
        logger(__name__).warning("pending_not_noted", why=str(error))


async def _noted(document_id: str, caller: Caller, services: Services) -> _Noted | None:
    try:
        value = await services.cache.get(_note_key(document_id, caller, services))
    except Unavailable:
        return None
    return _Noted(**json.loads(value)) if value else None


def _note_key(document_id: str, caller: Caller, services: Services) -> str:
    return services.ids.query_id(caller.tenant, "upload", uploads.owner_of(caller, services), document_id)
