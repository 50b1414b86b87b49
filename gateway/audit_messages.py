"""The bodies of the responses of ``/v1/audit``."""

from __future__ import annotations

from datetime import datetime
from typing import Self

from pydantic import BaseModel, ConfigDict, Field

from governance.audit_verification import Verified
from rag.models import AuditEntry


class AuditMessage(BaseModel):
    """An entry of the audit log. Its actor is a pseudonym, its objects are ids, its reason is a code."""

    number: int
    at: datetime
    actor: str
    action: str
    objects: list[str]
    outcome: str
    reason: str
    details: dict[str, str | int]
    event_id: str
    link: str

    @classmethod
    def of(cls, entry: AuditEntry) -> Self:
        fields = entry.event.fields()
        return cls.model_validate({**fields, "number": entry.number, "link": entry.link})


class AuditList(BaseModel):
    entries: list[AuditMessage]
    next: int | None = Field(description="the parameter `before` of the next page")


class FindingMessage(BaseModel):
    """A change of the log, between the entries ``first`` and ``last``."""

    model_config = ConfigDict(from_attributes=True)

    kind: str
    first: int
    last: int
    detail: str


class VerifiedMessage(BaseModel):
    """The result of a verification. Nothing outside the database holds the entries after ``anchored``."""

    model_config = ConfigDict(from_attributes=True)

    intact: bool
    first: int = Field(description="the first entry that was verified")
    entries: int = Field(description="the number of the last entry")
    link: str = Field(description="of the last entry: keep it, and a later verification of yours can compare it")
    anchored: int = Field(description="the last entry that a signed checkpoint outside the database confirms")
    anchored_at: datetime | None
    checkpoints: int
    findings: list[FindingMessage]

    @classmethod
    def of(cls, verified: Verified) -> Self:
        findings = [FindingMessage.model_validate(each) for each in verified.findings]
        return cls(
            intact=not findings,
            first=verified.first,
            entries=verified.entries,
            link=verified.link,
            anchored=verified.anchored,
            anchored_at=verified.anchored_at,
            checkpoints=verified.checkpoints,
            findings=findings,
        )
