"""``/v1/access``: grant, revoke, list and withdraw, and explain a decision. All of it needs the scope rag:admin."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated
from uuid import UUID

from fastapi import APIRouter, Query
from starlette.exceptions import HTTPException

from gateway.auditing import Audited
from gateway.dependencies import Administering, Backend
from gateway.identity import Caller
from gateway.messages import TEXT_PATTERN, AccessRequest, DecidedMessage, RuleList, RuleMessage
from governance.access import MAX_VALUE, principals_of
from governance.access_rules import explain, for_document, for_source
from governance.audit import code
from rag.models import AccessRule, DocumentRecord

if TYPE_CHECKING:
    from rag.wiring import Services

Name = Annotated[str, Query(max_length=MAX_VALUE, pattern=TEXT_PATTERN)]

router = APIRouter(prefix="/v1/access", tags=["access"])


@router.post("")
async def decide(request: AccessRequest, caller: Administering, services: Backend, audit: Audited) -> RuleMessage:
    """Grant or revoke. The rule replaces an earlier one for its scope and principal, and the next search obeys it."""
    rule = await _rule(request, caller, services)
    async with audit.acting(f"access.{rule.effect.value}", *_objects(rule, services)) as recorded:
        rule = await services.ledger.decide(rule)
        recorded.objects.append(f"rule:{rule.rule_id}")
    return RuleMessage.model_validate(rule)


@router.get("")
async def listed(
    caller: Administering,
    services: Backend,
    source: Name = "",
    principal: Name = "",
    document_id: UUID | None = None,
    after: UUID | None = None,
    limit: Annotated[int, Query(ge=1, le=500)] = 100,
) -> RuleList:
    """List the rules of the caller's tenant, in order of id. With ``document_id``, those that reach the document."""
    rules = await services.ledger.access_rules(
        caller.tenant,
        source=source,
        principals=[principal] if principal else None,
        scopes=(await known(document_id, caller, services)).scopes if document_id else None,
        after=str(after or ""),
        limit=limit + 1,
    )
    page = [RuleMessage.model_validate(rule) for rule in rules[:limit]]
    return RuleList(rules=page, next=page[-1].rule_id if len(rules) > limit else None)


@router.get("/why")
async def why(
    document_id: UUID,
    caller: Administering,
    services: Backend,
    user: Annotated[Name, Query(min_length=1)],
    group: Annotated[list[Name] | None, Query(max_length=100)] = None,
) -> DecidedMessage:
    """Explain whether a user with these groups sees a document in a search, and which label, setting or rule decides."""
    record = await known(document_id, caller, services)
    principals = principals_of(user, group or ())
    suppressed = await services.ledger.suppressed(caller.tenant, [record.document_id, *record.subjects])
    rules = await services.ledger.access_rules(caller.tenant, principals=principals, scopes=record.scopes, limit=10_000)
    source = services.sources.by_name.get(record.source)
    return DecidedMessage.model_validate(
        explain(record, principals, rules, is_suppressed=bool(suppressed), source=source)
    )


@router.delete("/{rule_id}")
async def withdraw(rule_id: UUID, caller: Administering, services: Backend, audit: Audited) -> RuleMessage:
    """Withdraw a rule, so that labels and other rules decide again. Return it."""
    async with audit.acting("access.withdraw", f"rule:{rule_id}") as recorded:
        rule = await services.ledger.withdraw(caller.tenant, str(rule_id))
        if rule is None:
            raise HTTPException(404, f"rule {rule_id} is not one of your tenant: list the rules for their ids")
        recorded.objects += _objects(rule, services)
    return RuleMessage.model_validate(rule)


async def _rule(request: AccessRequest, caller: Caller, services: Services) -> AccessRule:
    actor = services.ids.caller_id(caller.tenant, caller.subject)
    if request.document_id:
        record = await known(request.document_id, caller, services)
        return for_document(
            record, request.effect, request.principal, ids=services.ids, actor=actor, reason=request.reason
        )
    return for_source(
        request.source,
        request.uri_prefix,
        request.effect,
        request.principal,
        tenant=caller.tenant,
        sources=services.sources,
        ids=services.ids,
        actor=actor,
        reason=request.reason,
    )


def _objects(rule: AccessRule, services: Services) -> list[str]:
    """Return the source or the document of a rule, and its principal, for the audit log. A user is known there by the pseudonym that the
    user's own requests have, and a group by its name, if that is one of codes. The uri of a folder is in the rule alone."""
    kind, _, name = rule.principal.partition(":")
    known = name if kind == "group" and code(name) == name else services.ids.caller_id(rule.tenant, name)
    return [f"document:{rule.document_id}" if rule.document_id else f"source:{rule.source}", f"{kind}:{known}"]


async def known(document_id: UUID, caller: Caller, services: Services) -> DocumentRecord:
    """Return the record of a document of the caller's tenant, also of one that the caller may not see."""
    found = await services.ledger.recorded(services.spec.index_id, [str(document_id)])
    record = found[str(document_id)]
    if record.tenant != caller.tenant:
        raise HTTPException(404, f"document {document_id} is not one of your tenant, or it is not indexed yet")
    return record
