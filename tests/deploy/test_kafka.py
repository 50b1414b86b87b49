from __future__ import annotations

import uuid

import pytest

from deploy.local import kafka


def test_a_cluster_id_that_looks_like_an_option_is_drawn_again(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = [uuid.UUID(bytes=bytes([first]) + bytes(15)) for first in (0xF8, 0xFB, 0x04)]
    monkeypatch.setattr(uuid, "uuid4", lambda: drawn.pop(0))
    assert kafka.cluster_id() == "BAAAAAAAAAAAAAAAAAAAAA"
    assert drawn == []
