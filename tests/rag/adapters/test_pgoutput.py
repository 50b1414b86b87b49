from __future__ import annotations

import contextlib
import struct
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rag.adapters.pgoutput import Begin, Commit, Delete, Relation, RelationColumn, Toast, Truncate, Upsert, decode


def values(*texts: str | Toast | None) -> bytes:
    parts = [struct.pack(">H", len(texts))]
    for text in texts:
        if text is None or text is Toast.UNCHANGED:
            parts.append(b"u" if text else b"n")
        else:
            parts.append(b"t" + struct.pack(">I", len(text.encode())) + text.encode())
    return b"".join(parts)


RELATION = (
    b"R" + struct.pack(">I", 7) + b"public\0notes\0f" + struct.pack(">H", 2)
    + b"\1id\0" + struct.pack(">Ii", 23, -1) + b"\0note\0" + struct.pack(">Ii", 25, -1)
)  # fmt: skip


def test_each_message_of_the_protocol_is_decoded() -> None:
    oid = struct.pack(">I", 7)
    assert decode(RELATION) == Relation(
        7, "public", "notes", "f", (RelationColumn("id", 23, True), RelationColumn("note", 25, False))
    )
    assert decode(b"B" + struct.pack(">QqI", 5, 1_000_000, 9)) == Begin(datetime(2000, 1, 1, 0, 0, 1, tzinfo=UTC))
    assert decode(b"C\0" + struct.pack(">QQq", 5, 6, 0)) == Commit(6)
    assert decode(b"I" + oid + b"N" + values("1", "ü")) == Upsert(7, ("1", "ü"))
    assert decode(b"U" + oid + b"N" + values("1", Toast.UNCHANGED)) == Upsert(7, ("1", Toast.UNCHANGED))
    assert decode(b"U" + oid + b"K" + values("0", None) + b"N" + values("1", "a")) == Upsert(7, ("1", "a"), ("0", None))
    assert decode(b"U" + oid + b"O" + values("1", "b") + b"N" + values("1", "a")) == Upsert(
        7, ("1", "a"), ("1", "b"), True
    )
    assert decode(b"D" + oid + b"K" + values("1", None)) == Delete(7, ("1", None))
    assert decode(b"T" + struct.pack(">IBII", 2, 0, 7, 8)) == Truncate((7, 8))
    assert [decode(kind) for kind in (b"Y", b"O", b"M")] == [None, None, None]


@pytest.mark.parametrize("payload", [b"", b"S", b"I\0\0", RELATION[:-6], b"I\0\0\0\7Nx", b"I\0\0\0\7N\0\1b\0\0\0\0"])
def test_another_or_malformed_message_is_refused(payload: bytes) -> None:
    with pytest.raises(ValueError, match="pgoutput"):
        decode(payload)


@given(st.sampled_from(b"BCRIUDTYOMS"), st.binary(max_size=60))
def test_no_bytes_raise_another_error(kind: int, rest: bytes) -> None:
    with contextlib.suppress(ValueError):
        decode(bytes([kind]) + rest)
