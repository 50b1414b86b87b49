"""Sandboxed parsing: in processes without a network, bounded in time, memory, size and pages.

The processes are forked and isolated ahead of the documents. Each one reads one document, or some small ones that the same people may
read, and then another one is forked in its place (decisions 0034 and 0039).
"""

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
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import rag
from rag.errors import Rejected, Unavailable
from rag.ingest.parsing import wire
from rag.ingest.parsing.sniffing import may_share
from rag.models import ParsedDocument

_START_SECONDS = 120  # to load the parsers, which takes two seconds, on a busy machine ten
_LARGEST_ERROR = 64 * 1024  # bytes
_SHARED_DOCUMENTS = 32  # of one process
_SHARED_BYTES = 256 * 1024  # of a document; the process costs little beside the parse of a larger one
_IDLE_SECONDS = 2.0  # for which a process that has read documents waits for more of its compartment
_PATHS = [str(Path(rag.__file__).parents[1]), *filter(None, sys.path)]  # of this process, for the worker's imports


@dataclass(frozen=True, slots=True)
class ParseLimits:
    """Limits of one document. Memory is counted beyond the use of the loaded parsers."""

    seconds: float = 30.0  # of CPU time
    wall_seconds: float | None = None  # by the clock, however busy the machine is; None: three times the CPU time
    memory_bytes: int = 2**30
    input_bytes: int = 100 * 2**20
    pages: int = 2_000
    output_bytes: int = 256 * 2**20

    @property
    def timeout(self) -> float:
        """Return the seconds, by the clock, after which the parse is given up."""
        return 3 * self.seconds if self.wall_seconds is None else self.wall_seconds


class SandboxedParser:
    """Parser of ``rag.ports``. Several event loops and threads may use it; it parses ``workers`` documents at a time.

    As many isolated processes wait for the next documents. The worker process starts with the first document, or with ``start``. It
    ends with this process, however this process ends.
    """

    def __init__(self, limits: ParseLimits | None = None, *, workers: int = 2) -> None:
        self.limits = limits or ParseLimits()
        self._spares = workers
        self._threads = ThreadPoolExecutor(workers, thread_name_prefix="parse")
        self._background = ThreadPoolExecutor(1, thread_name_prefix="parse-spare")
        self._lock = threading.Lock()
        self._worker: _Worker | None = None
        self._closed = False

    async def parse(
        self, content: bytes, *, name: str, media_type: str | None = None, compartment: str = ""
    ) -> ParsedDocument:
        return await asyncio.get_running_loop().run_in_executor(
            self._threads, self.parse_now, content, name, media_type, compartment
        )

    def parse_now(
        self, content: bytes, name: str, media_type: str | None = None, compartment: str = ""
    ) -> ParsedDocument:
        """Parse a document. This blocks the calling thread."""
        if len(content) > self.limits.input_bytes:
            raise Rejected(
                f"{name!r} has {len(content):,} bytes, at most {self.limits.input_bytes:,} are allowed: split it",
                reason="too_large",
            )
        request = {
            "name": name,
            "media_type": media_type,
            "seconds": self.limits.seconds,
            "memory_bytes": self.limits.memory_bytes,
            "output_bytes": self.limits.output_bytes,
            "pages": self.limits.pages,
        }
        can_share = compartment and len(content) <= _SHARED_BYTES and may_share(content)
        if can_share and (parsed := self._attempt_shared(content, request, compartment)):
            return parsed
        for _ in range(2):
            with contextlib.suppress(_WorkerLost):
                return self._attempt(content, request)
        raise Rejected(
            f"the process that parsed {name!r} was killed twice: check the machine's memory, or split the document",
            reason="crashed",
        )

    def start(self) -> tuple[str, ...]:
        """Load the parsers now. Return the layers of isolation that are in force.

        Raises Unavailable when a process cannot apply one of them.
        """
        worker, child = self._ready_child()
        worker.retire(child)
        return worker.layers

    def close(self) -> None:
        """Close the parser after the documents that are under way."""
        self._threads.shutdown(wait=True)
        with self._lock:
            self._closed = True
            if self._worker is not None:
                self._worker.close()
        self._background.shutdown(wait=True, cancel_futures=True)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        await asyncio.to_thread(self.close)

    def _live_worker(self) -> _Worker:
        with self._lock:
            if self._closed:
                raise Unavailable("this parser is closed: create another one")
            if self._worker is None or not self._worker.is_alive:
                self._worker = _Worker(self._spares, self._background)
            return self._worker

    def _ready_child(self) -> tuple[_Worker, _Child]:
        """Return an isolated process. Those that ended while they waited are passed over, because no document ended them."""
        for _ in range(2 * self._spares + 1):
            with contextlib.suppress(_WorkerLost, EOFError, ConnectionError, TimeoutError):
                worker = self._live_worker()
                with _retired_on_error(worker, worker.take()) as child:
                    child.expect_isolation(time.monotonic() + _START_SECONDS)
                return worker, child
        raise Unavailable("the processes that parse end before they read a document: check the memory of this machine")

    def _attempt_shared(self, content: bytes, request: dict[str, Any], compartment: str) -> ParsedDocument | None:
        """Parse in a process that may have read others of the compartment. Return None when the document needs one of its own, which
        is also so after any failure: it may be the fault of those before."""
        worker = self._live_worker()
        child = worker.take_idle(compartment)
        if child is None:
            worker, child = self._ready_child()
        parsed = None
        try:
            with contextlib.suppress(EOFError, ConnectionError, TimeoutError, ValueError):
                accepted, reply = self._ask(child, content, request | {"shared": True})
                parsed = wire.load(reply) if accepted else None
        finally:
            if parsed is None:
                worker.retire(child)
        if parsed is not None:
            worker.keep(compartment, child)
        return parsed

    def _ask(self, child: _Child, content: bytes, request: dict[str, Any]) -> tuple[bool, bytes]:
        deadline = time.monotonic() + self.limits.timeout
        return child.parse(json.dumps(request).encode(), content, self.limits.output_bytes, deadline)

    def _attempt(self, content: bytes, request: dict[str, Any]) -> ParsedDocument:
        worker, child = self._ready_child()
        name = request["name"]
        try:
            accepted, reply = self._ask(child, content, request)
            return wire.load(reply) if accepted else _raise(wire.load_error(reply))
        except TimeoutError as error:
            raise Rejected(
                f"{name!r} was not parsed within {self.limits.timeout:g} seconds: split it", reason="timeout"
            ) from error
        except (EOFError, ConnectionError):
            pass
        except ValueError as error:
            raise Rejected(
                f"the parser of {name!r} sent an invalid reply: convert it to another format", reason="crashed"
            ) from error
        finally:
            status = worker.retire(child)
        raise self._exit_error(name, status.result())

    def _exit_error(self, name: str, status: int) -> Exception:
        """Return the error of a child that ended without a reply."""
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
    """Loss of a process that was killed from outside: by the kernel for lack of memory, or by an operator."""


