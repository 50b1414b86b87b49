"""Notices of changes in a real folder."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from rag.adapters.objects.watching import FolderWatcher
from tests.fakes.sleeping import skip_sleeps

LONG = 30.0  # seconds of a wait that must end early


async def test_a_wait_ends_with_a_change_and_also_with_one_that_came_before_it(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    watcher = FolderWatcher(tmp_path)
    first = asyncio.create_task(watcher.wait(LONG))
    await _touch_until(first, tmp_path / "deep" / "a.md")
    (tmp_path / "b.md").write_text("between two waits")
    async with asyncio.timeout(10):
        await watcher.wait(LONG)


async def test_a_wait_ends_in_time_without_a_change(tmp_path: Path) -> None:
    async with asyncio.timeout(10):
        await FolderWatcher(tmp_path).wait(0.01)


async def test_a_missing_folder_is_waited_for_and_watched_when_it_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits = skip_sleeps(monkeypatch)
    watcher = FolderWatcher(tmp_path / "mount")
    await watcher.wait(2.0)
    assert waits == [2.0]
    monkeypatch.undo()
    (tmp_path / "mount").mkdir()
    second = asyncio.create_task(watcher.wait(LONG))
    await _touch_until(second, tmp_path / "mount" / "a.md")


async def _touch_until(wait: asyncio.Task[None], file: Path) -> None:
    """Write until the wait ends: the watch begins at some moment of the wait."""
    async with asyncio.timeout(10):
        for number in range(10_000):
            file.write_text(str(number))
            done, _ = await asyncio.wait([wait], timeout=0.02)
            if done:
                return
