"""Accepted erasures in memory."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime

from rag.errors import Conflict
from rag.models import Erasure, ErasureState


class MemoryErasures:
    """The part of Erasures of ``rag.ports`` that concerns no document."""

    def __init__(self) -> None:
        super().__init__()
        self._erasures: dict[str, Erasure] = {}

    async def erasures(self, tenant: str, *, after: str = "", limit: int = 100) -> list[Erasure]:
        own = [each for key, each in sorted(self._erasures.items()) if each.tenant == tenant and key > after]
        return own[:limit]

    async def erasure(self, tenant: str, erasure_id: str) -> Erasure | None:
        found = self._erasures.get(erasure_id)
        return found if found and found.tenant == tenant else None

    async def due_erasures(self, now: datetime, *, limit: int = 10) -> list[Erasure]:
        due = [
            (each.next_at, key, each) for key, each in self._erasures.items() if each.next_at and each.next_at <= now
        ]
        return [each for *_, each in sorted(due, key=lambda entry: entry[:2])][:limit]

    async def open_deadlines(self) -> list[datetime]:
        return [each.deadline for each in self._erasures.values() if each.state is not ErasureState.CERTIFIED]

    def _progress(self, erasure: Erasure) -> Erasure:
        if self._erasures[erasure.erasure_id].revision != erasure.revision:
            raise Conflict(f"another worker went on with erasure {erasure.erasure_id}: leave it to that one")
        recorded = replace(erasure, revision=erasure.revision + 1)
        self._erasures[erasure.erasure_id] = recorded
        return recorded
