"""Exact mentions of a person's identifier in a text, whatever the spelling: case, Unicode form, blanks and separators."""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from functools import cached_property

from rag.errors import Rejected

EXACT = ("email", "phone", "iban", "id", "custom")
INEXACT = ("name",)  # another person may have the same
_SEPARATED = {
    "phone": r"[\s().\-/]{0,3}",
    "iban": r"[\s\-]?",
}  # between the characters of a kind that people write in groups
_EDGES = {"email": (r"(?<![\w.+%-])", r"(?![\w-]|\.\w)")}  # an address may be the end of a longer one
MIN_LENGTH = {"phone": 7, "iban": 15, "email": 5, "id": 3, "custom": 3, "name": 3}
MAX_LENGTH = 200


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


def folded(text: str) -> str:
    """Return the text in one spelling: compatible characters (NFKC), case folded, without invisible characters."""
    if text.isascii():
        return text.casefold()
    normal = unicodedata.normalize("NFKC", text).casefold()
    return "".join(each for each in normal if unicodedata.category(each) != "Cf")
