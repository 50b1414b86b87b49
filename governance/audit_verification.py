"""The verification of one tenant's audit log against its signed checkpoints, page by page."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from governance.audit_chain import Finding, Progress, check_checkpoints, check_end, check_page
from governance.checkpoints import Checkpoint, Checkpoints
from rag.ids import NO_LINK, Ids
from rag.models import AuditHead, AuditQuery
from rag.ports import AuditLog

PAGE = 1000  # entries
MAX_FINDINGS = 100  # a log with more is not worth a longer list
_NONE = AuditHead(0, NO_LINK)


@dataclass(frozen=True, slots=True)
class Verified:
    """The result of a verification from the entry ``first`` to ``entries``, the last one. Nothing outside the database holds the entries
    after ``anchored``."""

    first: int
    entries: int
    link: str
    anchored: int
    anchored_at: datetime | None
    checkpoints: int
    findings: tuple[Finding, ...]


async def verify_log(tenant: str, *, log: AuditLog, checkpoints: Checkpoints, ids: Ids, after: int = 0) -> Verified:
    """Verify every entry of the tenant's chain, its order and its end, and every checkpoint that does not agree with it.

    With ``after``, a long log is verified from the last genuine checkpoint at or before that entry. A checkpoint whose name agrees with
    the chain adds no doubt, so only the newest of these has its signature verified.
    """
    listed = await checkpoints.listed(tenant)
    before = (await log.audit_heads()).get(tenant, _NONE)
    start = await _start(tenant, listed, min(after, before.number), checkpoints)
    listed = [each for each in listed if each.head.number >= start.number]
    numbers, links = {each.head.number for each in listed}, {start.number: start.link}
    progress, findings = start, list[Finding]()
    while entries := await log.audit_entries(tenant, AuditQuery(), after=progress.number, limit=PAGE):
        progress, found = await asyncio.to_thread(check_page, progress, entries, ids)
        findings += found[: MAX_FINDINGS - len(findings)]
        links |= {entry.number: entry.link for entry in entries if entry.number in numbers}
    last = (await log.audit_heads()).get(tenant, _NONE)
    findings += check_end(progress, before, last)
    newest, signed, foreign = await _examined(tenant, listed, links, checkpoints)
    findings += [*check_checkpoints(links, progress.number, signed), *foreign]
    return Verified(
        first=start.number + 1,
        entries=progress.number,
        link=progress.link,
        anchored=newest.head.number if newest else 0,
        anchored_at=newest.stored_at if newest else None,
        checkpoints=len(listed),
        findings=tuple(findings[:MAX_FINDINGS]),
    )


async def _start(tenant: str, listed: Sequence[Checkpoint], after: int, checkpoints: Checkpoints) -> Progress:
    """Return the place of the last genuine checkpoint at or before the entry ``after``, or the beginning."""
    for checkpoint in reversed(listed):
        if checkpoint.head.number <= after and await checkpoints.is_genuine(tenant, checkpoint):
            return Progress(checkpoint.head.number, checkpoint.head.link)
    return Progress()


async def _examined(
    tenant: str, listed: Sequence[Checkpoint], links: dict[int, str], checkpoints: Checkpoints
) -> tuple[Checkpoint | None, list[AuditHead], list[Finding]]:
    """Return the newest genuine checkpoint that agrees with the chain, the heads that count, and a finding for each forged one.

    The heads that count are those that agree, and those that disagree with a valid signature.
    """
    newest: Checkpoint | None = None
    signed, foreign = list[AuditHead](), list[Finding]()
    for checkpoint in reversed(listed):
        agrees = links.get(checkpoint.head.number) == checkpoint.head.link
        if (agrees and newest) or await checkpoints.is_genuine(tenant, checkpoint):
            signed.append(checkpoint.head)
            newest = newest or (checkpoint if agrees else None)
        else:
            number = checkpoint.head.number
            detail = f"a checkpoint of entry {number} is not signed by a known key: it was forged, or SIGNING_PUBLIC_KEYS lacks a key"
            foreign.append(Finding("foreign_checkpoint", number, number, detail))
    return newest, signed, foreign
