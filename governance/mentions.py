"""Exact mentions of a person's identifier in a text, whatever the spelling: case, Unicode form, blanks and separators."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property

from rag.errors import Rejected
from rag.identifiers import MARKS, MAX_LENGTH, MAX_WORDS, folded

EXACT = ("email", "phone", "iban", "id", "custom")
INEXACT = ("name",)  # another person may have the same
_SEPARATED = {
    "phone": r"[\s().\-/]{0,3}",
    "iban": r"[\s\-]?",
}  # between the characters of a kind that people write in groups
_EDGES = {"email": (r"(?<![\w.+%-])", r"(?![\w-]|\.\w)")}  # an address may be the end of a longer one
_FREE = ("id", "custom")  # of any form
MIN_LENGTH = {"phone": 7, "iban": 15, "email": 5, "id": 3, "custom": 3, "name": 3}


@dataclass(frozen=True)
class Identifier:
    """The identifier of a person. Raises Rejected for one that would match too much."""

    kind: str
    value: str

    def __post_init__(self) -> None:
        if self.kind not in (*EXACT, *INEXACT):
            raise Rejected(
                f"subject kind {self.kind[:40]!r} is not one of {', '.join((*EXACT, *INEXACT))}", reason="bad_subject"
            )
        if not MIN_LENGTH[self.kind] <= len(self._essence) <= MAX_LENGTH:
            raise Rejected(
                f"the {self.kind} has {len(self._essence)} characters, {MIN_LENGTH[self.kind]} to {MAX_LENGTH} are needed",
                reason="bad_subject",
            )
        if self.kind == "email" and not re.fullmatch(r"[^@\s]+@[^@\s]+", self._essence):
            raise Rejected("the email is not of the form name@domain", reason="bad_subject")
        if self.kind in _FREE:
            self._require_recognizable()

    def _require_recognizable(self) -> None:
        """Raise Rejected for an identifier that ``rag.identifiers.spellings`` would miss in a later document."""
        words = len(re.findall(r"[^\W_]+", self._essence))
        if not 1 <= words <= MAX_WORDS:
            raise Rejected(f"the {self.kind} has {words} words, 1 to {MAX_WORDS} are possible", reason="bad_subject")
        is_plain = re.fullmatch(r"[\W_]?[^\W_](.*[^\W_])?[\W_]?", self._essence, re.DOTALL)
        if not is_plain or not MARKS.isdisjoint({self._essence[0], self._essence[-1]}):
            raise Rejected(
                f"the {self.kind} begins or ends with a mark or several signs: give it without them",
                reason="bad_subject",
            )

    def is_in(self, text: str) -> bool:
        return self._pattern.search(folded(text)) is not None

    @cached_property
    def _essence(self) -> str:
        """Return the characters that must match."""
        text = folded(self.value).strip()
        if self.kind == "phone":
            return "".join(each for each in text if each.isdigit())
        return "".join(text.split()).replace("-", "") if self.kind == "iban" else text

    @cached_property
    def _pattern(self) -> re.Pattern[str]:
        between = _SEPARATED.get(self.kind, "")
        letters = [r"\s+" if each.isspace() else re.escape(each) for each in re.sub(r"\s+", " ", self._essence)]
        before, after = _EDGES.get(self.kind, (r"(?<![^\W_])", r"(?![^\W_])"))
        return re.compile(f"{before}{between.join(letters)}{after}")
