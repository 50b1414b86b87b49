"""Sentence ends: one rule for the boundaries of chunks and for the passages that are quoted from them."""

from __future__ import annotations

import re

# A run of stops is matched once, from its first: a text may be a million dots.
END = re.compile(r"(?:(?<![.!?…])[.!?…]++[\"'”’»)\]]*+\s++(?=[^a-z])|[。！？]+[”’」』）]*\s*)")
_ABBREVIATED = re.compile(
    r"(?:\b(?:[A-Z]|Mr|Mrs|Ms|Dr|Prof|Inc|Ltd|Pvt|Co|Corp|No|Nr|St|vs|etc|e\.g|i\.e|z\.B|bzw|ca|approx|Fig|Art|Abs|Sec)\.)\s+$"
)
_LONGEST = 16  # characters of an abbreviation with the space behind it


def is_abbreviation(text: str, start: int, end: int) -> bool:
    """Whether the stop before ``end`` belongs to an abbreviation that begins at or after ``start``."""
    return _ABBREVIATED.search(text, max(start, end - _LONGEST), end) is not None
