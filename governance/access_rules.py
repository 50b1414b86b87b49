"""Grants and revokes: from an administrator's decision to a rule, and from a caller and a document to the rule that decided."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from governance.access import MAX_VALUE
from rag.errors import Rejected
from rag.ids import MAX_FOLDERS, Ids, ancestors, canonical_uri
from rag.models import AccessRule, DocumentRecord, DocumentStatus, Effect
from rag.sources import Source, Sources

KINDS = ("user:", "group:")
SHOWN = (DocumentStatus.LIVE, DocumentStatus.PARKED)


def folder_of(name: str, uri_prefix: str, *, tenant: str, sources: Sources) -> str:
    """Return the canonical prefix of a folder of the tenant's source, or "" for all of it. Raises Rejected for any other."""
    source = sources.by_name.get(name)
    if source is None or source.tenant != tenant:
        own = ", ".join(sorted(each.name for each in sources.by_name.values() if each.tenant == tenant)) or "none"
        raise Rejected(f"source {name[:80]!r} is not one of your tenant ({own})", reason="unknown_source", status=404)
    return _checked_folder(uri_prefix, source) if uri_prefix else ""


@dataclass(frozen=True, slots=True)
class Decided:
    """Whether a caller may see a document in a search, the reason as a sentence, and the rule that decided, if one did."""

    is_visible: bool
    reason: str
    rule: AccessRule | None = None


def for_document(
    record: DocumentRecord, effect: Effect, principal: str, *, ids: Ids, actor: str, reason: str
) -> AccessRule:
    """Create the rule of a document for ``principal``. Raises Rejected for a principal that is not one."""
    scope = record.document_id
    return AccessRule(
        ids.rule_id(record.tenant, scope, _checked_principal(principal)),
        record.tenant,
        scope,
        principal,
        effect,
        record.source,
        document_id=record.document_id,
        actor=actor,
        reason=reason,
    )


def for_source(
    name: str,
    uri_prefix: str,
    effect: Effect,
    principal: str,
    *,
    tenant: str,
    sources: Sources,
    ids: Ids,
    actor: str,
    reason: str,
) -> AccessRule:
    """Create the rule of the documents of a source whose uri starts with ``uri_prefix``, or of all of them.

    Raises Rejected for a source that is not one of the tenant, a prefix that is not a folder of it, and a principal that is not one.
    """
    folder = folder_of(name, uri_prefix, tenant=tenant, sources=sources)
    scope = ids.scope(tenant, name, folder)
    rule_id = ids.rule_id(tenant, scope, _checked_principal(principal))
    return AccessRule(rule_id, tenant, scope, principal, effect, name, folder, actor=actor, reason=reason)


def explain(
    record: DocumentRecord,
    principals: Sequence[str],
    rules: Sequence[AccessRule],
    *,
    is_suppressed: bool,
    source: Source | None,
) -> Decided:
    """Return the decision on a document for a caller with ``principals``, whom ``rules`` name.

    The order is that of a search: erased or not shown, revoked, named by the label or the source's settings, granted.
    """
    if is_suppressed:
        return Decided(False, "the document, or a person whom it is about, was erased")
    if record.status not in SHOWN:
        return Decided(False, f"the document is {record.status} {record.reason}".rstrip() + ": it is not in the index")
    applying = [rule for rule in rules if rule.scope in record.scopes and rule.principal in principals]
    if revoke := _closest(applying, Effect.REVOKE):
        return Decided(False, f"{_named(revoke)} is revoked for {revoke.principal}, and a revoke wins", revoke)
    if shared := sorted(set(record.principals).intersection(principals)):
        return Decided(True, f"{_origin(record, source)} {', '.join(shared)}")
    if grant := _closest(applying, Effect.GRANT):
        return Decided(True, f"{_named(grant)} is granted to {grant.principal}", grant)
    named = ", ".join(record.principals) or "nobody"
    return Decided(False, f"{_origin(record, source)} {named}, and no grant names the caller")


def _closest(rules: Sequence[AccessRule], effect: Effect) -> AccessRule | None:
    """Return the rule of the smallest scope."""
    chosen = [rule for rule in rules if rule.effect is effect]
    return max(chosen, key=lambda rule: (bool(rule.document_id), len(rule.uri_prefix), rule.rule_id), default=None)


def _named(rule: AccessRule) -> str:
    if rule.document_id:
        return f"document {rule.document_id}"
    return f"folder {rule.uri_prefix}" if rule.uri_prefix else f"source {rule.source}"


def _origin(record: DocumentRecord, source: Source | None) -> str:
    """Return the words that introduce the document's principals. A label that equals the settings is indistinguishable from them."""
    is_default = source is not None and source.access(record.uri, {}).principals == record.principals
    return "the source's settings name" if is_default else "the document's label names"


def _checked_principal(principal: str) -> str:
    kind = next((kind for kind in KINDS if principal.startswith(kind)), "")
    name = principal.removeprefix(kind)
    if not kind or not name.strip() or not principal.isprintable() or len(principal) > MAX_VALUE:
        raise Rejected(
            f"principal {principal[:80]!r} is not of the form user:NAME or group:NAME, printable, of at most {MAX_VALUE} characters",
            reason="bad_principal",
        )
    return principal


def _checked_folder(uri_prefix: str, source: Source) -> str:
    base = source.base_uri.rstrip("/") + "/"
    if uri_prefix == base:
        return ""
    folder = canonical_uri(uri_prefix)
    if not folder.endswith("/") or not folder.startswith(base):
        raise Rejected(
            f"uri_prefix {uri_prefix[:200]!r} is not a folder of source {source.name!r}: it must start with {base!r} and end with '/'",
            reason="bad_prefix",
        )
    if folder not in ancestors(folder):
        raise Rejected(
            f"uri_prefix {uri_prefix[:200]!r} has more than {MAX_FOLDERS} folders: name one of those above",
            reason="bad_prefix",
        )
    return folder
