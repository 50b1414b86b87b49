"""JSON and JSON Lines: each record keeps its key path."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from rag.errors import Rejected
from rag.ingest.parsing.decoding import decode
from rag.ingest.parsing.elements import Element, assemble, one_line
from rag.ingest.parsing.sniffing import JSON, JSONL
from rag.models import BlockKind, ParsedDocument

Path = tuple[str, ...]

SHORT_OBJECT = 1_000  # characters: an object up to this length is one record
LONG_STRING = 300  # characters: a longer string, or one with line breaks, is a record of its own
_TITLES = ("title", "name", "headline", "subject")
_MAX_DEPTH = 100
_LONGEST_KEY = 100


def parse(content: bytes, name: str) -> ParsedDocument:
    text = decode(content)
    try:
        value = load(text)
    except ValueError as error:
        values = _lines(text, name, error)
        elements = (element for index, item in enumerate(values) for element in records(item, (f"[{index}]",)))
        return assemble(elements, name=name, media_type=JSONL)
    except RecursionError as error:
        raise Rejected(f"{name!r} nests too deeply for JSON: flatten it", reason="corrupt") from error
    title = (
        next((value[key] for key in _TITLES if isinstance(value.get(key), str)), "") if isinstance(value, dict) else ""
    )
    return assemble(records(value, ()), name=name, media_type=JSON, title=title)


def load(text: str) -> Any:
    """Parse JSON, but keep numbers as written: 1.50 is not 1.5, and a number of a million digits costs nothing."""
    return json.loads(text.strip("\x00\ufeff \t\r\n"), parse_int=str, parse_float=str, parse_constant=str)


def _lines(text: str, name: str, error: ValueError) -> list[Any]:
    lines = [(number, line) for number, line in enumerate(text.split("\n"), start=1) if line.strip("\x00\ufeff \t\r")]
    values = []
    for number, line in lines:
        try:
            values.append(load(line))
        except (ValueError, RecursionError) as failure:
            where = f"line {number} is not JSON" if values else str(error)
            raise Rejected(
                f"{name!r} is not well-formed JSON ({where}): export it again", reason="corrupt"
            ) from failure
    return values


def records(value: Any, path: Path) -> Iterator[Element]:
    """Yield the records of a value. A short object is one record. In a longer one, the plain members together are one record, and each
    nested or long member has its own."""
    if len(path) > _MAX_DEPTH:
        raise Rejected(
            f"JSON nests deeper than {_MAX_DEPTH} levels at {_dotted(path[:5])}...: flatten it", reason="corrupt"
        )
    if isinstance(value, dict):
        lines = list(_flat(value, "", SHORT_OBJECT))
        if sum(map(len, lines)) <= SHORT_OBJECT:
            yield _record(lines, path)
            return
        plain = [
            line for key, item in value.items() if _is_plain(item) for line in _flat({key: item}, "", SHORT_OBJECT)
        ]
        yield _record(plain, path)
        for key, item in value.items():
            if not _is_plain(item):
                yield from records(item, (*path, one_line(key)[:_LONGEST_KEY]))
    elif isinstance(value, list):
        if all(map(_is_plain, value)):
            yield _record([", ".join(map(_scalar, value))], path)
            return
        for index, item in enumerate(value):
            yield from records(item, (*path[:-1], f"{path[-1] if path else ''}[{index}]"))
    else:
        yield _record([_scalar(value)], path)


def _flat(value: Any, path: str, budget: int) -> Iterator[str]:
    """Yield lines of the form ``a.b: value``, until ``budget`` characters are spent."""
    stack = [(path, value)]
    while stack and budget >= 0:
        here, item = stack.pop()
        if isinstance(item, dict):
            stack += [(f"{here}.{key}" if here else str(key), member) for key, member in reversed(item.items())]
        elif isinstance(item, list) and not all(map(_is_plain, item)):
            stack += [(f"{here}[{index}]", member) for index, member in reversed(list(enumerate(item)))]
        else:
            text = ", ".join(map(_scalar, item)) if isinstance(item, list) else _scalar(item)
            line = f"{here}: {text}" if here else text
            budget -= len(line)
            yield line


def _is_plain(value: Any) -> bool:
    if isinstance(value, str):
        return len(value) <= LONG_STRING and "\n" not in value
    return not isinstance(value, (dict, list))


def _scalar(value: Any) -> str:
    if value is None or isinstance(value, bool):
        return "" if value is None else str(value).lower()
    return str(value)


def _record(lines: list[str], path: Path) -> Element:
    return Element(BlockKind.RECORD, "\n".join(lines), header=_dotted(path) or None, section=path)


def _dotted(path: Path) -> str:
    return ".".join(path)
