"""A layer is in force completely, or reported as missing."""

from __future__ import annotations

from pathlib import Path

import pytest

from rag.ingest.parsing.isolation import landlock_version, refuse_files


@pytest.mark.skipif(not landlock_version(), reason="this kernel has no Landlock")
def test_files_are_not_half_refused(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    assert not refuse_files([str(file)])  # the kernel refuses the rule, because a file cannot be listed
    assert not refuse_files([str(tmp_path / "missing")])
    file.write_text("this process may still write")
