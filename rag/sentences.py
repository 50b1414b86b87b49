"""Sentence boundaries: one rule for the boundaries of chunks and of the passages that are quoted from them."""

from __future__ import annotations

import re

# The lookbehind matches a run of stops once, from its first: otherwise a million dots would take quadratic time.
END = re.compile(r"(?:(?<![.!?…])[.!?…]++[\"'”’»)\]]*+\s++(?=[^a-z])|[。！？]+[”’」』）]*\s*)")
_ABBREVIATED = re.compile(
    r"(?:\b(?:[A-Z]|Mr|Mrs|Ms|Dr|Prof|Inc|Ltd|Pvt|Co|Corp|No|Nr|St|vs|etc|e\.g|i\.e|z\.B|bzw|ca|approx|Fig|Art|Abs|Sec)\.)\s+$"
)
_MAX_ABBREVIATION = 16  # characters, with the space behind it


def is_abbreviation(text: str, start: int, end: int) -> bool:
    """Return whether the stop before ``end`` belongs to an abbreviation that begins at or after ``start``."""
    return _ABBREVIATED.search(text, max(start, end - _MAX_ABBREVIATION), end) is not None
