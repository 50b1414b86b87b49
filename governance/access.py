"""The only constructor of an AccessFilter. A filter requires an identity, and a search requires a filter."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from rag.errors import Denied, Rejected
from rag.models import AccessFilter

NARROW_FIELDS = ("document_id", "language", "media_type", "source")
MAX_VALUES = 100  # per field, so that a caller's filter cannot become a query of unbounded size
MAX_VALUE = 512  # characters


def filter_for(
    *, tenant: str, subject: str, groups: Iterable[str] = (), narrow: Mapping[str, str | Sequence[str]] | None = None
) -> AccessFilter:
    """Create the filter for ``subject`` of ``tenant``, narrowed by the caller's own filters (field → accepted values).

    Raises Denied without a tenant or a subject, and Rejected for an unknown field or an invalid value.
    """
    if not tenant:
        raise Denied("the token does not name a tenant: its issuer must add the claim that OIDC_TENANT_CLAIM names")
    return AccessFilter(tenant, principals_of(subject, groups), _checked_filters(narrow or {}))


def principals_of(subject: str, groups: Iterable[str] = ()) -> tuple[str, ...]:
    """Return ``user:<subject>`` and each ``group:<group>``, sorted and distinct. Raises Denied without a subject."""
    if not subject:
        raise Denied("the token does not name a subject: its issuer must add the claim sub")
    return tuple(sorted({f"user:{subject}", *(f"group:{group}" for group in groups if group)}))


def _checked_filters(narrow: Mapping[str, str | Sequence[str]]) -> dict[str, tuple[str, ...]]:
    unknown = sorted(narrow.keys() - set(NARROW_FIELDS))
    if unknown:
        raise Rejected(
            f"filter {unknown[0][:80]!r} is not one of {', '.join(NARROW_FIELDS)}", reason="unknown_filter", status=400
        )
    return {name: _checked_values(name, narrow[name]) for name in sorted(narrow)}


def _checked_values(name: str, accepted: str | Sequence[str]) -> tuple[str, ...]:
    values = (accepted,) if isinstance(accepted, str) else tuple(accepted)
    if not 0 < len(values) <= MAX_VALUES:
        raise Rejected(f"filter {name!r} has {len(values)} values, 1 to {MAX_VALUES} are allowed", reason="bad_filter")
    for value in values:
        if not isinstance(value, str) or not 0 < len(value) <= MAX_VALUE or "\x00" in value:
            raise Rejected(
                f"a value of filter {name!r} is not a text of 1 to {MAX_VALUE} characters", reason="bad_filter"
            )
    return tuple(sorted(set(values)))
