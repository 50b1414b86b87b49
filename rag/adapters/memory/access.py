"""The access rules in memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime

from rag.models import AccessFilter, AccessRule, DocumentRecord, Effect, RuledScopes


class MemoryAccessRules:
    """AccessRules of ``rag.ports``."""

    def __init__(self) -> None:
        super().__init__()
        self._rules: dict[tuple[str, str], AccessRule] = {}  # by tenant and rule id

    async def ruled_scopes(self, access: AccessFilter) -> RuledScopes:
        return self._scopes(access)

    async def ruled(self, tenant: str, scopes: Sequence[str]) -> set[str]:
        return {rule.scope for rule in self._rules.values() if rule.tenant == tenant}.intersection(scopes)

    async def access_rules(
        self,
        tenant: str,
        *,
        source: str = "",
        principals: Sequence[str] | None = None,
        scopes: Sequence[str] | None = None,
        after: str = "",
        limit: int = 100,
    ) -> list[AccessRule]:
        own = (self._rules[key] for key in sorted(self._rules) if key[0] == tenant and key[1] > after)
        wanted = [
            rule
            for rule in own
            if source in {"", rule.source}
            and (principals is None or rule.principal in principals)
            and (scopes is None or rule.scope in scopes)
        ]
        return wanted[:limit]

    async def decide(self, rule: AccessRule) -> AccessRule:
        decided = replace(rule, decided_at=datetime.now(UTC))
        self._rules[rule.tenant, rule.rule_id] = decided
        self._count_change(rule.tenant)
        return decided

    async def withdraw(self, tenant: str, rule_id: str) -> AccessRule | None:
        rule = self._rules.pop((tenant, rule_id), None)
        if rule:
            self._count_change(tenant)
        return rule

    def _count_change(self, tenant: str) -> None:
        raise NotImplementedError("the ledger counts its revisions")

    def _scopes(self, access: AccessFilter) -> RuledScopes:
        named = [
            rule
            for rule in self._rules.values()
            if rule.tenant == access.tenant and rule.principal in access.principals
        ]
        return RuledScopes(*(tuple(sorted({r.scope for r in named if r.effect is effect})) for effect in Effect))

    def _is_granted(self, record: DocumentRecord, access: AccessFilter) -> bool:
        """Return whether the document's principals and the rules let the filter's tenant and principals see it."""
        ruled, scopes = self._scopes(access), set(record.scopes)
        is_named = not set(record.principals).isdisjoint(access.principals) or not scopes.isdisjoint(ruled.granted)
        return record.tenant == access.tenant and is_named and scopes.isdisjoint(ruled.revoked)
