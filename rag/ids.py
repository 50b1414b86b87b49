"""All ids and hashes. No other module hashes or creates UUIDs.

Ids are keyed: HMAC-SHA256 with one secret per tenant, derived from one master secret. Therefore an id in a log or a topic
cannot confirm a guess of a file name, an e-mail address or a sentence.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import re
import secrets
import time
import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from urllib.parse import quote, unquote

from rag.errors import Rejected
from rag.identifiers import canonical, spellings

_SCHEME = re.compile(r"^([a-z][a-z0-9+.-]*)://([^/]*)/?(.*)$", re.DOTALL)
MAX_FOLDERS = 32  # above an object that a rule may name, because each object's points carry them
_MAX_URI = 4096  # S3 keys are at most 1024 bytes; percent-encoding makes them three times longer


def canonical_uri(uri: str) -> str:
    """Return the only spelling of an object's URI: a lower-case scheme, and percent-encoding only where needed.

    Differences that distinguish objects at their source are kept: slashes (``a//b`` is not ``a/b``) and Unicode forms (NFC
    is not NFD). Raises Rejected for a URI that is not absolute, is too long, or has ``.`` or ``..`` segments.
    """
    match = _SCHEME.match(uri[:6].lower() + uri[6:])
    if not match or not match[2] or not match[3]:
        raise Rejected(f"uri {uri[:80]!r} is not of the form scheme://container/path", reason="bad_uri")
    scheme, container, path = match[1], match[2], unquote(match[3])
    if any(segment in {".", ".."} for segment in path.split("/")) or "\x00" in path:
        raise Rejected(f"uri {uri[:80]!r} has a '.', '..' or NUL segment: name the object itself", reason="bad_uri")
    canonical = f"{scheme}://{container}/{quote(path, safe='/~!$&()*+,;=:@')}"
    if len(canonical) > _MAX_URI:
        raise Rejected(f"the uri has {len(canonical)} characters, at most {_MAX_URI} are allowed", reason="bad_uri")
    return canonical


def object_uri(container_uri: str, key: str) -> str:
    """Return the canonical URI of the raw (not encoded) ``key`` in ``scheme://container[/prefix]``."""
    return canonical_uri(f"{container_uri.rstrip('/')}/{quote(key, safe='/')}")


def object_key(uri: str) -> tuple[str, str]:
    """Split a canonical URI into ``(scheme://container, raw key)``."""
    match = _SCHEME.match(uri)
    if not match:
        raise Rejected(f"uri {uri[:80]!r} is not of the form scheme://container/path", reason="bad_uri")
    return f"{match[1]}://{match[2]}", unquote(match[3])


def ancestors(uri: str) -> tuple[str, ...]:
    """Return the folders above an object, outermost first, of the form ``scheme://container/a/b/``: at most ``MAX_FOLDERS``."""
    start = uri.find("://") + 3
    slashes = [at for at, letter in enumerate(uri) if letter == "/" and at > start]
    return tuple(uri[: at + 1] for at in slashes[:MAX_FOLDERS])


@dataclass(frozen=True)
class Ids:
    """Keyed ids of one deployment. ``secret`` has at least 16 bytes. If it is lost, no id can be computed again."""

    secret: bytes = field(repr=False)

    def __post_init__(self) -> None:
        if len(self.secret) < 16:
            raise ValueError(f"the identity secret has {len(self.secret)} bytes, at least 16 are needed")

    def _mac(self, tenant: str, kind: str, *parts: str) -> bytes:
        return hmac.digest(self._tenant_key(tenant), _message(kind, *parts), "sha256")

    def _tenant_key(self, tenant: str) -> bytes:
        return hmac.digest(self.secret, b"tenant\x00" + tenant.encode(), "sha256")

    def document_id(self, tenant: str, source: str, uri: str) -> str:
        return str(uuid.UUID(bytes=self._mac(tenant, "document", source, canonical_uri(uri))[:16]))

    def scopes(self, tenant: str, source: str, uri: str, document_id: str) -> tuple[str, ...]:
        """Return the scopes of a document that an access rule may name: its source, each folder above it, and the document itself."""
        folders = ("", *ancestors(uri))
        return (*(self.scope(tenant, source, folder) for folder in folders), document_id)

    def scope(self, tenant: str, source: str, uri_prefix: str = "") -> str:
        """Return the scope of a folder of a source, or of the whole source. Points carry it, so it does not show the folder's name."""
        return self._mac(tenant, "scope", source, uri_prefix).hex()[:24]

    def rule_id(self, tenant: str, scope: str, principal: str) -> str:
        return str(uuid.UUID(bytes=self._mac(tenant, "rule", scope, principal)[:16]))

    def chunk_ids(self, tenant: str, document_id: str, inputs: Sequence[str]) -> list[str]:
        """Return the ids of a document's chunks from the inputs of the encoders. Each repetition of an input gets another id."""
        occurrences: dict[str, int] = {}
        ids = []
        for text in inputs:
            occurrence = occurrences[text] = occurrences.get(text, -1) + 1
            mac = self._mac(tenant, "chunk", document_id, text, str(occurrence))
            ids.append(str(uuid.UUID(bytes=mac[:16])))
        return ids

    def embedding_key(self, tenant: str, text: str) -> bytes:
        """Return the key of a text in the embedding cache (32 bytes)."""
        return self._mac(tenant, "embedding", text)

    def content_hash(self, tenant: str, content: bytes) -> str:
        """Return a keyed hash of an object's bytes (hex). Equal contents have equal hashes within one tenant only."""
        key = hmac.digest(self.secret, b"content\x00" + tenant.encode(), "sha256")
        return hmac.new(key, content, hashlib.sha256).hexdigest()[:32]

    def subject_id(self, tenant: str, identifier: str) -> str:
        """Return the pseudonym of a person's exact identifier (an e-mail address, a customer number)."""
        return self._mac(tenant, "subject", canonical(identifier)).hex()[:32]

    def people_in(self, tenant: str, text: str, people: Mapping[str, int]) -> set[str]:
        """Return those of ``people`` (subject id → characters of the canonical identifier) whose identifier is in the text.

        A spelling of another length is not hashed, which would take ten times as long.
        """
        if not people:
            return set()
        wanted = {bytes.fromhex(each): each for each in people}
        lengths = set(people.values())
        key, prefix = self._tenant_key(tenant), _message("subject")
        spelled = (each for each in spellings(text) if len(each) in lengths)
        macs = (hmac.digest(key, prefix + _message(each), "sha256")[:16] for each in spelled)
        return {wanted[mac] for mac in macs if mac in wanted}

    def caller_id(self, tenant: str, subject: str) -> str:
        """Return the pseudonym of a caller, for the paths of the caller's uploads and the keys of the rate limit."""
        return self._mac(tenant, "caller", subject).hex()[:24]

    def upload_id(self, tenant: str, subject: str, file_name: str) -> str:
        """Return the pseudonym of a file name of one uploader. It distinguishes the caller's uploads."""
        return self._mac(tenant, "upload", subject, file_name).hex()[:16]

    def query_id(self, tenant: str, *parts: str) -> str:
        """Return the key of a cached answer. The key reveals nothing about the question to a reader of the cache."""
        return self._mac(tenant, "query", *parts).hex()

    def question_id(self, tenant: str, question: str) -> str:
        """Return the pseudonym of a question in the audit log. Equal questions of one tenant have equal pseudonyms."""
        return self._mac(tenant, "question", question).hex()[:32]

    def seal(self, tenant: str, fields: Mapping[str, object]) -> str:
        """Return the proof that an entry of the audit log was written with this deployment's secret."""
        return self._mac(tenant, "audit", _json(fields)).hex()[:32]


