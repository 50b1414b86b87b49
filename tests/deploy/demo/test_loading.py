from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from deploy.local.demo.loading import put_documents


class Bucket:
    """The three calls of an S3 client that a load makes."""

    def __init__(self) -> None:
        self.held: dict[str, bytes] = {}

    def get_paginator(self, operation: str) -> Bucket:
        assert operation == "list_objects_v2"
        return self

    def paginate(self, **_: str) -> list[dict[str, Any]]:
        digests = {key: hashlib.md5(content, usedforsecurity=False).hexdigest() for key, content in self.held.items()}
        return [{"Contents": [{"Key": key, "ETag": f'"{digest}"'} for key, digest in digests.items()]}, {}]

    def put_object(self, *, Key: str, Body: bytes, **_: str) -> None:
        self.held[Key] = Body


def test_a_folder_is_put_without_its_hidden_files_and_again_only_where_it_changed(tmp_path: Path) -> None:
    for name in ("a.md", "deep/b.md", ".git/config", "deep/.c.md.swp"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    bucket = Bucket()
    first = put_documents(bucket, "documents", tmp_path)
    assert (first.found, first.written, first.keys) == (2, 2, ("a.md", "deep/b.md"))
    assert set(bucket.held) == {"a.md", "deep/b.md"}
    (tmp_path / "a.md").write_text("changed")
    again = put_documents(bucket, "documents", tmp_path)
    assert (again.found, again.written) == (2, 1)
    assert bucket.held["a.md"] == b"changed"
