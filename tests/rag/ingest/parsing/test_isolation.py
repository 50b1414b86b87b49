"""A layer is in force completely, or reported as missing."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from rag.ingest.parsing.isolation import landlock_version

ROOT = Path(__file__).parents[4]
PROGRAM = """
import sys
from pathlib import Path
from rag.ingest.parsing.isolation import refuse_files
print(refuse_files(sys.argv[1:]))
Path(sys.argv[1]).with_name("written").touch()
"""


@pytest.mark.heavy
@pytest.mark.skipif(not landlock_version(), reason="this kernel has no Landlock")
@pytest.mark.parametrize("unlistable", ["file", "missing"])
def test_files_are_not_half_refused(tmp_path: Path, unlistable: str) -> None:
    (tmp_path / "file").touch()
    command = [sys.executable, "-c", PROGRAM, str(tmp_path / unlistable), sys.prefix]
    ended = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True)
    assert ended.stdout == "False\n"
    assert (tmp_path / "written").exists()
