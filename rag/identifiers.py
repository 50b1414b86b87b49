"""The exact identifiers of people: one spelling of each, and every spelling that a text may hold.

An erased person is known by a keyed hash alone. So a text cannot be searched for the identifier: each part of the text that could be
one is hashed and compared instead (``Ids.people_in``).
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from itertools import pairwise

MAX_LENGTH = 200  # characters of an identifier
MAX_WORDS = 8  # of any other identifier than an e-mail address, a phone number or an IBAN; an IPv6 address has eight
_MARKS = ".,;:!?()[]{}<>\"'`*|«»„“”‘’"  # of the sentence or the markup: no identifier begins or ends with one
MARKS = frozenset(_MARKS)
_PHONE_DIGITS = range(7, 21)
_IBAN_WORDS = 12  # 34 characters in groups of four are nine
_LOCAL_PART = 64  # RFC 5321

_PHONE = re.compile(r"\+?[\d\s().\-/]+")
_IBAN = re.compile(r"[a-z]{2}\d{2}[a-z\d]{11,30}")
_WORD = re.compile(r"[^\W_]+")
_BETWEEN_DIGITS = re.compile(r"[\s().\-/]{1,3}")
_DOMAIN = re.compile(r"[\w-]+(?:\.\w[\w-]*)*")
_IN_ADDRESS = re.compile(r"[\w.+%-]")


def folded(text: str) -> str:
    """Return the text in one spelling: compatible characters (NFKC), case folded, without invisible characters."""
    if text.isascii():
        return text.casefold()
    normal = unicodedata.normalize("NFKC", text).casefold()
    return "".join(each for each in normal if unicodedata.category(each) != "Cf")


def canonical(identifier: str) -> str:
    """Return the only spelling of an identifier: folded, with single blanks and no marks around it.

    A phone number is its digits, and an IBAN has no blanks. A label that declares a person does not name the kind of the identifier. So
    grouped digits of any meaning count as a phone number: ``12-345-678`` and ``1234 5678`` are the same identifier.
    """
    text = " ".join(folded(identifier).split())
    digits = "".join(each for each in text if each.isdigit())
    if len(digits) in _PHONE_DIGITS and _PHONE.fullmatch(text):
        return digits
    compact = text.replace(" ", "").replace("-", "")
    return compact if _IBAN.fullmatch(compact) else text.strip(_MARKS) or text


def spellings(text: str) -> Iterator[str]:
    """Yield, in canonical spelling, each part of the text that could be an identifier: about twenty for a word, some more than once.

    A text in which ``governance.mentions.Identifier.is_in`` finds an identifier yields that identifier. The work is linear in the
    length of the text, whatever it holds.
    """
    text = " ".join(folded(text).split())
    words = list(_WORD.finditer(text))
    yield from _runs(text, [match.span() for match in words])
    yield from _addresses(text)
    yield from _phones(text, [match.span() for match in words])
    yield from _ibans(text, words)


def _runs(text: str, spans: list[tuple[int, int]]) -> Iterator[str]:
    """Yield one to ``MAX_WORDS`` neighbouring words, with what is between them, and with the sign before and after them or without."""
    for first, (start, _) in enumerate(spans):
        starts = (
            (start, start - 1) if _is_sign(text, start - 1) and not text[start - 2 : start - 1].isalnum() else (start,)
        )
        for _, end in spans[first : first + MAX_WORDS]:
            if end - start > MAX_LENGTH:
                break
            ends = (end, end + 1) if _is_sign(text, end) and not text[end + 1 : end + 2].isalnum() else (end,)
            for begin in starts:
                for stop in ends:
                    span = text[begin:stop]
                    if "@" not in span or " " in span:  # an address may be the end of a longer one
                        yield span


def _is_sign(text: str, at: int) -> bool:
    return 0 <= at < len(text) and not text[at].isspace() and text[at] not in MARKS


def _addresses(text: str) -> Iterator[str]:
    """Yield e-mail addresses. What may be before an address is allowed in one, too: ``mailto:jane@...``."""
    at = text.find("@")
    while at >= 0:
        if domain := _DOMAIN.match(text, at + 1, at + 1 + MAX_LENGTH):
            for start in range(at - 1, max(-1, at - 1 - _LOCAL_PART), -1):
                if text[start] in "@ ":
                    break
                if _IN_ADDRESS.match(text, start) and not (start and _IN_ADDRESS.match(text, start - 1)):
                    yield text[start : domain.end()]
        at = text.find("@", at + 1)


def _phones(text: str, words: list[tuple[int, int]]) -> Iterator[str]:
    """Yield the digits of neighbouring numbers that may be the groups of one phone number."""
    group: list[str] = []
    before = None
    for start, end in words:
        number = text[start:end]
        is_number = number.isdigit()
        if group and not (is_number and before is not None and _BETWEEN_DIGITS.fullmatch(text, before, start)):
            yield from _joined(group)
            group = []
        if is_number:
            group.append(number)
        before = end
    yield from _joined(group)


def _joined(group: list[str]) -> Iterator[str]:
    for first in range(len(group)):
        digits = ""
        for number in group[first : first + _PHONE_DIGITS.stop]:
            digits += number
            if len(digits) >= _PHONE_DIGITS.stop:
                break
            if len(digits) >= _PHONE_DIGITS.start:
                yield digits


def _ibans(text: str, words: list[re.Match[str]]) -> Iterator[str]:
    for first, word in enumerate(words):
        if not re.match(r"[a-z]{2}\d{2}", word[0]):
            continue
        yield word[0]
        compact = word[0]
        for before, after in pairwise(words[first : first + _IBAN_WORDS]):
            if text[before.end() : after.start()] not in {" ", "-"} or len(compact) > 34:
                break
            compact += after[0]
            yield compact
