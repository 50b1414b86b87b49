"""The configured sources of documents, and the access rules for objects without labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from rag.errors import Rejected
from rag.ids import object_key
from rag.labels import PRINCIPALS_LABEL, split_label
from rag.models import Access


@dataclass(frozen=True, slots=True)
class Source:
    """One configured source. ``rules`` maps a key prefix to principals: the longest prefix applies, else ``principals``.

    The source alone determines the tenant. A label cannot move an object into another tenant.
    """

    name: str
    tenant: str
    base_uri: str  # scheme://container[/prefix]
    principals: tuple[str, ...]
    rules: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def owns(self, uri: str) -> bool:
        return uri.startswith(self.base_uri.rstrip("/") + "/")

    def access(self, uri: str, labels: Mapping[str, str]) -> Access:
        """Return the access from the object's labels, else from the longest matching rule, else from the source's principals.

        A principals label that names nobody grants access to nobody. Raises Rejected for a label that cannot be decoded.
        """
        if PRINCIPALS_LABEL in labels:
            return Access(self.tenant, tuple(sorted(set(split_label(labels[PRINCIPALS_LABEL])))))
        container_key = object_key(self.base_uri.rstrip("/") + "/.")[1].removesuffix(".")
        key = object_key(uri)[1].removeprefix(container_key)
        prefixes = sorted((p for p in self.rules if key.startswith(p)), key=len)
        chosen: Sequence[str] = self.rules[prefixes[-1]] if prefixes else self.principals
        return Access(self.tenant, tuple(sorted(set(chosen))))


@dataclass(frozen=True, slots=True)
class Sources:
    """The configured sources by name."""

    by_name: Mapping[str, Source]

    def named(self, name: str) -> Source:
        try:
            return self.by_name[name]
        except KeyError:
            known = ", ".join(sorted(self.by_name)) or "none"
            raise Rejected(
                f"source {name!r} is not configured (configured: {known}): add it to SOURCES", reason="unknown_source"
            ) from None

    def owner(self, name: str, tenant: str, uri: str) -> Source:
        """Return the source ``name``, if it belongs to ``tenant`` and contains ``uri``.

        Raises Rejected otherwise, so that an event cannot make a worker read anything else.
        """
        source = self.named(name)
        if source.tenant != tenant or not source.owns(uri):
            raise Rejected(
                f"uri is outside source {name!r} ({source.base_uri}) of tenant {tenant!r}", reason="foreign_uri"
            )
        return source
