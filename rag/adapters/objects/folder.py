"""Folder as a container, accessed in threads. It keeps no labels, follows no links, and shows no file that is being written."""

from __future__ import annotations

import asyncio
import errno
import os
import stat
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeVar

from rag.errors import ObjectUnavailable, Rejected, Unavailable
from rag.files import write_whole
from rag.models import ObjectState, SourceObject

Result = TypeVar("Result")
MARKER = ".tidemark-source"  # identifies a root, also after a restore or a move to another disk
_MARKER_BYTES = 200
_OF_ONE_FILE = {errno.EACCES: "access_denied", errno.EPERM: "access_denied", errno.EIO: "io_error"}
_PAGE = 1000  # files that are listed per call of a thread


class Folder:
    """Files below ``root``. A watched folder is never created: an absent one is not mounted."""

    def __init__(self, root: Path, *, create: bool = False) -> None:
        self._root = Path(os.path.abspath(root))
        if create:
            self._root.mkdir(parents=True, exist_ok=True)

    async def head(self, key: str) -> ObjectState | None:
        return await self._unless_absent(lambda: _state(os.lstat(self._path(key))))

    async def get(self, key: str, limit: int | None) -> SourceObject | None:
        def read() -> SourceObject:
            with open(_open_file(self._path(key)), "rb") as file:
                state = _state(os.fstat(file.fileno()))
                if limit is not None and state.size > limit:
                    raise Rejected(
                        f"file of {state.size} bytes, at most {limit} are allowed: split it", reason="too_large"
                    )
                return SourceObject(state, file.read())

        return await self._unless_absent(read)

    async def put(self, key: str, content: bytes, media_type: str, labels: Mapping[str, str]) -> ObjectState:
        if labels:
            raise ValueError(f"a folder keeps no labels: {sorted(labels)}")

        def write() -> ObjectState:
            path = self._path(key)
            self._require_root()
            path.parent.mkdir(parents=True, exist_ok=True)
            # The umask limits the mode further. A mounted folder has several readers.
            write_whole(path, content, mode=0o666, durable=False)
            return _state(os.lstat(path))

        return await self._call(write)

    async def delete(self, keys: Sequence[str]) -> None:
        def remove() -> None:
            for key in keys:
                path = self._path(key)
                path.unlink(missing_ok=True)
                self._prune(path.parent)

        await self._call(remove)

    async def erase(self, keys: Sequence[str]) -> None:
        """Delete the files. A folder has no versions; what its file system keeps (snapshots, free blocks) is not in reach."""
        await self.delete(keys)

    async def kept(self, keys: Sequence[str]) -> set[str]:
        return await self._call(lambda: {key for key in keys if os.path.lexists(self._path(key))})

    async def list(self, prefix: str) -> AsyncIterator[tuple[str, ObjectState]]:
        await self._call(self._require_root)
        files = self._walk(prefix)
        while page := await self._call(lambda: [entry for entry, _ in zip(files, range(_PAGE), strict=False)]):
            for entry in page:
                yield entry

    async def identity(self) -> dict[str, str]:
        """Return the root's inode, which a mount point that lost its file system does not share, and the text of the marker file."""

        def look() -> dict[str, str]:
            self._require_root()
            marks = {"inode": f"{os.stat(self._root).st_ino:x}"}
            try:
                with open(_open_file(self._root / MARKER), "rb") as file:
                    return marks | {"marker": file.read(_MARKER_BYTES).decode(errors="replace").strip()}
            except FileNotFoundError:
                return marks

        return await self._call(look)

    def _walk(self, prefix: str) -> Iterator[tuple[str, ObjectState]]:
        for folder, _, names in os.walk(self._root / prefix):
            for name in names:
                path = Path(folder, name)
                key = path.relative_to(self._root).as_posix()
                try:
                    key.encode()
                    yield key, _state(os.lstat(path))
                except (FileNotFoundError, UnicodeEncodeError, Rejected):
                    continue  # deleted meanwhile, a name that is not text, or a link

    def _path(self, key: str) -> Path:
        """Return the path of a key. Raises Rejected when the key, or a link in its path, leads out of the root."""
        path = self._root / key
        if "\x00" in key or not path.parent.resolve().is_relative_to(self._root.resolve()):
            raise Rejected(f"key {key[:80]!r} leads out of its folder", reason="foreign_uri")
        return path

    def _require_root(self) -> None:
        if not self._root.is_dir():
            raise Unavailable(f"folder {self._root.name!r} is gone: mount or create it")

    def _prune(self, folder: Path) -> None:
        """Delete empty folders upwards, as far as the root."""
        while folder != self._root and folder.is_relative_to(self._root):
            try:
                folder.rmdir()
            except OSError:
                return
            folder = folder.parent

    async def _unless_absent(self, work: Callable[[], Result]) -> Result | None:
        def confirmed() -> Result | None:
            try:
                return work()
            except (FileNotFoundError, NotADirectoryError):
                self._require_root()
                return None
            except OSError as error:
                reason = _OF_ONE_FILE.get(error.errno or 0)
                if reason is None:
                    raise
                with os.scandir(self._root):  # raises when the folder itself is at fault
                    raise ObjectUnavailable(
                        f"folder {self._root.name!r} refuses a file ({type(error).__name__}): check the file's rights",
                        reason=reason,
                    ) from error

        return await self._call(confirmed)

    async def _call(self, work: Callable[[], Result]) -> Result:
        try:
            return await asyncio.to_thread(work)
        except OSError as error:
            raise Unavailable(
                f"folder {self._root.name!r} refuses or fails ({type(error).__name__}): check its rights"
            ) from error


def _open_file(path: Path) -> int:
    """Return a descriptor of the file itself. Raises Rejected for a link. Opening a pipe does not wait for its writer."""
    try:
        return os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise Rejected("a link is not a document: put the file itself in its place", reason="not_a_file") from None
        raise


def _state(status: os.stat_result) -> ObjectState:
    if not stat.S_ISREG(status.st_mode):
        raise Rejected("not a regular file: links and devices are not documents", reason="not_a_file")
    change_token = f"{status.st_ino:x}-{status.st_size:x}-{status.st_mtime_ns:x}"
    return ObjectState("", change_token, status.st_size, datetime.fromtimestamp(status.st_mtime, UTC), change_token)
