"""The local bucket's copy on disk: one record per bucket, one per key, one file per body.

Names come from clients and may be anything (`../`, NUL, a kilobyte of emoji), so paths hold only their hashes,
and the records hold the names. A body is written under a new name before the record that mentions it, and removed after the
record that no longer does; the next start removes the remains of a crash in between.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rag.files import PARTIAL, sync_folder, write_whole

Record = dict[str, Any]

QUEUES = "queues.json"


class Mirror:
    """The files of the copy. Each method returns when its effect is on the disk. Calls for one key must not run in parallel."""

    def __init__(self, root: Path) -> None:
        self.root = root / "buckets"
        self.root.mkdir(parents=True, exist_ok=True)

    def save_bucket(self, name: str, record: Record) -> None:
        for part in ("keys", "bodies"):
            (self._bucket(name) / part).mkdir(parents=True, exist_ok=True)
        sync_folder(self.root)
        write_whole(self._bucket(name) / "bucket.json", _encode(record))

    def has_bucket(self, name: str) -> bool:
        return (self._bucket(name) / "bucket.json").exists()

    def drop_bucket(self, name: str) -> None:
        directory = self._bucket(name)
        (directory / "bucket.json").unlink(missing_ok=True)  # from here on, a restart removes the rest
        sync_folder(directory)
        shutil.rmtree(directory)

    def save_body(self, bucket: str, content: bytes) -> Path:
        identifier = uuid.uuid4().hex
        path = self._bucket(bucket) / "bodies" / identifier[:2] / identifier
        path.parent.mkdir(exist_ok=True)
        with path.open("xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        sync_folder(path.parent)
        return path

    def body(self, bucket: str, identifier: str) -> Path:
        return self._bucket(bucket) / "bodies" / identifier[:2] / identifier

    def save_key(self, bucket: str, key: str, versions: list[Record]) -> None:
        """Save the versions of a key, oldest first. A key without versions is removed."""
        path = self._key(bucket, key)
        before = _bodies(_decode(path)) if path.exists() else set()
        record = {"key": key, "versions": versions}
        if versions:
            path.parent.mkdir(exist_ok=True)
            write_whole(path, _encode(record))
        elif path.exists():
            path.unlink()
            sync_folder(path.parent)
        for body in before - _bodies(record):
            self.body(bucket, body).unlink()

    def save_queues(self, records: list[Record]) -> None:
        write_whole(self.root / QUEUES, json.dumps(records, separators=(",", ":")).encode("ascii"))

    def queues(self) -> list[Record]:
        path = self.root / QUEUES
        return list(_decode(path)) if path.exists() else []

    def buckets(self) -> Iterator[Record]:
        for directory in sorted(path for path in self.root.iterdir() if path.is_dir()):
            if (directory / "bucket.json").exists():
                yield _decode(directory / "bucket.json")
            else:
                shutil.rmtree(directory)

    def keys(self, bucket: str) -> Iterator[Record]:
        """Yield each key's record of a bucket, then remove the bodies that no record mentions."""
        mentioned: set[str] = set()
        for path in sorted((self._bucket(bucket) / "keys").glob("*/*")):
            if path.suffix == PARTIAL:
                path.unlink()
                continue
            record = _decode(path)
            mentioned |= _bodies(record)
            yield record
        for path in (self._bucket(bucket) / "bodies").glob("*/*"):
            if path.name not in mentioned:
                path.unlink()

    def _bucket(self, name: str) -> Path:
        return self.root / _digest(name)

    def _key(self, bucket: str, key: str) -> Path:
        digest = _digest(key)
        return self._bucket(bucket) / "keys" / digest[:2] / f"{digest}.json"


def _digest(name: str) -> str:
    return hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()


def _bodies(record: Record) -> set[str]:
    return {version["body"] for version in record["versions"] if "body" in version}


def _encode(record: Record) -> bytes:
    return json.dumps(record, separators=(",", ":")).encode("ascii")


def _decode(path: Path) -> Any:
    try:
        return json.loads(path.read_bytes())
    except ValueError as error:
        raise SystemExit(
            f"{path} is damaged ({error}): restore it from a backup or remove it, which loses that entry"
        ) from None
