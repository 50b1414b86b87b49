"""The configured sources of documents, and the access rules for objects without labels."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache

from rag.errors import OutdatedSettings, Rejected
from rag.ids import fingerprint, object_key
from rag.labels import PRINCIPALS_LABEL, split_label
from rag.models import Access


@dataclass(frozen=True)
class Source:
    """One configured source. ``rules`` maps a key prefix to principals: the longest prefix applies, else ``principals``.

    The source alone determines the tenant. A label cannot move an object into another tenant.
    """

    name: str
    tenant: str
    base_uri: str  # scheme://container[/prefix]
    principals: tuple[str, ...]
    rules: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    mappings: Mapping[str, str] = field(
        default_factory=dict
    )  # key prefix of a table's rows → hash of the table's mapping

    def owns(self, uri: str) -> bool:
        return uri.startswith(self.base_uri.rstrip("/") + "/")

    def access(self, uri: str, labels: Mapping[str, str]) -> Access:
        """Return the access from the object's labels, else from the longest matching rule, else from the source's principals.

        A principals label without a principal grants access to no one. Raises Rejected for a label that cannot be decoded.
        """
        if PRINCIPALS_LABEL in labels:
            return Access(self.tenant, tuple(sorted(set(split_label(labels[PRINCIPALS_LABEL])))))
        return Access(self.tenant, self._unlabelled(self._key(uri)))

    def config_hash(self, uri: str) -> str:
        """Return a hash of the settings that apply to the document: tenant, source, principals, and the mapping of its table.

        A document that was recorded under another hash is due again.
        """
        key = self._key(uri)
        mapping = next((digest for prefix, digest in self.mappings.items() if key.startswith(prefix)), "")
        return _config_hash(self.tenant, self.name, self._unlabelled(key), mapping)

    @cached_property
    def digest(self) -> str:
        """Return a hash of all settings of the source. Processes with the same settings have the same hash."""
        return fingerprint(
            {
                "tenant": self.tenant,
                "source": self.name,
                "base_uri": self.base_uri,
                "principals": self.principals,
                "rules": self.rules,
                "mappings": self.mappings,
            }
        )

    def _key(self, uri: str) -> str:
        """Return the object's key within the source."""
        return object_key(uri)[1].removeprefix(object_key(self.base_uri.rstrip("/") + "/.")[1].removesuffix("."))

    def _unlabelled(self, key: str) -> tuple[str, ...]:
        """Return the principals of an object without a label of its own."""
        prefixes = sorted((p for p in self.rules if key.startswith(p)), key=len)
        chosen: Sequence[str] = self.rules[prefixes[-1]] if prefixes else self.principals
        return tuple(sorted(set(chosen)))


def require_settings(declared: Mapping[str, str], settings: Mapping[str, str]) -> None:
    """Raise OutdatedSettings when a source of ``settings`` is declared with another digest. Both are source → digest."""
    for source, digest in sorted(settings.items()):
        if declared.get(source, digest) != digest:
            raise OutdatedSettings(
                f"this process and the consumers have different settings of source {source!r}: restart the one that was started"
                " before the settings were changed"
            )


@lru_cache(maxsize=1024)  # a source has few combinations, and a listing asks for each of its documents
def _config_hash(tenant: str, source: str, principals: tuple[str, ...], mapping: str) -> str:
    return fingerprint({"tenant": tenant, "source": source, "principals": principals, "mapping": mapping})


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

    def digests(self, names: Iterable[str]) -> dict[str, str]:
        """Return name → hash of the source's settings, which is empty for a source that is not configured."""
        return {name: self.by_name[name].digest if name in self.by_name else "" for name in names}

    def contains(self, name: str, tenant: str, uri: str) -> bool:
        """Return whether the source ``name`` is configured for ``tenant`` and contains ``uri``."""
        source = self.by_name.get(name)
        return source is not None and source.tenant == tenant and source.owns(uri)

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
