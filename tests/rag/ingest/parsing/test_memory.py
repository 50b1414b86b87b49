"""The use of memory is that of this process, and its pages can be made huge."""

from __future__ import annotations

import mmap
import platform
import re
import sys
from pathlib import Path

import pytest

from rag.ingest.parsing import memory

SIZE = 64 * 2**20


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux reports and limits the memory of a process")
def test_memory_in_use_grows_by_allocated_bytes() -> None:
    before = memory.in_use()
    with mmap.mmap(-1, SIZE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS):
        grown = memory.in_use()
    assert grown.size >= before.plus(SIZE).size
    assert grown.data >= before.plus(SIZE).data


def huge_bytes() -> int:
    found = re.search(r"AnonHugePages: +(\d+) kB", Path("/proc/self/smaps_rollup").read_text())
    return int(found[1]) * 1024 if found else 0


def has_collapse() -> bool:
    enabled = Path("/sys/kernel/mm/transparent_hugepage/enabled")
    version = [int(number) for number in re.findall(r"\d+", platform.release())[:2]]
    return sys.platform == "linux" and version >= [6, 1] and enabled.exists() and "[never]" not in enabled.read_text()


@pytest.mark.heavy  # moves all memory of this process, which takes seconds
@pytest.mark.skipif(not has_collapse(), reason="this kernel does not collapse pages on request")
def test_written_memory_moves_to_huge_pages_and_keeps_its_content() -> None:
    with mmap.mmap(-1, SIZE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as written:
        written.write(b"x" * SIZE)
        before = huge_bytes()
        memory.use_huge_pages()
        assert huge_bytes() > before
        assert written[:] == b"x" * SIZE
