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
_FEWEST_BEYOND = 20  # bytes; with fewer beyond ASCII, detection is unreliable and cp1252 is the best guess
_SAMPLE = 32_768  # bytes; detection is slow, and a longer sample does not improve it


def decode(content: bytes, *, markup: bool = False) -> str:
    """Decode by the byte order mark, else as UTF-8, else as ``markup`` declares, else by the likeliest encoding. Never fails."""
    if (encoding := marked_encoding(content)) is not None:
        return content.decode(encoding, errors="replace")
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        if len(content) - error.start < 4 and error.reason == "unexpected end of data":
            return content.decode("utf-8", errors="ignore")  # cut within its last character
    for encoding in (_declared_encoding(content) if markup else None, _likeliest_encoding(content)):
        try:
            if encoding:
                return content.decode(encoding, errors="replace")
        except (LookupError, ValueError):  # an unknown encoding, or one that does not give text (base64)
            continue
    return content.decode("cp1252", errors="replace")


def marked_encoding(content: bytes) -> str | None:
    """Return the encoding of the byte order mark, or UTF-16 when every second byte is zero, as it is for ASCII text."""
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


def _declared_encoding(content: bytes) -> str | None:
    match = _DECLARED.search(content[:2048])
    return match[1].decode("ascii") if match else None


def _likeliest_encoding(content: bytes) -> str | None:
    sample = content[:_SAMPLE]
    if sum(map(sample.count, _BEYOND)) < _FEWEST_BEYOND:
        return None
    from charset_normalizer import from_bytes

    best = from_bytes(sample).best()
    return best.encoding if best else None
