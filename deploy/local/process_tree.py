"""Which processes belong to a stack, found from the processes themselves, so that nothing has to have been written down.

Everything is started with TIDEMARK_STACK_PROCESS=<folder> in its environment and hands it on to its children. PostgreSQL overwrites
that memory with its process titles; its processes are known by their program and by working in the stack's folder.
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
    """Every living process of the stack in `folder`, without the caller and those that started it."""
    here = psutil.Process()
    spared = {here.pid, *(parent.pid for parent in here.parents())}
    return [
        process for process in psutil.process_iter() if process.pid not in spared and _belongs(process, str(folder))
    ]


def end(folder: Path) -> int:
    """Ends all of them, politely first. Returns how many there were; raises StackError if one outlives SIGKILL."""
    ended: set[int] = set()
    deadline = time.monotonic() + PATIENCE_SECONDS
    asked: set[int] = set()
    while survivors := processes_of(folder):
        ended |= {process.pid for process in survivors}
        late = time.monotonic() > deadline
        if time.monotonic() > deadline + PATIENCE_SECONDS:
            raise StackError(
                f"processes {[process.pid for process in survivors]} of {folder} do not end, even by SIGKILL"
            )
        for process in survivors:
            if late or process.pid not in asked:  # once is enough: a second SIGTERM would be taken for impatience
                _send(process, signal.SIGKILL if late else _polite(process))
                asked.add(process.pid)
        psutil.wait_procs(survivors, timeout=0.2)
    return len(ended)


def _belongs(process: psutil.Process, folder: str) -> bool:
    try:
        if process.status() == psutil.STATUS_ZOMBIE:
            return False
        if process.environ().get(MARKER) == folder:
            return True
        return process.name() in RETITLED and Path(process.cwd()).is_relative_to(folder)
    except (psutil.Error, OSError):  # gone, or another user's, which none of ours is
        return False


def _polite(process: psutil.Process) -> signal.Signals:
    try:
        return signal.SIGINT if process.name() == "postgres" else signal.SIGTERM  # SIGTERM waits for its clients
    except psutil.Error:
        return signal.SIGTERM


def _send(process: psutil.Process, sig: signal.Signals) -> None:
    try:
        process.send_signal(sig)
    except psutil.NoSuchProcess:
        return


def resident_megabytes(process: psutil.Process) -> float:
    """Proportional share (PSS) where the system counts it, so that shared pages are not counted twice."""
    try:
        memory = process.memory_full_info()
    except (psutil.Error, OSError):
        return 0.0
    return float(getattr(memory, "pss", memory.rss)) / 2**20


def holder_of(port: int) -> str:
    """Who listens on the port, in words, as far as this user may know."""
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
