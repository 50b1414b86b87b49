"""The gate out: the only constructor of an AccessFilter. Without an identity there is no filter, and without a filter no search."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from rag.errors import Denied, Rejected
from rag.models import AccessFilter

NARROW_FIELDS = ("document_id", "language", "media_type", "source")
MAX_VALUES = 100  # of one field: a caller's filter must not become a query of unbounded size
MAX_VALUE = 512  # characters


def filter_for(
    *, tenant: str, subject: str, groups: Iterable[str] = (), narrow: Mapping[str, str | Sequence[str]] | None = None
) -> AccessFilter:
    """What ``subject`` of ``tenant`` may see, narrowed by their own filters (field → accepted values).

    Raises Denied without a tenant or a subject, Rejected for a field or value that cannot narrow.
    """
    if not tenant:
        raise Denied("the token names no tenant: its issuer must add the claim that OIDC_TENANT_CLAIM names")
    return AccessFilter(tenant, principals_of(subject, groups), _narrowed(narrow or {}))


def principals_of(subject: str, groups: Iterable[str] = ()) -> tuple[str, ...]:
    """``user:<subject>`` and ``group:<group>``, sorted, without repeats. Raises Denied without a subject."""
    if not subject:
        raise Denied("the token names no subject")
    return tuple(sorted({f"user:{subject}", *(f"group:{group}" for group in groups if group)}))


def _narrowed(narrow: Mapping[str, str | Sequence[str]]) -> dict[str, tuple[str, ...]]:
    unknown = sorted(narrow.keys() - set(NARROW_FIELDS))
    if unknown:
        raise Rejected(
            f"filter {unknown[0][:80]!r} is not one of {', '.join(NARROW_FIELDS)}", reason="unknown_filter", status=400
        )
    return {name: _values(name, narrow[name]) for name in sorted(narrow)}


def _values(name: str, given: str | Sequence[str]) -> tuple[str, ...]:
    values = (given,) if isinstance(given, str) else tuple(given)
    if not 0 < len(values) <= MAX_VALUES:
        raise Rejected(f"filter {name!r} has {len(values)} values, 1 to {MAX_VALUES} are allowed", reason="bad_filter")
    for value in values:
        if not isinstance(value, str) or not 0 < len(value) <= MAX_VALUE or "\x00" in value:
            raise Rejected(f"a value of filter {name!r} is no text of 1 to {MAX_VALUE} characters", reason="bad_filter")
    return tuple(sorted(set(values)))
