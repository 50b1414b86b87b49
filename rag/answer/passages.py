"""The parts of a chunk that can be quoted: a sentence, a row of a table, a record. Offsets are exact."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from rag import sentences
from rag.models import CELL_SEPARATOR, Chunk

MAX_QUOTE = 600  # characters

_MIN_PROSE = 120  # characters; a longer field of a record is split into sentences
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
    """A quotable part of a chunk: ``chunk.text[start:end]``.

    ``display`` is its form in an answer: one line, with the column's name before each table cell.
    """

    start: int
    end: int
    display: str


def passages(chunk: Chunk) -> list[Passage]:
    """Return the passages of the chunk in order and without overlap. Headings are left out."""
    header, headings = _header(chunk), {name.casefold() for name in chunk.section}
    quotable = []
    for start, end in _spans(chunk.text):
        start, end = _trim(chunk.text, start, end)
        text = " ".join(chunk.text[start:end].split())
        if text and text.casefold() not in headings and any(character.isalnum() for character in text):
            quotable.append(Passage(start, end, _display(chunk.text[start:end], header)))
    return quotable


def terms(text: str) -> set[str]:
    """Return the distinct words of the text in lower case, without stop words and common endings."""
    return {_stem(word) for word in _WORD.findall(text.casefold()) if word not in _STOP}


def best_passage(claim: str, candidates: Sequence[Passage]) -> tuple[Passage, float] | None:
    """Return the passage that shares most terms with ``claim``, and the share of the claim's terms that it contains."""
    claimed = terms(claim)
    scored = [(len(claimed & (own := terms(each.display))) / (1 + 0.02 * len(own)), each) for each in candidates]
    if not scored:
        return None
    _, best = max(scored, key=lambda pair: (pair[0], -pair[1].start))
    return best, len(claimed & terms(best.display)) / max(1, len(claimed))


def _spans(text: str) -> Iterator[tuple[int, int]]:
    for block in _block_spans(text):
        lines = [line.span() for line in _LINE.finditer(text, *block)]
        if len(lines) > 1 and all(_FIELD.match(text, *line) for line in lines):
            yield from _record_spans(text, lines)
        elif any(CELL_SEPARATOR in text[start:end] for start, end in lines):
            yield from lines
        else:
            yield from _sentence_spans(text, *block)


def _record_spans(text: str, lines: Sequence[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """Yield short fields together, and each sentence of a field of prose, without the field's name."""
    first = last = lines[0][0]
    for start, end in lines:
        is_prose = end - start > _MIN_PROSE
        if last > first and (is_prose or end - first > MAX_QUOTE):
            yield first, last
            first = start
        if is_prose and (name := _FIELD.match(text, start, end)):
            yield from _sentence_spans(text, name.end(), end)
            first = end
        last = end
    if last > first:
        yield first, last


def _block_spans(text: str) -> Iterator[tuple[int, int]]:
    start = 0
    for gap in re.finditer(r"\n[^\S\n]*\n\s*", text):
        yield start, gap.start()
        start = gap.end()
    yield start, len(text)


def _sentence_spans(text: str, start: int, end: int) -> Iterator[tuple[int, int]]:
    first = start
    for stop in sentences.END.finditer(text, start, end):
        if stop.end() < end and not sentences.is_abbreviation(text, first, stop.end()):
            yield first, stop.end()
            first = stop.end()
    yield first, end


def _trim(text: str, start: int, end: int) -> tuple[int, int]:
    """Remove white space around the span, and cut a span over ``MAX_QUOTE`` after a word."""
    while start < end and text[start].isspace():
        start += 1
    if end - start > MAX_QUOTE:
        space = text.rfind(" ", start, start + MAX_QUOTE)
        end = space if space > start else start + MAX_QUOTE
    while end > start and text[end - 1].isspace():
        end -= 1
    return start, end


def _header(chunk: Chunk) -> list[str]:
    """Return the names of the columns, from the line above the text in the encoders' input."""
    above = chunk.input[: len(chunk.input) - len(chunk.text)] if chunk.input.endswith(chunk.text) else ""
    line = above.rstrip("\n").rsplit("\n", 1)[-1]
    return [name.strip() for name in line.split(CELL_SEPARATOR)] if CELL_SEPARATOR in line else []


def _display(text: str, header: Sequence[str]) -> str:
    cells = [cell.strip() for cell in text.split(CELL_SEPARATOR)]
    if 1 < len(cells) <= len(header):
        return "; ".join(f"{name}: {cell}" if name else cell for name, cell in zip(header, cells, strict=False) if cell)
    return (
        "; ".join(" ".join(line.split()) for line in text.split("\n")) if _is_record(text) else " ".join(text.split())
    )


def _is_record(text: str) -> bool:
    lines = [line for line in text.split("\n") if line.strip()]
    return len(lines) > 1 and all(_FIELD.match(line) for line in lines)


def _stem(word: str) -> str:
    """Remove the common English endings of plural, past and progressive. Words of other languages rarely change."""
    if word.endswith("ies") and len(word) > 5:
        return f"{word[:-3]}y"
    if word.endswith(("sses", "xes", "ches", "shes")):
        return word[:-2]
    for ending in ("ing", "ed", "s"):
        if word.endswith(ending) and not word.endswith("ss") and len(word) - len(ending) >= 4:
            return word[: -len(ending)]
    return word
