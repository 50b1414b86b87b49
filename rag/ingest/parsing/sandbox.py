"""Parsing that cannot hurt: each document in a process of its own, without network, bounded in time, memory, size and pages."""

from __future__ import annotations

import array
import asyncio
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import weakref
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

import rag
from rag.errors import Rejected, Unavailable
from rag.ingest.parsing import wire
from rag.models import ParsedDocument

_START_SECONDS = 120  # loading the parsers takes two, on a busy machine ten
_LARGEST_REFUSAL = 64 * 1024
_PATHS = [str(Path(rag.__file__).parents[1]), *filter(None, sys.path)]  # where the worker finds what this process finds


@dataclass(frozen=True, slots=True)
class ParseLimits:
    """Of one document. Memory counts from what the loaded parsers take already."""

    seconds: float = 30.0  # of CPU time
    wall_seconds: float | None = None  # however busy the machine is; None: three times the CPU time
    memory_bytes: int = 2**30
    input_bytes: int = 100 * 2**20
    pages: int = 2_000
    output_bytes: int = 256 * 2**20

    @property
    def patience(self) -> float:
        """Seconds until the parse is given up, by the clock."""
        return 3 * self.seconds if self.wall_seconds is None else self.wall_seconds


class SandboxedParser:
    """The Parser port. Usable from several event loops and threads; ``workers`` documents at a time.

    The worker process starts with the first document, or with ``start``, and ends with this one, however that ends.
    """

    def __init__(self, limits: ParseLimits | None = None, *, workers: int = 2) -> None:
        self.limits = limits or ParseLimits()
        self._threads = ThreadPoolExecutor(workers, thread_name_prefix="parse")
        self._lock = threading.Lock()
        self._nursery: _Nursery | None = None
        self._closed = False

    async def parse(self, content: bytes, *, name: str, media_type: str | None = None) -> ParsedDocument:
        return await asyncio.get_running_loop().run_in_executor(
            self._threads, self.parse_now, content, name, media_type
        )

    def parse_now(self, content: bytes, name: str, media_type: str | None = None) -> ParsedDocument:
        """Blocks the calling thread."""
        if len(content) > self.limits.input_bytes:
            raise Rejected(
                f"{name!r} has {len(content):,} bytes, at most {self.limits.input_bytes:,}: split it",
                reason="too_large",
            )
        for _ in range(2):
            with contextlib.suppress(_WorkerLost):
                return self._attempt(content, name, media_type)
        raise Rejected(
            f"the process that parsed {name!r} was killed twice: look at the machine's memory, or split it",
            reason="crashed",
        )

    def start(self) -> tuple[str, ...]:
        """Load the parsers now. Returns what keeps them from the network."""
        return self._worker().layers

    def close(self) -> None:
        """Documents under way are finished first."""
        self._threads.shutdown(wait=True)
        with self._lock:
            self._closed = True
            if self._nursery is not None:
                self._nursery.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        await asyncio.to_thread(self.close)

    def _worker(self) -> _Nursery:
        with self._lock:
            if self._closed:
                raise Unavailable("this parser is closed")
            if self._nursery is None or not self._nursery.lives:
                self._nursery = _Nursery()
            return self._nursery

    def _attempt(self, content: bytes, name: str, media_type: str | None) -> ParsedDocument:
        nursery = self._worker()
        deadline = time.monotonic() + self.limits.patience
        with nursery.child() as child:
            request = {
                "name": name,
                "media_type": media_type,
                "seconds": self.limits.seconds,
                "memory_bytes": self.limits.memory_bytes,
                "output_bytes": self.limits.output_bytes,
                "pages": self.limits.pages,
            }
            try:
                accepted, reply = child.ask(json.dumps(request).encode(), content, self.limits.output_bytes, deadline)
                return wire.load(reply) if accepted else _raise(wire.load_refusal(reply))
            except TimeoutError as error:
                raise Rejected(
                    f"{name!r} was not parsed within {self.limits.patience:g} seconds: split it", reason="timeout"
                ) from error
            except (EOFError, ConnectionError):
                pass
            except (ValueError, KeyError) as error:
                raise Rejected(
                    f"the parser of {name!r} answered nonsense: convert it to another format", reason="crashed"
                ) from error
        raise self._verdict(name, child.status)

    def _verdict(self, name: str, status: int) -> Exception:
        """Why a child ended without an answer."""
        killed = os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0
        if killed in {signal.SIGPROF, signal.SIGXCPU}:
            return Rejected(
                f"{name!r} took more than {self.limits.seconds:g} seconds of CPU time to parse: split it",
                reason="timeout",
            )
        if killed == signal.SIGKILL:
            return _WorkerLost()
        return Rejected(
            f"the parser crashed on {name!r} (signal {killed}): convert it to another format", reason="crashed"
        )