def _message(*parts: str) -> bytes:
    return b"".join(len(encoded).to_bytes(8, "big") + encoded for encoded in map(str.encode, parts))


NO_LINK = "0" * 64  # before the first entry of a chain


def link(previous: str, fields: Mapping[str, object]) -> str:
    """Return the SHA-256 (hex) of an entry of the audit log and the link before it. It needs no secret: anyone can verify a chain."""
    return hashlib.sha256(bytes.fromhex(previous) + _json(fields).encode()).hexdigest()


_json = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode


def event_id() -> str:
    """Return a new UUIDv7 for an event of the audit log."""
    return point_id()


def point_id() -> str:
    """Return a new id of a point. It is never used for a second write."""
    return _uuid7()


def erasure_id() -> str:
    return _uuid7()


def hold_id() -> str:
    return _uuid7()


def _uuid7() -> str:
    """Return a new UUIDv7 (RFC 9562): time-ordered, 74 random bits."""
    milliseconds = time.time_ns() // 1_000_000
    random = int.from_bytes(secrets.token_bytes(10), "big")
    value = (
        (milliseconds & (2**48 - 1)) << 80
        | 0x7 << 76
        | (random >> 62 & 0xFFF) << 64
        | 0b10 << 62
        | random & (2**62 - 1)
    )
    return str(uuid.UUID(int=value))


def point_time(point: str) -> datetime | None:
    """Return when ``point_id`` made the id. None for a point of an index before points were write-once."""
    value = uuid.UUID(point)
    return datetime.fromtimestamp((value.int >> 80) / 1000, UTC) if value.version == 7 else None


def fingerprint(parts: Mapping[str, object]) -> str:
    """Return sixteen hex digits that change whenever one of ``parts`` (step versions, model hash, settings) changes."""
    lines = (f"{name}={parts[name]!r}" for name in sorted(parts))
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]


def payload_hash(payload: Mapping[str, object]) -> str:
    """Hash a point's payload, independent of the order of its keys."""
    return hashlib.blake2b(_canonical(payload).encode(), digest_size=12).hexdigest()


def metadata_hash(media_type: str, labels: Mapping[str, str]) -> str:
    """Hash the metadata of an object, which may change while its bytes stay the same."""
    return hashlib.blake2b(_canonical({**labels, "": media_type}).encode(), digest_size=6).hexdigest()


def _canonical(value: object) -> str:
    if isinstance(value, Mapping):
        return "{" + ",".join(f"{k!r}:{_canonical(value[k])}" for k in sorted(value)) + "}"
    if isinstance(value, Iterable) and not isinstance(value, (str, bytes)):
        return "[" + ",".join(_canonical(item) for item in value) + "]"
    return repr(value)


def object_name(key: str) -> str:
    """Return ``key`` as one segment of an object's key: escaped, or hashed if the escaped key is over 400 characters.

    A listing skips hidden and unfinished files, so an empty name, and one that begins with ``.`` or ``~``, gets a ``%`` in front.
    """
    escaped = quote(key, safe="")
    if escaped[:1] in {"", ".", "~"}:
        escaped = f"%{escaped}"
    return escaped if len(escaped) <= 400 else hashlib.sha256(key.encode()).hexdigest()


def row_hash(body: str) -> str:
    """Hash a row as a warehouse does (``Warehouse.hashes``). The hash detects changes; it does not protect data."""
    return hashlib.md5(body.encode(), usedforsecurity=False).hexdigest()
