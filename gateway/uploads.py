"""Uploads: each file becomes an object of the tenant's ``uploads`` source, announced like any other.

The uploader and the file name identify an upload, so another file of that name replaces it
(docs/decisions/0021-uploads-are-known-by-name.md).
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

from gateway.identity import Caller
from governance.access import principals_of
from rag.errors import Denied, Rejected
from rag.ids import object_key, object_uri
from rag.ingest.change_events import ObjectChange, publish_changes
from rag.labels import PRINCIPALS_LABEL, TITLE_LABEL, encode_label, join_label
from rag.sources import Source

if TYPE_CHECKING:
    from rag.wiring import Services

MAX_LABELS = 1900  # bytes, encoded: S3 holds 2 KB of metadata for an object
MAX_TITLE = 300  # characters
_UNSAFE = re.compile(r"[^\w.()+=@ -]")
_MEDIA_TYPE = re.compile(r"[A-Za-z0-9][A-Za-z0-9!#$&^_.+-]{0,60}/[A-Za-z0-9][A-Za-z0-9!#$&^_.+-]{0,60}")


def source_of(caller: Caller, services: Services) -> Source:
    """Return the uploads source of the caller's tenant. Raises Denied when there is none."""
    for configured in services.settings.configured_sources:
        if configured.kind == "uploads" and configured.tenant == caller.tenant:
            return services.sources.named(configured.name)
    raise Denied("your tenant has no source of kind uploads: its operator must add one to SOURCES")


def uri_of(name: str, caller: Caller, services: Services) -> str:
    """Return the uri of the caller's upload of this file name."""
    last = _last_part(name)
    folder = f"{owner_of(caller, services)}-{services.ids.upload_id(caller.tenant, caller.subject, last)}"
    return object_uri(source_of(caller, services).base_uri, f"{caller.tenant}/{folder}/{safe_name(last)}")


async def store(
    uri: str,
    content: bytes,
    *,
    media_type: str,
    title: str,
    principals: Sequence[str],
    caller: Caller,
    services: Services,
) -> None:
    """Store an upload, then announce it: an event never names an object that does not exist."""
    source = source_of(caller, services)
    labels = {PRINCIPALS_LABEL: join_label(_principals(principals, caller))}
    if title.strip():
        labels[TITLE_LABEL] = encode_label(_title(title))
    if sum(len(key) + len(value) for key, value in labels.items()) > MAX_LABELS:
        raise Rejected(
            f"title and principals together exceed {MAX_LABELS} bytes: shorten the title or name fewer principals",
            reason="labels_too_long",
        )
    kind = media_type.partition(";")[0].strip().lower()
    state = await services.objects.put(
        uri, content, media_type=kind if _MEDIA_TYPE.fullmatch(kind) else "", labels=labels
    )
    change = ObjectChange(uri, state.modified, "upload", version=state.version)
    await publish_changes([change], source, services.ids, services.events)


async def withdraw(document_id: str, uri: str, caller: Caller, services: Services) -> None:
    """Delete an upload at its source and announce the deletion. Raises Denied for an upload of others without rag:admin."""
    source = source_of(caller, services)
    if not (owns(uri, caller, services) or "rag:admin" in caller.scopes):
        raise Denied(f"document {document_id} was uploaded by somebody else: to withdraw it, get the scope rag:admin")
    # The uploader's request confirms the deletion, however many of the source's documents it deletes.
    await services.ledger.confirm_deletions(services.spec.index_id, source.tenant, source.name, [document_id])
    await services.objects.delete([uri])
    change = ObjectChange(uri, datetime.now(UTC), "upload", is_deletion=True)
    await publish_changes([change], source, services.ids, services.events)


def owner_of(caller: Caller, services: Services) -> str:
    """Return the caller's pseudonym."""
    return services.ids.caller_id(caller.tenant, caller.subject)


def owns(uri: str, caller: Caller, services: Services) -> bool:
    """Return whether the caller uploaded this object. The path has the uploader's pseudonym, and only this module writes there."""
    source = source_of(caller, services)
    mine = object_key(object_uri(source.base_uri, f"{caller.tenant}/{owner_of(caller, services)}-x"))[1].removesuffix(
        "x"
    )
    return source.owns(uri) and object_key(uri)[1].startswith(mine)


def safe_name(name: str) -> str:
    """Return the last part of a file name without characters special to file systems, URIs or terminals; never an empty text."""
    cleaned = _UNSAFE.sub("_", _last_part(name)).strip(" .")
    stem, dot, suffix = cleaned.rpartition(".")
    if not dot or len(suffix) > 12:
        return _short(cleaned, 100) or "document"
    return f"{_short(stem, 100 - len(suffix)) or 'document'}.{suffix}"


def _last_part(name: str) -> str:
    return PurePosixPath(unicodedata.normalize("NFC", name).replace("\\", "/")).name


def _short(text: str, limit: int) -> str:
    """Return at most ``limit`` UTF-8 bytes of ``text``, because object keys are bounded in bytes."""
    return text.encode()[:limit].decode(errors="ignore").strip(" .")


def _principals(wanted: Sequence[str], caller: Caller) -> list[str]:
    """Return the principals of an upload: some of the uploader's own, or the uploader alone when none is named."""
    own = principals_of(caller.subject, caller.groups)
    chosen = sorted({each for each in wanted if each}) or [f"user:{caller.subject}"]
    strange = [each for each in chosen if each not in own]
    if strange:
        raise Rejected(
            f"principal {strange[0][:80]!r} is not one of your own ({', '.join(own)[:300]}): share with your groups only",
            reason="foreign_principal",
            status=403,
        )
    if not all(each.isprintable() for each in chosen):
        raise Rejected("a principal of yours is unprintable: name another one of yours", reason="bad_label")
    return chosen


def _title(title: str) -> str:
    clean = " ".join(title.split())
    if not clean.isprintable() or len(clean) > MAX_TITLE:
        raise Rejected(f"title must be printable text of at most {MAX_TITLE} characters", reason="bad_title")
    return clean
