"""The audit log in memory, for fast tests."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from rag.errors import Unavailable
from rag.ids import NO_LINK, link
from rag.models import AuditEntry, AuditEvent, AuditHead, AuditQuery


class MemoryAuditLog:
    """AuditLog of ``rag.ports``."""

    def __init__(self) -> None:
        self.chains: dict[str, list[AuditEntry]] = defaultdict(list)
        self.heads: dict[str, AuditHead] = {}
        self._appended: set[str] = set()

    async def append_audit(self, events: Sequence[AuditEvent]) -> None:
        for event in events:
            if event.event_id in self._appended:
                continue
            self._appended.add(event.event_id)
            chain = self.chains[event.tenant]
            head = self.heads.get(event.tenant, AuditHead(0, NO_LINK))
            if chain and chain[-1].number > head.number:
                raise Unavailable(f"the audit log of tenant {event.tenant!r} has entries beyond its head: verify it")
            entry = AuditEntry(head.number + 1, head.link, link(head.link, event.fields()), event)
            chain.append(entry)
            self.heads[event.tenant] = AuditHead(entry.number, entry.link)

    async def audit_entries(
        self, tenant: str, wanted: AuditQuery, *, after: int = 0, newest_first: bool = False, limit: int = 1000
    ) -> list[AuditEntry]:
        chain = [entry for entry in self.chains[tenant] if _is_wanted(entry.event, wanted)]
        if newest_first:
            return [entry for entry in reversed(chain) if not after or entry.number < after][:limit]
        return [entry for entry in chain if entry.number > after][:limit]

    async def audit_heads(self) -> dict[str, AuditHead]:
        return {tenant: head for tenant, head in self.heads.items() if head.number}


def _is_wanted(event: AuditEvent, wanted: AuditQuery) -> bool:
    return (
        (wanted.since is None or event.at >= wanted.since)
        and (wanted.until is None or event.at < wanted.until)
        and wanted.actor in {"", event.actor}
        and (wanted.action in {"", event.action} or event.action.startswith(f"{wanted.action}."))
        and (not wanted.object or wanted.object in event.objects)
        and wanted.outcome in {"", event.outcome}
    )
