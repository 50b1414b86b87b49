"""The pieces of a chunk that can be quoted: a sentence, a row of a table, a record. Offsets are exact."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from rag import sentences
from rag.models import Chunk

LONGEST = 600  # characters of a quote

_PROSE = 120  # characters of a record's field from which on it is read sentence by sentence
_CELL = " | "
_LINE = re.compile(r"[^\n]*\S[^\n]*")
_FIELD = re.compile(r"\s*[\w .\[\]/()%#&-]{1,60}:(?:\s|$)")
_WORD = re.compile(r"[^\W_]+")
_STOP = frozenset(
    """
    a an and are as at be been being but by can could did do does doing for from had has have how i if in into is it
    its may me might must my of on or our shall should so such than that the their them then there these they this
    those to under was we were what when where which while who whom whose why will with would you your about any all
    not no also us am s t
    """.split()  # noqa: SIM905
)


@dataclass(frozen=True, slots=True)
class Passage:
    """``chunk.text[start:end]``. ``reads`` is how it stands in an answer: in one line, table cells with their column's name."""

    start: int
    end: int
    reads: str


def passages(chunk: Chunk) -> list[Passage]:
    """In order, without overlap, headings left out."""
    header, headings = _header(chunk), {name.casefold() for name in chunk.section}
    found = []
    for start, end in _spans(chunk.text):
        start, end = _trimmed(chunk.text, start, end)
        text = " ".join(chunk.text[start:end].split())
        if text and text.casefold() not in headings and any(character.isalnum() for character in text):
            found.append(Passage(start, end, _reads(chunk.text[start:end], header)))
    return found


def terms(text: str) -> set[str]:
    """The words that carry meaning, case and common endings folded."""
    return {_stem(word) for word in _WORD.findall(text.casefold()) if word not in _STOP}


def best(claim: str, candidates: Sequence[Passage]) -> tuple[Passage, float] | None:
    """The passage that shares most with ``claim``, and the share of the claim's terms that it has."""
    wanted = terms(claim)
    scored = [(len(wanted & (has := terms(each.reads))) / (1 + 0.02 * len(has)), each) for each in candidates]
    if not scored:
        return None
    _, chosen = max(scored, key=lambda pair: (pair[0], -pair[1].start))
    return chosen, len(wanted & terms(chosen.reads)) / max(1, len(wanted))


def _spans(text: str) -> Iterator[tuple[int, int]]:
    for block in _blocks(text):
        lines = [found.span() for found in _LINE.finditer(text, *block)]
        if len(lines) > 1 and all(_FIELD.match(text, *line) for line in lines):
            yield from _record(text, lines)
        elif any(_CELL in text[start:end] for start, end in lines):
            yield from lines
        else:
            yield from _sentences(text, *block)


def _record(text: str, lines: Sequence[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """Short fields together; a field of prose by its sentences, without its name."""
    first = last = lines[0][0]
    for start, end in lines:
        is_prose = end - start > _PROSE
        if last > first and (is_prose or end - first > LONGEST):
            yield first, last
            first = start
        if is_prose and (name := _FIELD.match(text, start, end)):
            yield from _sentences(text, name.end(), end)
            first = end
        last = end
    if last > first:
        yield first, last


def _blocks(text: str) -> Iterator[tuple[int, int]]:
    start = 0
    for gap in re.finditer(r"\n[^\S\n]*\n\s*", text):
        yield start, gap.start()
        start = gap.end()
    yield start, len(text)


def _sentences(text: str, start: int, end: int) -> Iterator[tuple[int, int]]:
    first = start
    for found in sentences.END.finditer(text, start, end):
        if found.end() < end and not sentences.is_abbreviation(text, first, found.end()):
            yield first, found.end()
            first = found.end()
    yield first, end


def _trimmed(text: str, start: int, end: int) -> tuple[int, int]:
    """Without white space around it, and cut after a word when it is too long to be quoted."""
    while start < end and text[start].isspace():
        start += 1
    if end - start > LONGEST:
        space = text.rfind(" ", start, start + LONGEST)
        end = space if space > start else start + LONGEST
    while end > start and text[end - 1].isspace():
        end -= 1
    return start, end


def _header(chunk: Chunk) -> list[str]:
    """The columns' names: the line above the text in what the embedder sees."""
    above = chunk.input[: len(chunk.input) - len(chunk.text)] if chunk.input.endswith(chunk.text) else ""
    line = above.rstrip("\n").rsplit("\n", 1)[-1]
    return [name.strip() for name in line.split(_CELL)] if _CELL in line else []


def _reads(text: str, header: Sequence[str]) -> str:
    cells = [cell.strip() for cell in text.split(_CELL)]
    if 1 < len(cells) <= len(header):
        return "; ".join(f"{name}: {cell}" if name else cell for name, cell in zip(header, cells, strict=False) if cell)
    return (
        "; ".join(" ".join(line.split()) for line in text.split("\n")) if _is_record(text) else " ".join(text.split())
    )


def _is_record(text: str) -> bool:
    lines = [line for line in text.split("\n") if line.strip()]
    return len(lines) > 1 and all(_FIELD.match(line) for line in lines)


def _stem(word: str) -> str:
    """Plural, past and progressive of English folded, roughly; words of other languages are mostly left alone."""
    if word.endswith("ies") and len(word) > 5:
        return f"{word[:-3]}y"
    if word.endswith(("sses", "xes", "ches", "shes")):
        return word[:-2]
    for ending in ("ing", "ed", "s"):
        if word.endswith(ending) and not word.endswith("ss") and len(word) - len(ending) >= 4:
            return word[: -len(ending)]
    return word
