"""Notice of changes in a folder, by the operating system, so that a listing follows a change within milliseconds."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

from watchfiles import awatch

STEP_MS, DEBOUNCE_MS = (
    1,
    10,
)  # a burst of writes is one notice; the defaults (50, 1600) would cost most of the freshness


class FolderWatcher:
    """A wait that ends with the next change below ``path``, also with one that came since the wait before.

    A notice is a hint. The wait ends in time without one, because a network mount sends none.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._folder: tuple[int, int] | None = None  # device and inode of the folder that the notices are of
        self._notices: AsyncGenerator[Any, None] | None = None

    async def wait(self, seconds: float) -> None:
        """Return after a change, or after ``seconds``."""
        folder = _identity(self._path)
        if folder is None:
            self._notices = None
            await asyncio.sleep(seconds)
            return
        if self._notices is None or folder != self._folder:
            self._folder, self._notices = folder, self._watch(seconds)
        await anext(self._notices)

    def _watch(self, seconds: float) -> AsyncGenerator[Any, None]:
        return awatch(
            self._path, watch_filter=None, step=STEP_MS, debounce=DEBOUNCE_MS, rust_timeout=max(1, int(1000 * seconds)),
            yield_on_timeout=True, ignore_permission_denied=True,
        )  # fmt: skip


def _identity(path: Path) -> tuple[int, int] | None:
    """Return device and inode, or None while there is no such folder. A folder that is mounted or replaced has others."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino
