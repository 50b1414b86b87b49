"""The mapping from a row of a table to its document: key, title, text, people and principals."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from string import Formatter
from typing import Any

from rag.ids import fingerprint

COLUMN = r"^[A-Za-z_][A-Za-z0-9_$]*$"


@dataclass(frozen=True, slots=True)
class Table:
    """A mapped table. Its names are identifiers from the settings. Column names are matched without case, as in SQL."""

    name: str
    key: str | tuple[str, ...]
    changed: str
    title: str | None = None
    subjects: tuple[str, ...] = ()
    text: str | None = None  # template of the document's text, such as "{NAME} wrote: {NOTES}"
    principals: tuple[str, ...] = ()  # columns whose values are the principals that may read the document
    principals_prefix: str = ""  # put before each value, such as "group:"

    @property
    def key_columns(self) -> tuple[str, ...]:
        return (self.key,) if isinstance(self.key, str) else self.key

    @property
    def columns(self) -> tuple[str, ...]:
        """Return the columns that the mapping names, each once."""
        title = (self.title,) if self.title else ()
        text = template_columns(self.text) if self.text else ()
        return tuple(dict.fromkeys((*self.key_columns, *title, *text, *self.subjects, *self.principals)))

    @property
    def mapping(self) -> str:
        """Return a hash of the mapping from a row to its object and labels."""
        columns = self.key_columns
        parts: dict[str, object] = {
            "key": columns[0] if len(columns) == 1 else columns,
            "title": self.title,
            "subjects": self.subjects,
        }
        if self.text is not None:
            parts["text"] = self.text
        if self.principals:
            parts["principals"] = (self.principals, self.principals_prefix)
        return fingerprint(parts)

    def recorded_hash(self, digest: str) -> str:
        """Return the value to record for a row's hash. It changes with the mapping too, so that a new mapping reaches every row."""
        return f"{digest}/{self.mapping}"


def row_key(values: Sequence[str]) -> str:
    """Return the key of a row as one text. Several columns are joined by ``/``, escaped as in a JSON pointer (RFC 6901), so that
    different values never give the same key."""
    if len(values) == 1:
        return values[0]
    return "/".join(value.replace("~", "~0").replace("/", "~1") for value in values)


def row_body(columns: Mapping[str, Any]) -> str:
    """Return a row's columns as the JSON of ``rag.ports.Row``: equal rows give equal texts. A lone surrogate, which no encoding has,
    becomes a question mark. Raises ValueError for an integer of thousands of digits, and for a number that is not finite."""
    present = {name: value for name, value in columns.items() if value is not None}
    return json.dumps(present, ensure_ascii=False, sort_keys=True, allow_nan=False).encode(errors="replace").decode()


def key_values(key: str, columns: int) -> tuple[str, ...]:
    """Return the values of the ``columns`` columns that ``row_key`` made the key of."""
    if columns == 1:
        return (key,)
    return tuple(value.replace("~1", "/").replace("~0", "~") for value in key.split("/"))


def template_columns(template: str) -> tuple[str, ...]:
    """Return the columns of a template. Raises ValueError for one that is malformed, has more than column names, or has none."""
    return tuple(column for _, column in _parts(template) if column)


def render(template: str, columns: Mapping[str, Any]) -> str:
    """Return the template's text for a row. ``columns`` has case-folded names; a column that it lacks is empty."""
    return "".join(
        literal + (plain_text(columns.get(column.casefold())) if column else "") for literal, column in _parts(template)
    )


def plain_text(value: Any) -> str:
    """Return a value of JSON as text. Null is empty."""
    if value is None or isinstance(value, str):
        return value or ""
    return json.dumps(value, ensure_ascii=False)


@lru_cache(maxsize=256)
def _parts(template: str) -> tuple[tuple[str, str], ...]:
    """Return (literal, column) pairs; a literal at the end has no column."""
    try:
        parsed = list(Formatter().parse(template))
    except ValueError as error:
        raise ValueError(
            f"the text template is malformed ({error}): write {{COLUMN}}, and double a plain brace"
        ) from error
    for _, column, specification, conversion in parsed:
        if column is not None and (specification or conversion or not re.fullmatch(COLUMN, column)):
            raise ValueError(
                f"the text template has {column[:80]!r} with more than a column's name: write {{COLUMN}}, without attribute,"
                " index, conversion or format"
            )
    if not any(column for _, column, _, _ in parsed):
        raise ValueError("the text template names no column, so every row would have the same text: write {COLUMN}")
    return tuple((literal, column or "") for literal, column, _, _ in parsed)
