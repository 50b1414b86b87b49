"""What a folder holds while servers write in it: they rename and remove files during the listing."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path


def below(folder: Path) -> Iterator[Path]:
    """Yield the folders and files below `folder`; one that goes away meanwhile is no error, as it is with `rglob`."""
    for parent, folders, files in os.walk(folder):
        yield from (Path(parent, name) for name in (*folders, *files))
