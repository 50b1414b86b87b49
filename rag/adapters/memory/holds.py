"""Legal holds in memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime

from rag.errors import Conflict
from rag.models import Hold


class MemoryHolds:
    """Holds of ``rag.ports``."""

    def __init__(self) -> None:
        super().__init__()
        self._holds: dict[str, Hold] = {}  # by id

    async def place(self, hold: Hold) -> Hold:
        return self._holds.setdefault(hold.hold_id, replace(hold, placed_at=datetime.now(UTC)))

    async def holds(
        self, tenant: str, *, scopes: Sequence[str] | None = None, after: str = "", limit: int = 100
    ) -> list[Hold]:
        own = (self._holds[each] for each in sorted(self._holds) if each > after and self._holds[each].tenant == tenant)
        return [hold for hold in own if scopes is None or hold.scope in scopes][:limit]

    async def lift(self, tenant: str, hold_id: str) -> Hold | None:
        hold = self._holds.get(hold_id)
        return self._holds.pop(hold_id) if hold and hold.tenant == tenant else None

    def _require_no_hold(self, tenant: str, scopes: Sequence[str]) -> None:
        for hold in self._holds.values():
            if hold.tenant == tenant and hold.scope in scopes:
                raise Conflict(hold.refusal)
