"""Detection of a file's media type: from its bytes first, then from its name, then from the type that its source declares."""

from __future__ import annotations

import io
import re
import zipfile
from pathlib import PurePosixPath

from rag.errors import Rejected
from rag.ingest.parsing.decoding import marked_encoding

PDF = "application/pdf"
DOCX = "application/vnd.openxmlformats-officedocument.wordprocessingml.document"
HTML = "text/html"
MARKDOWN = "text/markdown"
CSV = "text/csv"
TSV = "text/tab-separated-values"
JSON = "application/json"
JSONL = "application/x-ndjson"
TEXT = "text/plain"
ROW = "application/vnd.tidemark.row+json"

_BY_SUFFIX = {
    ".pdf": PDF, ".docx": DOCX, ".docm": DOCX, ".html": HTML, ".htm": HTML, ".xhtml": HTML, ".md": MARKDOWN, ".markdown": MARKDOWN,
    ".csv": CSV, ".tsv": TSV, ".json": JSON, ".geojson": JSON, ".jsonl": JSONL, ".ndjson": JSONL, ".txt": TEXT, ".text": TEXT,
    ".log": TEXT, ".rst": TEXT,
}  # fmt: skip
_SAME_AS = {
    "application/xhtml+xml": HTML, "text/x-markdown": MARKDOWN, "application/jsonl": JSONL, "application/x-jsonlines": JSONL,
    "application/jsonlines": JSONL, "text/json": JSON, "application/csv": CSV,
}  # fmt: skip
SHARED = {MARKDOWN, CSV, TSV, JSON, JSONL, TEXT, ROW}  # whose parsers are memory-safe for the most part
_TEXTS = {HTML, MARKDOWN, CSV, TSV, JSON, JSONL, TEXT, ROW}
_OLE = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"
_MARKUP = re.compile(
    r"\s*(?:<\?xml[^>]*>\s*)?(?:<!--.*?-->\s*)*<(?:!doctype\s+html|html|head|body)\b", re.IGNORECASE | re.DOTALL
)
_MOST_UNPACKED = 512 * 1024 * 1024
_MOST_MEMBERS = 20_000


def may_share(content: bytes) -> bool:
    """Return whether the content may be of a media type in ``SHARED``, by its first bytes alone. This is safe outside the sandbox."""
    head = content[:1024]
    return not (b"%PDF-" in head or head.startswith((b"PK", _OLE)) or _is_marked_up(head))


def media_type_of(content: bytes, name: str, declared: str | None = None) -> str:
    """Return the media type to parse ``content`` as. Raises Rejected: empty, encrypted, corrupt, unsupported, too_large."""
    if not content.strip(b"\x00\t\n\r \xef\xbb\xbf\xff\xfe"):
        raise Rejected(
            f"{name!r} is empty ({len(content)} bytes): replace it with a file that has content", reason="empty"
        )
    suffix = PurePosixPath(name.replace("\\", "/")).suffix.lower()
    named = _BY_SUFFIX.get(suffix)
    declared = (declared or "").split(";")[0].strip().lower()
    declared = _SAME_AS.get(declared, declared)
    if b"%PDF-" in content[:1024]:
        return PDF
    if content.startswith(b"PK\x03\x04") or (content.startswith(b"PK") and zipfile.is_zipfile(io.BytesIO(content))):
        return _package(content, name, named)
    if content.startswith(_OLE):
        return _ole(content, name)
    if not _is_text(content):
        if named in {PDF, DOCX} or declared in {PDF, DOCX}:
            raise Rejected(
                f"{name!r} does not begin like a {suffix or declared} file: it is damaged, upload it again",
                reason="corrupt",
            )
        raise Rejected(
            f"{name!r} is {_kind(content)}: no parser reads it, convert it to PDF, docx, HTML or text",
            reason="unsupported",
        )
    if declared == ROW:
        return ROW
    if _is_marked_up(content[:1024]):
        return HTML
    if named in _TEXTS:
        return named
    return declared if declared in _TEXTS else TEXT


def _package(content: bytes, name: str, named: str | None) -> str:
    """Return DOCX for a zip archive that is one, and raise Rejected for any other. The archive is checked before it is unpacked."""
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            members = archive.infolist()
    except (zipfile.BadZipFile, OSError, ValueError, EOFError, NotImplementedError) as error:
        reason = "corrupt" if named == DOCX else "unsupported"
        raise Rejected(f"{name!r} is a damaged zip archive: upload it again", reason=reason) from error
    names = {member.filename for member in members}
    if not names & {"word/document.xml", "word/document2.xml"} and "[Content_Types].xml" not in names:
        if named == DOCX:
            raise Rejected(
                f"{name!r} is a zip archive without a document: it is damaged, upload it again", reason="corrupt"
            )
        raise Rejected(f"{name!r} is a zip archive: upload the files in it one by one", reason="unsupported")
    if not any(member.startswith("word/") for member in names):
        raise Rejected(
            f"{name!r} is an Office file of a kind that no parser reads: save it as PDF or docx", reason="unsupported"
        )
    unpacked = sum(member.file_size for member in members)
    if unpacked > _MOST_UNPACKED or len(members) > _MOST_MEMBERS:
        raise Rejected(
            f"{name!r} unpacks to {unpacked:,} bytes in {len(members):,} members, at most {_MOST_UNPACKED:,} in {_MOST_MEMBERS:,} are"
            " allowed: split it",
            reason="too_large",
        )
    return DOCX


def _ole(content: bytes, name: str) -> str:
    if "EncryptedPackage".encode("utf-16-le") in content:
        raise Rejected(f"{name!r} is protected by a password: save it without one", reason="encrypted")
    raise Rejected(f"{name!r} is an Office file from before 2007: save it as docx or PDF", reason="unsupported")


def _is_text(content: bytes) -> bool:
    """Return whether the content is text: few of its bytes do not occur in text. A stray NUL is allowed, and the parser drops it."""
    if marked_encoding(content) is not None:
        return True
    sample = content[:8192]
    strange = sum(sample.count(byte) for byte in (*range(8), *range(14, 27), *range(28, 32)))
    return strange * 50 <= len(sample) and not _is_known_binary(content)


def _is_known_binary(content: bytes) -> bool:
    import filetype

    media_type = filetype.guess_mime(content[:8192])
    return media_type is not None and not media_type.startswith("text/")


def _kind(content: bytes) -> str:
    import filetype

    media_type = filetype.guess_mime(content[:8192])
    return f"of type {media_type}" if media_type else "binary data of an unknown type"


def _is_marked_up(head: bytes) -> bool:
    return _MARKUP.match(head.decode("utf-8", errors="ignore").lstrip("\ufeff")) is not None
