"""The one way to write a file: whole or not at all."""

from __future__ import annotations

import os
import uuid
from pathlib import Path

PARTIAL = ".part"  # the suffix of a file that is still being written; a crash may leave one behind


def write_whole(path: Path, content: bytes, *, mode: int = 0o600, durable: bool = True) -> None:
    """Write `path` whole or not at all. Readers see the old content or the new, never a mixture.

    With `durable`, the content is on the disk when this returns. `mode` is subject to the umask, as for `os.open`.
    """
    temporary = path.with_name(f".{uuid.uuid4().hex}{PARTIAL}")
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
        with open(descriptor, "wb") as file:
            file.write(content)
            if durable:
                file.flush()
                os.fsync(descriptor)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    if durable:
        sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Make the names in `folder` durable: of files that were created, replaced or removed there."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
