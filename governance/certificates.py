"""The certificate of an erasure: a signed statement of what was erased where, how it was verified, and what could not be proven."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from importlib.metadata import version
from typing import Any

from governance.signing import Signer, verify
from rag.errors import Unavailable
from rag.models import Erasure

KIND = "tidemark-erasure+jwt"
UNPROVEN = (
    "backups of PostgreSQL, Qdrant and the object stores that were made before the erasure, until they expire: a restore must apply the"
    " suppressions before it serves",
    "copies that readers of answers, citations and documents made",
    "logs and traces, which hold ids and no text, until their retention ends",
)


class Void(Unavailable):
    """A verification whose negative control was not found. It proves nothing and is repeated."""


def certify(erasure: Erasure, *, now: datetime, checked: Mapping[str, str], signer: Signer) -> str:
    """Return the certificate as a compact JWS. ``checked`` is store → the result of its negative control."""
    return signer.sign(statement(erasure, now=now, checked=checked), kind=KIND)


def statement(erasure: Erasure, *, now: datetime, checked: Mapping[str, str]) -> dict[str, Any]:
    """Return the claims. Documents and people are pseudonyms of the tenant, so the certificate holds no personal data."""
    again = erasure.next_at.isoformat() if erasure.next_at else None
    return {
        "certificate_id": erasure.erasure_id,
        "tenant": erasure.tenant,
        "request": {
            "kind": erasure.kind,
            "mode": erasure.mode,
            "reason": erasure.reason,
            "officer": erasure.actor,
            "requested_at": erasure.requested_at.isoformat(),
            "deadline": erasure.deadline.isoformat(),
        },
        "documents": erasure.document_ids,
        "subjects": list(erasure.subject_ids),
        "affected": dict(erasure.affected),
        "hidden_since": erasure.requested_at.isoformat(),
        "verified_at": now.isoformat(),
        "verified_again_at": again,
        "stores": {
            name: {"claim": claim, "negative_control": checked.get(name, "")} for name, claim in erasure.stores.items()
        },
        "unproven": list(UNPROVEN),
        "code_version": version("tidemark"),
    }


def verified(certificate: str, jwks: Mapping[str, Any]) -> dict[str, Any]:
    """Return the claims of a certificate. Raises Rejected when no key of ``jwks`` signed it."""
    return verify(certificate, jwks, kind=KIND)
