"""The processes of a stack, found by their environment, so that no record of them is needed.

Each process starts with TIDEMARK_STACK_PROCESS=<folder> in its environment and passes it to its children. PostgreSQL overwrites that
memory with its process titles, so its processes are found by their program and by a working directory in the stack's folder.
"""

from __future__ import annotations

import signal
import time
from pathlib import Path

import psutil

from deploy.local.errors import StackError

MARKER = "TIDEMARK_STACK_PROCESS"
RETITLED = ("postgres", "redis-server")
PATIENCE_SECONDS = 8.0


def processes_of(folder: Path) -> list[psutil.Process]:
    """Return every living process of the stack in `folder`, except the caller and its parents."""
    here = psutil.Process()
    spared = {here.pid, *(parent.pid for parent in here.parents())}
    return [
        process for process in psutil.process_iter() if process.pid not in spared and _belongs(process, str(folder))
    ]


def end(folder: Path) -> int:
    """End all processes of the stack, by SIGTERM first. Returns their number. Raises StackError if one outlives SIGKILL."""
    ended: set[int] = set()
    deadline = time.monotonic() + PATIENCE_SECONDS
    signalled: set[int] = set()
    while remaining := processes_of(folder):
        ended |= {process.pid for process in remaining}
        late = time.monotonic() > deadline
        if time.monotonic() > deadline + PATIENCE_SECONDS:
            raise StackError(
                f"processes {[process.pid for process in remaining]} of {folder} do not end, even by SIGKILL"
            )
        for process in remaining:
            if late or process.pid not in signalled:  # once: some programs take a second SIGTERM as an order to abort
                _send(process, signal.SIGKILL if late else _polite(process))
                signalled.add(process.pid)
        psutil.wait_procs(remaining, timeout=0.2)
    return len(ended)


def _belongs(process: psutil.Process, folder: str) -> bool:
    try:
        if process.status() == psutil.STATUS_ZOMBIE:
            return False
        if process.environ().get(MARKER) == folder:
            return True
        return process.name() in RETITLED and Path(process.cwd()).is_relative_to(folder)
    except (psutil.Error, OSError):  # it has ended, or it belongs to another user, as no process of the stack does
        return False


def _polite(process: psutil.Process) -> signal.Signals:
    try:
        return (
            signal.SIGINT if process.name() == "postgres" else signal.SIGTERM
        )  # on SIGTERM, PostgreSQL waits for its clients
    except psutil.Error:
        return signal.SIGTERM


def _send(process: psutil.Process, sig: signal.Signals) -> None:
    try:
        process.send_signal(sig)
    except psutil.NoSuchProcess:
        return


def resident_megabytes(process: psutil.Process) -> float:
    """Return the proportional share (PSS) where the system counts it, so that shared pages are counted once."""
    try:
        memory = process.memory_full_info()
    except (psutil.Error, OSError):
        return 0.0
    return float(getattr(memory, "pss", memory.rss)) / 2**20


def holder_of(port: int) -> str:
    """Name the process that listens on the port, as far as this user may see it."""
    try:
        connections = psutil.net_connections("tcp")
    except psutil.AccessDenied:
        return "another process"
    for connection in connections:
        if (
            connection.status == psutil.CONN_LISTEN
            and connection.laddr
            and connection.laddr.port == port
            and connection.pid
        ):
            try:
                return f"{psutil.Process(connection.pid).name()} (pid {connection.pid})"
            except psutil.Error:
                break
    return "another process"


__all__ = ["MARKER", "end", "holder_of", "processes_of", "resident_megabytes"]
