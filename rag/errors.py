"""The errors that have a meaning. The class determines the response of an entry point; any other exception is a bug.

A message names the thing, the value and the remedy. It never contains a document's content or a secret.
"""

from __future__ import annotations

from typing import ClassVar


class TidemarkError(Exception):
    """Base class of the errors with a meaning. ``status`` is the HTTP status of the gateway's response."""

    status: ClassVar[int] = 500


class Rejected(TidemarkError):
    """Bad input. A caller gets a 4xx status; a document goes to the dead letters with ``reason``.

    ``reason`` is a stable code in snake_case (``encrypted``, ``too_large``, ``no_text``...). It is safe to log and to publish.
    """

    status = 422

    def __init__(self, message: str, *, reason: str = "invalid", status: int | None = None) -> None:
        super().__init__(message)
        self.reason = reason
        if status is not None:
            self.status = status  # type: ignore[misc]


class Denied(TidemarkError):
    """The caller is not authenticated (401) or not authorized (403)."""

    status = 403

    def __init__(self, message: str, *, status: int = 403) -> None:
        super().__init__(message)
        self.status = status  # type: ignore[misc]


class Conflict(TidemarkError):
    """A change or an erasure of the item since it was read. Read the item and plan again."""

    status = 409


class Unavailable(TidemarkError):
    """A dependency that does not answer or that refuses access. The document is never at fault: back off and retry."""

    status = 503

    def __init__(self, message: str, *, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class ObjectUnavailable(Unavailable):
    """A refusal of one object or input by a store or model that serves others. The document is parked, and its partition goes on.

    ``reason`` is a stable code in snake_case (``archived``, ``access_denied``, ``key_unavailable``, ``io_error``,
    ``embedder_refused``). A caller that cannot park documents treats it as an outage.
    """

    def __init__(self, message: str, *, reason: str) -> None:
        super().__init__(message)
        self.reason = reason


class StaleStream(Unavailable):
    """A stream of a warehouse whose offset is older than the table's retention. Only a comparison of all rows finds its changes."""


class LostIndex(Unavailable):
    """A collection that is gone or empty, or not yet rebuilt, although the ledger has chunks. A new one would hide the loss."""


class OutdatedSettings(Unavailable):
    """Settings of a source that differ from those that the consumers declared last. Restart the process with the present settings."""


class LostEvents(Unavailable):
    """Offsets that are due but no longer in the log. Raise an alarm and reconcile against the sources."""
