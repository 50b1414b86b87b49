"""The verification of a chain of the audit log, by pure functions: which entries were edited, forged, removed, moved or cut off.

Three things hold an entry. Its seal needs the deployment's secret, so nobody who can only write to the database makes or edits one. The
links of the chain hold its place. Signed checkpoints outside the database hold the whole chain up to their number.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from governance.audit import is_sealed
from rag.ids import NO_LINK, Ids, link
from rag.models import AuditEntry, AuditHead


@dataclass(frozen=True, slots=True)
class Finding:
    """A change of the chain, between the entries ``first`` and ``last``."""

    kind: str  # edited | forged | missing | unlinked | truncated | beyond_head | rewritten | foreign_checkpoint
    first: int
    last: int
    detail: str


@dataclass(frozen=True, slots=True)
class Progress:
    """The last entry that was verified."""

    number: int = 0
    link: str = NO_LINK


def check_page(progress: Progress, entries: Sequence[AuditEntry], ids: Ids) -> tuple[Progress, list[Finding]]:
    """Verify the next entries of a chain, in order of number."""
    findings: list[Finding] = []
    for entry in entries:
        findings += _order(progress, entry) + _content(entry, ids)
        progress = Progress(entry.number, entry.link)
    return progress, findings


def check_end(progress: Progress, before: AuditHead, after: AuditHead) -> list[Finding]:
    """Verify that the chain ends where its head says. The head was read ``before`` and ``after`` the entries."""
    if before.number > progress.number:
        return [_truncated(progress.number, before.number)]
    if after.number < progress.number:
        detail = f"the head of the log names entry {after.number}, but later ones exist: the head was moved back"
        return [Finding("beyond_head", after.number + 1, progress.number, detail)]
    if after.number == progress.number and after.link != progress.link:
        detail = "the head of the log names another link than its last entry has: one of them was replaced"
        return [Finding("unlinked", after.number, after.number, detail)]
    return []


def check_checkpoints(links: Mapping[int, str], end: int, signed: Iterable[AuditHead]) -> list[Finding]:
    """Verify that the chain has the entries that genuine checkpoints name. ``links`` has those of the checkpoints' numbers, and ``end``
    is the chain's last number. Of a chain that was rewritten, the first wrong checkpoint is reported."""
    confirmed = [head.number for head in signed if links.get(head.number) == head.link]
    wrong = sorted({head.number for head in signed if head.number <= end and links.get(head.number) != head.link})
    findings = []
    if wrong:
        first = max([number for number in confirmed if number < wrong[0]], default=0) + 1
        detail = f"a signed checkpoint names another entry {wrong[0]}: the log was rewritten at an entry from {first} to {wrong[0]}"
        findings.append(Finding("rewritten", first, wrong[0], detail))
    promised = max((head.number for head in signed), default=0)
    return [*findings, _truncated(end, promised)] if promised > end else findings


def _order(progress: Progress, entry: AuditEntry) -> list[Finding]:
    expected = progress.number + 1
    if entry.number != expected:
        detail = f"entries {expected} to {entry.number - 1} are missing: they were deleted"
        return [Finding("missing", expected, entry.number - 1, detail)]
    if entry.previous != progress.link:
        detail = (
            f"entry {entry.number} does not follow entry {progress.number}: entries were put in another order, replaced or"
            " deleted there"
        )
        return [Finding("unlinked", max(1, progress.number), entry.number, detail)]
    return []


def _content(entry: AuditEntry, ids: Ids) -> list[Finding]:
    number = entry.number
    if link(entry.previous, entry.event.fields()) != entry.link:
        return [Finding("edited", number, number, f"entry {number} has another content than its link: it was edited")]
    if not is_sealed(entry.event, ids):
        detail = f"entry {number} has no valid seal: it was edited or made outside of this platform, and linked again"
        return [Finding("forged", number, number, detail)]
    return []


def _truncated(end: int, promised: int) -> Finding:
    return Finding(
        "truncated", end + 1, promised, f"the log once had {promised} entries, and {end} are left: the rest was cut off"
    )
