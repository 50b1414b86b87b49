"""Waits that a test skips and counts."""

from __future__ import annotations

import asyncio
import threading

import pytest


def skip_sleeps(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Let ``asyncio.sleep`` end at once, and return the list to which it adds the seconds that were asked for.

    Only in this thread: a server that other tests of the module share sleeps in its own.
    """
    seen: list[float] = []
    sleep, own = asyncio.sleep, threading.get_ident()

    async def skip(seconds: float) -> None:
        if threading.get_ident() != own:
            return await sleep(seconds)
        if seconds:
            seen.append(seconds)
        return await sleep(0)

    monkeypatch.setattr(asyncio, "sleep", skip)
    return seen
