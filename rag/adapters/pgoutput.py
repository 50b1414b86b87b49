"""Messages of PostgreSQL's output plugin ``pgoutput``, protocol version 1, whose values are texts.

Source: "Logical Replication Message Formats" in the documentation of PostgreSQL.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import Enum
from typing import Final, Literal

_EPOCH: Final = datetime(2000, 1, 1, tzinfo=UTC)  # of PostgreSQL's times, in microseconds
FULL: Final = "f"  # a replica identity of all columns


class Toast(Enum):
    """A value that the server keeps out of line and did not send, because it is unchanged."""

    UNCHANGED = "u"


Value = str | None | Literal[Toast.UNCHANGED]
Values = tuple[Value, ...]


@dataclass(frozen=True, slots=True)
class RelationColumn:
    name: str
    type_oid: int
    is_key: bool  # part of the replica identity


@dataclass(frozen=True, slots=True)
class Relation:
    """The shape of a table, for the rows that follow. It is sent before the first of them, and again after each change."""

    oid: int
    schema: str
    name: str
    identity: str
    columns: tuple[RelationColumn, ...]


@dataclass(frozen=True, slots=True)
class Begin:
    committed_at: datetime


@dataclass(frozen=True, slots=True)
class Commit:
    end: int  # position behind the transaction


@dataclass(frozen=True, slots=True)
class Upsert:
    """An inserted or updated row. ``old`` is sent when the replica identity changed, or has all columns (``is_old_full``)."""

    oid: int
    new: Values
    old: Values | None = None
    is_old_full: bool = False


@dataclass(frozen=True, slots=True)
class Delete:
    """A deleted row. Without a full replica identity, the values of the other columns are None."""

    oid: int
    old: Values


@dataclass(frozen=True, slots=True)
class Truncate:
    oids: tuple[int, ...]


Message = Relation | Begin | Commit | Upsert | Delete | Truncate


def decode(payload: bytes) -> Message | None:
    """Return the message, or None for one that changes no row (type, origin, logical message).

    Raises ValueError for another message, and for one that is cut off.
    """
    kind, reader = payload[:1], _Reader(payload, 1)
    try:
        return _decode(kind, reader)
    except (struct.error, IndexError, UnicodeDecodeError, OverflowError) as error:
        raise ValueError(f"pgoutput message {kind!r} of {len(payload)} bytes is malformed") from error


def _decode(kind: bytes, reader: _Reader) -> Message | None:
    match kind:
        case b"I":
            oid = reader.number(">I")
            reader.skip(1)  # N
            return Upsert(oid, reader.values())
        case b"U":
            return _update(reader)
        case b"D":
            oid = reader.number(">I")
            reader.skip(1)  # K or O
            return Delete(oid, reader.values())
        case b"B":
            reader.skip(8)
            return Begin(_EPOCH + timedelta(microseconds=reader.number(">q")))
        case b"C":
            reader.skip(1 + 8)
            return Commit(reader.number(">Q"))
        case b"R":
            return _relation(reader)
        case b"T":
            count = reader.number(">I")
            reader.skip(1)  # cascade, restart identity
            return Truncate(tuple(reader.number(">I") for _ in range(count)))
        case b"Y" | b"O" | b"M":
            return None
    raise ValueError(f"pgoutput message {kind!r} is not of protocol version 1")


def _update(reader: _Reader) -> Upsert:
    oid, mark = reader.number(">I"), reader.mark()
    if mark == "N":
        return Upsert(oid, reader.values())
    old = reader.values()
    reader.skip(1)  # N
    return Upsert(oid, reader.values(), old, is_old_full=mark == "O")


def _relation(reader: _Reader) -> Relation:
    oid, schema, name, identity = reader.number(">I"), reader.text(), reader.text(), reader.mark()
    columns = []
    for _ in range(reader.number(">H")):
        flags, column, type_oid = reader.number(">B"), reader.text(), reader.number(">I")
        reader.skip(4)  # type modifier
        columns.append(RelationColumn(column, type_oid, bool(flags & 1)))
    return Relation(oid, schema or "pg_catalog", name, identity, tuple(columns))


class _Reader:
    def __init__(self, data: bytes, at: int) -> None:
        self._data = data
        self._at = at

    def number(self, form: str) -> int:
        (value,) = struct.unpack_from(form, self._data, self._at)
        self._at += struct.calcsize(form)
        return int(value)

    def skip(self, size: int) -> None:
        self._at += size

    def mark(self) -> str:
        return chr(self.number(">B"))

    def text(self) -> str:
        end = self._data.index(b"\x00", self._at)
        text = self._data[self._at : end].decode()
        self._at = end + 1
        return text

    def values(self) -> Values:
        return tuple(self._value() for _ in range(self.number(">H")))

    def _value(self) -> Value:
        mark = self.mark()
        if mark == "n":
            return None
        if mark == "u":
            return Toast.UNCHANGED
        if mark != "t":
            raise ValueError(f"a pgoutput value has the format {mark!r}: only texts are requested")
        size = self.number(">I")
        text = self._data[self._at : self._at + size]
        if len(text) < size:
            raise IndexError
        self._at += size
        return text.decode()
