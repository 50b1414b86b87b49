"""Signed checkpoints of the audit log: the number and the link of a chain's last entry, kept outside the database.

An object's name holds everything that its content says, so writing it again changes nothing, and a chain that was rewritten gets
another name. Whoever can change the database *and* delete objects here can cut off entries: keep the prefix under a retention lock.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from governance.signing import Signer, verify
from rag.errors import Rejected, Unavailable
from rag.ids import object_key, object_name
from rag.models import AuditHead
from rag.ports import AuditLog, ObjectStore
from rag.telemetry import AUDIT_ANCHORED, logger

KIND = "tidemark-audit-checkpoint"
_log = logger(__name__)
_MAX_BYTES = 4096
_NAME = re.compile(r"(\d{12})-([0-9a-f]{64})\.jws")


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A checkpoint as its object is named. ``stored_at`` is the time of the object store."""

    uri: str
    head: AuditHead
    stored_at: datetime


@dataclass(frozen=True, slots=True)
class Checkpoints:
    """The checkpoints under ``base_uri``, a folder for each tenant."""

    objects: ObjectStore
    base_uri: str
    signer: Signer

    async def write(self, tenant: str, head: AuditHead) -> None:
        """Sign and store a checkpoint, unless the object store has it."""
        uri = f"{self._folder(tenant)}/{head.number:012d}-{head.link}.jws"
        if await self.objects.head(uri) is None:
            signed = self.signer.sign({"chain": tenant, "number": head.number, "link": head.link}, kind=KIND)
            await self.objects.put(uri, signed.encode(), media_type="application/jose")

    async def listed(self, tenant: str) -> list[Checkpoint]:
        """Return the checkpoints of a chain by their names, in order of number. Signatures are not verified."""
        found = []
        async for state in self.objects.list(self._folder(tenant)):
            if match := _NAME.fullmatch(object_key(state.uri)[1].rpartition("/")[2]):
                found.append(Checkpoint(state.uri, AuditHead(int(match[1]), match[2]), state.modified))
        return sorted(found, key=lambda each: (each.head.number, each.head.link))

    async def is_genuine(self, tenant: str, checkpoint: Checkpoint) -> bool:
        """Return whether the object holds what its name says, signed by a published key."""
        stored = await self.objects.get(checkpoint.uri, limit=_MAX_BYTES)
        try:
            payload = verify(stored.content.decode(), self.signer.jwks(), kind=KIND) if stored else {}
        except (Rejected, UnicodeDecodeError):
            return False
        return payload == {"chain": tenant, "number": checkpoint.head.number, "link": checkpoint.head.link}

    def _folder(self, tenant: str) -> str:
        return f"{self.base_uri.rstrip('/')}/{object_name(tenant)}"


async def anchor(heads: Mapping[str, AuditHead], written: dict[str, AuditHead], checkpoints: Checkpoints) -> int:
    """Write a checkpoint of every chain that grew since the last one of ``written``, which is updated. Return their number."""
    grown = {tenant: head for tenant, head in heads.items() if written.get(tenant) != head}
    for tenant, head in grown.items():
        await checkpoints.write(tenant, head)
        written[tenant] = head
    return len(grown)


async def anchor_forever(log: AuditLog, checkpoints: Checkpoints, every: float) -> None:
    """Anchor the chains again and again, and a last time when it is cancelled. A failure is logged and tried again at the next turn."""
    written: dict[str, AuditHead] = {}
    try:
        while True:
            await asyncio.sleep(every)
            await _turn(log, written, checkpoints)
    finally:
        await _turn(log, written, checkpoints)


async def _turn(log: AuditLog, written: dict[str, AuditHead], checkpoints: Checkpoints) -> None:
    try:
        await anchor(await log.audit_heads(), written, checkpoints)
        AUDIT_ANCHORED.set_to_current_time()
    except Unavailable as error:
        _log.warning("audit.not_anchored", why=str(error))
    except Exception as error:
        _log.error("audit.bug", error=type(error).__name__, exc_info=error)
