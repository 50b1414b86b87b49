"""The schema files: the current schema of each topic's values, and the released versions."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

Schema = Mapping[str, Any]

FOLDER: Final = Path(__file__).parent / "avro"


def topics(folder: Path = FOLDER) -> list[str]:
    """Return the names of the topics that have a schema, sorted."""
    return sorted(path.stem for path in folder.glob("*.avsc"))


def current(topic: str, folder: Path = FOLDER) -> Schema:
    return _read(folder / f"{topic}.avsc")


def released(topic: str, folder: Path = FOLDER) -> dict[int, Schema]:
    """Return the released versions of the topic's schema by number, oldest first. They are never edited or removed."""
    numbered = {int(path.stem): path for path in (folder / "released" / topic).glob("*.avsc")}
    return {number: _read(numbered[number]) for number in sorted(numbered)}


def release(topic: str, folder: Path = FOLDER) -> int | None:
    """Record the current schema as the next released version. Return its number, or None if it is already the newest."""
    versions = released(topic, folder)
    schema = current(topic, folder)
    if versions and list(versions.values())[-1] == schema:
        return None
    number = max(versions, default=0) + 1
    path = folder / "released" / topic / f"{number}.avsc"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(schema, indent=2) + "\n")
    return number


def _read(path: Path) -> Schema:
    schema: Schema = json.loads(path.read_text())
    return schema
