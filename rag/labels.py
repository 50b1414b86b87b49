"""The labels of an object: user metadata at its store, in printable ASCII. This module alone encodes and decodes them.

A list is comma-separated. Within a text, every other character than ASCII letters, digits and ``_.-~:@/`` is percent-encoded, so
a name in a list stays one name and the same name. Stores keep labels as they are.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from urllib.parse import quote, unquote

from rag.errors import Rejected

PRINCIPALS_LABEL = "principals"  # list of the principals that may read the object, instead of the source's
SUBJECTS_LABEL = "subjects"  # list of identifiers of the people whom the object is about
TITLE_LABEL = "title"


def encode_label(text: str) -> str:
    return quote(text, safe=":@/")


def decode_label(label: str) -> str:
    """Return the text of a label. Raises Rejected for a text that is unprintable or is not UTF-8."""
    try:
        text = unquote(label.strip(" "), errors="strict")
    except UnicodeDecodeError:
        raise Rejected("a label is not UTF-8: write printable text, percent-encoded", reason="bad_label") from None
    if not text.isprintable():
        raise Rejected("a label is not printable: write printable text, percent-encoded", reason="bad_label")
    return text


def join_label(names: Iterable[str]) -> str:
    return ",".join(encode_label(name) for name in names if name)


def split_label(label: str) -> tuple[str, ...]:
    """Return the names of a list. Blanks around a name do not belong to it. Raises Rejected like ``decode_label``."""
    return tuple(decode_label(name) for name in label.split(",") if name.strip(" "))


def require_labels(labels: Mapping[str, str]) -> None:
    """Raise ValueError for a label that no store keeps as it is, because it is not encoded."""
    for name, value in labels.items():
        if not (value.isascii() and value.isprintable()):
            raise ValueError(f"label {name!r} is not printable ASCII: encode it with rag.labels")
