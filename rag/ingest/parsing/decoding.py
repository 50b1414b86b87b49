"""Bytes to characters."""

from __future__ import annotations

import codecs
import re

_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_DECLARED = re.compile(rb"""(?:charset|encoding)\s*=\s*["']?\s*([A-Za-z0-9_.:-]{2,40})""", re.IGNORECASE)
_BEYOND = [bytes([byte]) for byte in range(0x80, 0x100)]
_FEW = 20  # bytes beyond ASCII; fewer say nothing, and cp1252 is the best guess
_SAMPLE = 32_768  # bytes; detection is slow and says no more about a longer sample


def decode(content: bytes, *, markup: bool = False) -> str:
    """Byte order mark, else UTF-8, else what ``markup`` declares, else the likeliest encoding. Never fails."""
    if (encoding := marked(content)) is not None:
        return content.decode(encoding, errors="replace")
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        if len(content) - error.start < 4 and error.reason == "unexpected end of data":
            return content.decode("utf-8", errors="ignore")  # cut within its last character
    for encoding in (_declared(content) if markup else None, _likeliest(content)):
        try:
            if encoding:
                return content.decode(encoding, errors="replace")
        except (LookupError, ValueError):  # an encoding nobody knows, or one that is no text encoding (base64)
            continue
    return content.decode("cp1252", errors="replace")


def marked(content: bytes) -> str | None:
    """The encoding a byte order mark names, or the one betrayed by every second byte of ASCII being zero."""
    for mark, encoding in _MARKS:
        if content.startswith(mark):
            return encoding
    head = content[:256]
    if len(head) >= 8 and len(head) % 2 == 0:
        if not any(head[1::2]) and all(head[::2]):
            return "utf-16-le"
        if not any(head[::2]) and all(head[1::2]):
            return "utf-16-be"
    return None


def _declared(content: bytes) -> str | None:
    found = _DECLARED.search(content[:2048])
    return found[1].decode("ascii") if found else None


def _likeliest(content: bytes) -> str | None:
    sample = content[:_SAMPLE]
    if sum(map(sample.count, _BEYOND)) < _FEW:
        return None
    from charset_normalizer import from_bytes

    best = from_bytes(sample).best()
    return best.encoding if best else None
