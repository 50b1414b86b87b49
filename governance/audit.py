"""The events of the audit log: the actions that are recorded, and the rules that keep personal data out of an entry.

An entry can never be changed, so it must never hold what somebody may want erased. It holds pseudonyms of callers, ids of documents
and rules, keyed hashes and codes. After the erasure of a person, these lead nowhere, and the chain is whole.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from datetime import UTC, datetime

from rag.ids import Ids, event_id
from rag.models import AuditEvent

CREATE, READ, UPDATE, DELETE, OTHER = 1, 2, 3, 4, 99  # activities of an OCSF "API Activity"
ACTIONS = {
    "query.search": READ,
    "query.answer": READ,
    "document.upload": CREATE,
    "document.withdraw": DELETE,
    "document.erase": DELETE,
    "document.redrive": UPDATE,
    "deletions.confirm": DELETE,
    "access.grant": CREATE,
    "access.revoke": CREATE,
    "access.withdraw": DELETE,
    "erasure.locate": READ,
    "erasure.request": DELETE,
    "erasure.certify": CREATE,
    "suppression.lift": DELETE,
    "hold.set": CREATE,
    "hold.lift": DELETE,
    "index.promote": UPDATE,
    "audit.read": READ,
    "audit.export": READ,
    "audit.verify": READ,
    "request.deny": OTHER,
}
"""Action → OCSF activity. ``rag:admin`` and ``rag:erase`` actions are written before they take effect, see ``Trail.write``."""

MAX_OBJECTS = 1000  # of an entry; an erasure of more is itself an object, which has its documents
OUTCOMES = ("started", "success", "failure", "denied")
OPERATOR = "operator"  # a person at a command line of the platform, whom no token names
SYSTEM = "system"  # a worker of the platform
QUESTION = "question"  # the detail that may hold a text, if a setting says so
_ACTOR = re.compile(r"[0-9a-f]{24}|operator|system|")
_OBJECT = re.compile(r"[a-z]+:[A-Za-z0-9._:~/{}-]{1,160}")
_CODE = re.compile(r"[A-Za-z0-9._:/{}#-]{0,128}")


def event(
    action: str,
    *,
    tenant: str,
    actor: str,
    ids: Ids,
    objects: Iterable[str] = (),
    outcome: str = "success",
    reason: str = "",
    details: Mapping[str, str | int] | None = None,
) -> AuditEvent:
    """Return a sealed event of now. ``actor`` is a pseudonym (``Ids.caller_id``), an object is of the form ``kind:id``.

    Raises ValueError for an unknown action or outcome, and for a value that is not a pseudonym, an id or a code: a name, an address
    or a sentence must not get into a log that nobody can change.
    """
    if action not in ACTIONS or outcome not in OUTCOMES:
        raise ValueError(f"{action} ({outcome}) is not an action and outcome of governance/audit.py: declare it there")
    named, described = tuple(objects), dict(details or {})
    if len(named) > MAX_OBJECTS:
        named, described = named[:MAX_OBJECTS], described | {"objects": len(named)}
    made = AuditEvent(event_id(), datetime.now(UTC), tenant, actor, action, named, outcome, reason, described)
    _require_codes(made)
    return replace(made, seal=ids.seal(tenant, made.fields()))


def is_sealed(recorded: AuditEvent, ids: Ids) -> bool:
    """Return whether ``event`` made this event with the secret of ``ids``, and nobody changed it."""
    return recorded.seal == ids.seal(recorded.tenant, replace(recorded, seal="").fields())


def code(text: str) -> str:
    """Return a message of the platform as a code: its words, joined by underscores."""
    return re.sub(r"[^A-Za-z0-9.:/-]+", "_", text).strip("_")[:96]


def asked(question: str, *, tenant: str, ids: Ids, keep: str) -> dict[str, str]:
    """Return the details of a question: its keyed hash, its text or nothing (``keep``: hash, text, none)."""
    if keep == "none":
        return {}
    return {QUESTION: question if keep == "text" else ids.question_id(tenant, question)}


def _require_codes(made: AuditEvent) -> None:
    if not _ACTOR.fullmatch(made.actor):
        raise ValueError("the actor of an audit event is not a pseudonym: use Ids.caller_id")
    if wrong := [each for each in made.objects if not _OBJECT.fullmatch(each)]:
        raise ValueError(f"an object of an audit event is not of the form kind:id ({len(wrong)} of {made.action})")
    texts = [made.reason, *(str(value) for name, value in made.details.items() if name != QUESTION)]
    if not all(_CODE.fullmatch(each) for each in texts):
        raise ValueError(f"a reason or detail of {made.action} is a text: record a code")
