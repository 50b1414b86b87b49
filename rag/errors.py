"""Four errors, each telling the door what to do. Anything else is a bug.

A message names the thing, the value and the remedy; it never carries content of a document or a secret.
"""

from __future__ import annotations

from typing import ClassVar


class TidemarkError(Exception):
    """Base of the errors with a meaning; ``status`` is the HTTP status a gateway answers with."""

    status: ClassVar[int] = 500


class Rejected(TidemarkError):
    """Bad input. The caller gets a 4xx, a document goes to the dead letters with ``reason``.

    ``reason`` is a stable code in snake_case (``encrypted``, ``too_large``, ``no_text``...), safe to log and to publish.
    """

    status = 422

    def __init__(self, message: str, *, reason: str = "invalid", status: int | None = None) -> None:
        super().__init__(message)
        self.reason = reason
        if status is not None:
            self.status = status  # type: ignore[misc]


class Denied(TidemarkError):
    """The caller is not who they must be (401) or may not do this (403)."""

    status = 403

    def __init__(self, message: str, *, status: int = 403) -> None:
        super().__init__(message)
        self.status = status  # type: ignore[misc]


class Conflict(TidemarkError):
    """The thing changed, or was erased, since it was read: read again and plan again."""

    status = 409


class Unavailable(TidemarkError):
    """A dependency does not answer, or refuses us. Never the document's fault: back off and retry."""

    status = 503

    def __init__(self, message: str, *, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class LostEvents(Unavailable):
    """The log no longer holds the offset that is due: alarm and reconcile against the sources."""