def _raise(error: Exception) -> ParsedDocument:
    raise error


@contextlib.contextmanager
def _retired_on_error(worker: _Worker, child: _Child) -> Iterator[_Child]:
    try:
        yield child
    except BaseException:
        worker.retire(child)
        raise


class _Worker:
    """One worker process, see ``rag.ingest.parsing.worker``, and its ``spares`` children that wait for a document.

    Forking a child and ending it takes longer than parsing a small document, so ``background`` does both.
    """

    def __init__(self, spares: int, background: ThreadPoolExecutor) -> None:
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
        self._spares, self._background = spares, background
        self._waiting: deque[Future[_Child]] = deque()
        self._idle: deque[_Idle] = deque()
        self._is_sweeping = False  # whether a timer runs
        self._finalizer = weakref.finalize(self, _stop, self._process, ours, self._waiting, self._idle)
        ours.settimeout(_START_SECONDS)
        try:
            self.layers: tuple[str, ...] = tuple(json.loads(ours.recv(4096))["ready"])
        except (OSError, ValueError) as error:
            self.close()
            raise Unavailable(
                "the parsing worker does not start: read its error on this process's standard error"
            ) from error
        self._waiting.extend(background.submit(self._fork) for _ in range(spares))

    @property
    def is_alive(self) -> bool:
        return self._finalizer.alive and self._process.poll() is None

    def close(self) -> None:
        self._finalizer()

    def take(self) -> _Child:
        """Return the child that waits longest. Fork one when more documents come at a time than children wait."""
        try:
            waiting = self._waiting.popleft()
        except IndexError:
            return self._fork()
        return waiting.result()

    def take_idle(self, compartment: str) -> _Child | None:
        """Return a process that has read documents of the compartment and may read more, if there is one."""
        with self._lock:
            for idle in self._idle:
                if idle.compartment == compartment:
                    self._idle.remove(idle)
                    return idle.child
        return None

    def keep(self, compartment: str, child: _Child) -> None:
        """Let a child that has read a document of the compartment wait for more of it, for a while."""
        child.documents += 1
        if child.documents >= _SHARED_DOCUMENTS:
            self.retire(child)
            return
        with self._lock:
            self._idle.append(_Idle(time.monotonic() + _IDLE_SECONDS, compartment, child))
            surplus = [self._idle.popleft()] if len(self._idle) > self._spares else []
            must_sweep, self._is_sweeping = not self._is_sweeping, True
        for idle in surplus:
            self.retire(idle.child)
        if must_sweep:
            self._sweep_later()

    def _sweep_later(self) -> None:
        timer = threading.Timer(_IDLE_SECONDS, self._sweep)
        timer.daemon = True
        timer.start()

    def _sweep(self) -> None:
        """Retire the children that have waited for long enough, and look again while others wait."""
        if not self._finalizer.alive:
            return
        with self._lock:
            late = [idle for idle in self._idle if idle.until <= time.monotonic()]
            for idle in late:
                self._idle.remove(idle)
            must_sweep = self._is_sweeping = bool(self._idle)
        with contextlib.suppress(RuntimeError):  # the parser was closed meanwhile, which ends every child
            for idle in late:
                self.retire(idle.child)
        if must_sweep:
            self._sweep_later()

    def retire(self, child: _Child) -> Future[int]:
        """Have a child ended, with all its process group, and another one forked in its place. Return its wait status to come.

        The fork waits until now because it would compete for the processors with the parse.
        """
        child.close()
        if len(self._waiting) < self._spares:
            self._waiting.append(self._background.submit(self._fork))
        return self._background.submit(self._end, child.pid)

    def _fork(self) -> _Child:
        ours, theirs = socket.socketpair()
        with theirs:
            fds = array.array("i", [theirs.fileno()])
            try:
                pid = int(self._command(b"fork", [(socket.SOL_SOCKET, socket.SCM_RIGHTS, fds)]))
            except BaseException:
                ours.close()
                raise
        return _Child(pid, ours)

    def _end(self, pid: int) -> int:
        return int(self._command(b"end %d" % pid))

    def _command(self, command: bytes, attached: list[tuple[int, int, array.array[int]]] | None = None) -> bytes:
        with self._lock:
            try:
                self._control.sendmsg([command], attached or [])
                answer = self._control.recv(64)
            except OSError:
                answer = b""
        if not answer:
            self.close()
            raise _WorkerLost
        return answer


