"""Memory of a process: its use, and pages that make a fork cheap."""

from __future__ import annotations

import ctypes
import re
import resource
import sys
from dataclasses import dataclass
from pathlib import Path

_HUGE = 2 * 2**20  # bytes
_MADV_COLLAPSE = 25  # Linux 6.1
_ANONYMOUS = re.compile(r"([0-9a-f]+)-([0-9a-f]+) rw-p 00000000 00:00 0 *(\[heap\])?")


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes of address space and of data."""

    size: int
    data: int

    def plus(self, count: int) -> Memory:
        return Memory(self.size + count, self.data + count)


def in_use() -> Memory:
    """Return the use of this process. Call this before its files are refused."""
    if sys.platform != "linux":
        return Memory(0, 0)
    fields = Path("/proc/self/statm").read_text().split()
    page = resource.getpagesize()
    return Memory(int(fields[0]) * page, int(fields[5]) * page)


def use_huge_pages() -> None:
    """Move the private memory of this process to huge pages, where the kernel can.

    Forking and ending a child then takes a third of the time, because the child has 512 times fewer pages to list. A child that
    writes still copies only 4 KiB at a time.
    """
    if sys.platform != "linux":
        return
    libc = ctypes.CDLL(None)
    for line in Path("/proc/self/maps").read_text().splitlines():
        if found := _ANONYMOUS.fullmatch(line.rstrip()):
            start, end = -(-int(found[1], 16) // _HUGE) * _HUGE, int(found[2], 16) // _HUGE * _HUGE
            if start < end:
                libc.madvise(ctypes.c_void_p(start), ctypes.c_size_t(end - start), _MADV_COLLAPSE)
