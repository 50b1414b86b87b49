"""The audit of requests: a route names the action and its objects; the caller, the outcome and the reason are added here."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Annotated, Any

from fastapi import Depends, FastAPI, Request
from fastapi.responses import Response
from starlette.exceptions import HTTPException

from gateway import problems
from gateway.dependencies import network_of
from gateway.identity import Caller, InvalidToken, MissingScope, NoToken
from gateway.limits import RateLimit
from governance.audit import asked, code, event
from governance.audit_trail import Trail
from rag.errors import Conflict, Denied, Rejected, Unavailable
from rag.models import AuditEvent
from rag.telemetry import AUDIT_LOST, trace_id

ANONYMOUS_LIMIT = (
    600  # entries a minute, of one process, for attempts without a valid token: a flood must not fill the log
)


@dataclass(slots=True)
class Recorded:
    """The objects and details of an entry, to which a route adds while it works."""

    objects: list[str] = field(default_factory=list)
    details: dict[str, str | int] = field(default_factory=dict)

    def add_documents(self, document_ids: Iterable[str]) -> None:
        """Add documents, each once."""
        self.objects += dict.fromkeys(f"document:{each}" for each in document_ids)


class Audit:
    """The audit of one request."""

    def __init__(self, request: Request) -> None:
        self._request = request
        self._services = request.app.state.services
        self.trail: Trail = request.app.state.trail

    @asynccontextmanager
    async def asking(self, action: str, question: str, *, streams: bool = False) -> AsyncIterator[Recorded]:
        """Record a query when it ends, with the documents that the route adds.

        With AUDIT_QUERIES=refuse, a query that cannot be recorded fails. One that ``streams`` is recorded before it starts as well,
        because its text cannot be taken back.
        """
        keep, tenant = self._services.settings.audit_questions, self._request.state.caller.tenant
        recorded = Recorded(details=dict(asked(question, tenant=tenant, ids=self._services.ids, keep=keep)))
        if streams and self.trail.strict:
            await self.trail.write(self._event(action, recorded, "started"))
        async with self._ending(action, recorded):
            yield recorded

    @asynccontextmanager
    async def recording(self, action: str, *objects: str) -> AsyncIterator[Recorded]:
        """Record an action of the scopes rag:query, rag:ingest or rag:audit when it ends, by the policy of queries."""
        async with self._ending(action, recorded := Recorded(list(objects))):
            yield recorded

    async def record(self, action: str, *objects: str) -> None:
        """Record an action of these scopes that succeeded."""
        await self.trail.record(self._event(action, Recorded(list(objects)), "success"))

    @asynccontextmanager
    async def acting(self, action: str, *objects: str, reason: str = "") -> AsyncIterator[Recorded]:
        """Write that an action of the scopes rag:admin or rag:erase starts, and record its outcome when it ends.

        Raises Unavailable before the action when its start cannot be written. ``reason`` is a code or a ticket's number, never a sentence.
        """
        recorded = Recorded(list(objects))
        await self.trail.write(self._event(action, recorded, "started", reason))
        try:
            yield recorded
        except BaseException as error:
            self._fail(action, recorded, error)
            raise
        done = self._event(action, recorded, "success", reason)
        try:
            await self.trail.write(done)
        except Unavailable:  # it is done, and its start is in the log
            self.trail.note(done)

    def deny(self, error: Denied) -> None:
        """Record a refused request (401, 403). Nothing of its token is recorded."""
        if not getattr(self._request.state, "is_recorded", False):
            recorded = Recorded(details={"why": code(str(error))})
            self.trail.note(self._event("request.deny", recorded, "denied", _reason(error)))

    @asynccontextmanager
    async def _ending(self, action: str, recorded: Recorded) -> AsyncIterator[None]:
        try:
            yield
        except BaseException as error:
            self._fail(action, recorded, error)
            raise
        await self.trail.record(self._event(action, recorded, "success"))

    def _fail(self, action: str, recorded: Recorded, error: BaseException) -> None:
        self._request.state.is_recorded = True
        outcome = "denied" if getattr(error, "status", 0) in {401, 403} else "failure"
        self.trail.note(self._event(action, recorded, outcome, _reason(error)))

    def _event(self, action: str, recorded: Recorded, outcome: str, reason: str = "") -> AuditEvent:
        request, ids = self._request, self._services.ids
        caller: Caller | None = getattr(request.state, "caller", None)
        return event(
            action,
            tenant=caller.tenant if caller and caller.tenant else self._services.settings.default_tenant,
            actor=ids.caller_id(caller.tenant, caller.subject) if caller else ids.caller_id("", network_of(request)),
            ids=ids,
            objects=recorded.objects,
            outcome=outcome,
            reason=reason,
            details={"route": _route(request), "trace": trace_id(), **recorded.details},
        )


async def _audit(request: Request) -> Audit:
    return Audit(request)


Audited = Annotated[Audit, Depends(_audit)]


def install(app: FastAPI) -> None:
    """Give the application its trail, and record every request that is refused."""
    services = app.state.services
    app.state.trail = Trail(services.ledger, strict=services.settings.audit_queries == "refuse")
    app.state.anonymous = RateLimit(ANONYMOUS_LIMIT)
    app.add_exception_handler(Denied, _denied)


async def _denied(request: Request, error: Exception) -> Response:
    assert isinstance(error, Denied)  # noqa: S101  (registered for it)
    try:
        if not hasattr(request.state, "caller"):
            await request.app.state.anonymous.check("")
        Audit(request).deny(error)
    except problems.TooMany:
        AUDIT_LOST.labels("flood").inc()
    return problems.of(error)


def _route(request: Request) -> str:
    """Return the method and the route's pattern, never the path, which a caller chooses."""
    return f"{code(request.method)}:{getattr(request.scope.get('route'), 'path', 'unmatched')}"


def _reason(error: BaseException) -> str:
    codes: dict[type[BaseException], Any] = {
        NoToken: "no_token",
        InvalidToken: "invalid_token",
        MissingScope: "missing_scope",
        Denied: "denied",
        Conflict: "conflict",
        Unavailable: "unavailable",
        Exception: "bug",
        BaseException: "disconnected",  # cancelled, or a stream that nobody reads to its end
    }
    if isinstance(error, HTTPException):
        return f"status_{error.status_code}"
    if isinstance(error, Rejected):
        return error.reason
    return str(next(reason for kind, reason in codes.items() if isinstance(error, kind)))