def _stop(
    process: subprocess.Popen[bytes], control: socket.socket, waiting: Iterable[Future[_Child]], idle: Iterable[_Idle]
) -> None:
    control.close()  # then the worker ends its children and itself
    try:
        process.wait(5)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    for spare in waiting:
        if spare.done() and not spare.cancelled() and spare.exception() is None:
            spare.result().close()
    for each in idle:
        each.child.close()


@dataclass(frozen=True, slots=True)
class _Idle:
    """A child that waits for more documents of its compartment."""

    until: float
    compartment: str
    child: _Child


class _Child:
    """One process, for one document or for the documents of a compartment."""

    def __init__(self, pid: int, connection: socket.socket) -> None:
        self.pid, self._connection = pid, connection
        self.documents = 0  # that it has read

    def close(self) -> None:
        self._connection.close()

    def expect_isolation(self, deadline: float) -> None:
        """Return when the process is isolated and waits for a document.

        Raises Unavailable when it is not isolated, and EOFError, ConnectionError or TimeoutError when it does not wait.
        """
        status, length = wire.REPLY.unpack(self._read(wire.REPLY.size, deadline))
        if status != wire.ACCEPTED:
            layers = self._read(min(length, _LARGEST_ERROR), deadline).decode()
            raise Unavailable(
                f"documents are not parsed, because a process could not apply {layers}, which this machine supports: "
                "check the limits of memory, open files and security policies of this process, then restart it"
            )
        self._connection.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            if not self._connection.recv(1, socket.MSG_PEEK):
                raise EOFError

    def parse(self, request: bytes, content: bytes, max_reply: int, deadline: float) -> tuple[bool, bytes]:
        """Return (accepted, reply). Raises TimeoutError, EOFError, ConnectionError, and ValueError for more than ``max_reply`` bytes."""
        self._set_timeout(deadline)
        self._connection.sendall(wire.LENGTHS.pack(len(request), len(content)) + request)
        self._connection.sendall(content)
        status, length = wire.REPLY.unpack(self._read(wire.REPLY.size, deadline))
        if length > (max_reply if status == wire.ACCEPTED else _LARGEST_ERROR):
            raise ValueError(f"reply of {length} bytes")
        return status == wire.ACCEPTED, self._read(length, deadline)

    def _read(self, length: int, deadline: float) -> bytes:
        buffer = bytearray(length)
        view = memoryview(buffer)
        while view:
            self._set_timeout(deadline)
            received = self._connection.recv_into(view)
            if not received:
                raise EOFError
            view = view[received:]
        view.release()
        return bytes(buffer)

    def _set_timeout(self, deadline: float) -> None:
        left = deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError
        self._connection.settimeout(left)
