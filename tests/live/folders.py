"""List a folder in which servers write: they rename and remove files during the listing."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path


def below(folder: Path) -> Iterator[Path]:
    """Yield the folders and files below ``folder``. Skip a folder that goes away meanwhile, where ``rglob`` raises FileNotFoundError."""
    for parent, folders, files in os.walk(folder):
        yield from (Path(parent, name) for name in (*folders, *files))