class _WorkerLost(Exception):
    """A process was killed from outside: by the kernel for want of memory, by an operator."""


def _raise(error: Exception) -> ParsedDocument:
    raise error


class _Nursery:
    """One worker process, see ``rag.ingest.parsing.worker``."""

    def __init__(self) -> None:
        ours, theirs = socket.socketpair()
        environment = {
            "PATH": os.defpath,
            "LANG": "C.UTF-8",
            "PYTHONPATH": os.pathsep.join(_PATHS),
            "PYTHONDONTWRITEBYTECODE": "1",
            "RAYON_NUM_THREADS": "1",
        }
        with theirs:
            self._process = subprocess.Popen(  # noqa: S603 - our own interpreter and module
                [sys.executable, "-W", "ignore", "-m", "rag.ingest.parsing.worker", str(theirs.fileno())],
                env=environment,
                cwd="/",
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                pass_fds=(theirs.fileno(),),
                start_new_session=True,
            )
        self._control = ours
        self._lock = threading.Lock()
        self._finalizer = weakref.finalize(self, _stop, self._process, ours)
        ours.settimeout(_START_SECONDS)
        try:
            self.layers: tuple[str, ...] = tuple(json.loads(ours.recv(4096))["ready"])
        except (OSError, ValueError) as error:
            self.close()
            raise Unavailable(
                "the parsing worker does not start: its error is on this process's standard error"
            ) from error

    @property
    def lives(self) -> bool:
        return self._finalizer.alive and self._process.poll() is None

    def close(self) -> None:
        self._finalizer()

    def child(self) -> _Child:
        ours, theirs = socket.socketpair()
        with theirs:
            fds = array.array("i", [theirs.fileno()])
            answer = self._order(b"fork", [(socket.SOL_SOCKET, socket.SCM_RIGHTS, fds)])
        return _Child(self, int(answer), ours)

    def end(self, pid: int) -> int:
        return int(self._order(b"end %d" % pid))

    def _order(self, order: bytes, attached: list[tuple[int, int, array.array[int]]] | None = None) -> bytes:
        with self._lock:
            try:
                self._control.sendmsg([order], attached or [])
                answer = self._control.recv(64)
            except OSError:
                answer = b""
        if not answer:
            self.close()
            raise _WorkerLost
        return answer


def _stop(process: subprocess.Popen[bytes], control: socket.socket) -> None:
    control.close()  # at its end the worker ends its children and itself
    try:
        process.wait(5)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


class _Child:
    """One process for one document, ended on leaving the context; then ``status`` is its wait status."""

    def __init__(self, nursery: _Nursery, pid: int, connection: socket.socket) -> None:
        self._nursery, self._pid, self._connection = nursery, pid, connection
        self.status = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self._connection.close()
        self.status = self._nursery.end(self._pid)

    def ask(self, request: bytes, content: bytes, most: int, deadline: float) -> tuple[bool, bytes]:
        """(accepted, reply). Raises TimeoutError, EOFError, ConnectionError, and ValueError for a reply longer than ``most``."""
        self._patience(deadline)
        self._connection.sendall(wire.LENGTHS.pack(len(request), len(content)) + request)
        self._connection.sendall(content)
        status, length = wire.REPLY.unpack(self._read(wire.REPLY.size, deadline))
        if length > (most if status == wire.ACCEPTED else _LARGEST_REFUSAL):
            raise ValueError(f"reply of {length} bytes")
        return status == wire.ACCEPTED, self._read(length, deadline)

    def _read(self, length: int, deadline: float) -> bytes:
        buffer = bytearray(length)
        view = memoryview(buffer)
        while view:
            self._patience(deadline)
            received = self._connection.recv_into(view)
            if not received:
                raise EOFError
            view = view[received:]
        view.release()
        return bytes(buffer)

    def _patience(self, deadline: float) -> None:
        left = deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError
        self._connection.settimeout(left)
