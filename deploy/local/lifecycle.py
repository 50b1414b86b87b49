"""The start and stop of the stack: each part after the parts that it needs, and as parallel as that order allows."""

from __future__ import annotations

import graphlib
import shutil
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
from filelock import FileLock, Timeout

from deploy.local import process_tree
from deploy.local.bootstrap import Step, steps
from deploy.local.errors import StackError
from deploy.local.processes import Process, table
from deploy.local.stack import Stack, is_free, setting_of
from deploy.local.supervision import Supervisor, tail

READY_SECONDS = 180.0  # on a busy machine; a quiet one needs twenty
POLL_SECONDS = 0.25  # each look takes processor time from the processes that start
CRASHES = 3  # of a process that was never ready, before `up` gives up

Part = Process | Step
Report = Callable[[str, float], None]  # name, seconds from its start until it was ready


def choose(stack: Stack, only: Collection[str] = ()) -> dict[str, Part]:
    """Return the parts to start, by name: all, or the named ones and their needs. `infrastructure` names a group."""
    every: tuple[Part, ...] = (*table(stack), *steps())
    parts = {part.name: part for part in every}
    if not only:
        return parts
    groups = {"infrastructure": {name for name, part in parts.items() if part.infrastructure}}
    if unknown := set(only) - set(parts) - set(groups):
        raise StackError(
            f"--only {', '.join(sorted(unknown))}: not in the table; there are {', '.join((*groups, *parts))}"
        )
    wanted: set[str] = set()
    waiting = [name for given in only for name in groups.get(given, {given})]
    while waiting:
        name = waiting.pop()
        if name not in wanted:
            wanted.add(name)
            waiting.extend(parts[name].needs)
    return {name: part for name, part in parts.items() if name in wanted}


def up(stack: Stack, parts: Mapping[str, Part], report: Report) -> None:
    """Start everything in `parts` and return when it is ready. Processes that run already are left alone.

    Raises StackError. A taken port is refused before any start; otherwise processes stay, for a look at their logs and the next
    `up` or `down`.
    """
    supervisor = Supervisor(stack)
    with exclusive(stack.folder):
        if launched := not supervisor.alive():
            process_tree.end(stack.folder)
        create_folders(stack.folder)
        supervisor.launch(table(stack))
        running = {name for name, state in supervisor.states().items() if state.alive}
        try:
            _refuse_taken_ports(
                stack, [part for part in parts.values() if isinstance(part, Process) and part.name not in running]
            )
        except StackError:
            if launched:
                _shut_down(supervisor)
                process_tree.end(stack.folder)
            raise
        _walk(
            {name: part.needs for name, part in parts.items()},
            lambda name, given_up: _bring_up(stack, supervisor, parts[name], report, given_up),
        )


def down(folder: Path, stack: Stack | None) -> int:
    """End every process of the stack. Returns how many had to be ended without the supervisor.

    This also works when the supervisor was killed, and when the folder was removed while the stack ran.
    """
    if not folder.exists():
        return process_tree.end(folder)
    with exclusive(folder):
        if stack is not None and (supervisor := Supervisor(stack)).alive():
            needed_by: dict[str, set[str]] = {process.name: set() for process in table(stack)}
            for process in table(stack):
                for need in process.needs:
                    needed_by.get(need, set()).add(process.name)
            _walk(needed_by, lambda name, _: supervisor.stop(name))
            _shut_down(supervisor)
        return process_tree.end(folder)


def clean(folder: Path) -> None:
    """Delete all state. The caller has called `down`."""
    for path in folder.iterdir():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()
    folder.rmdir()


def await_end(pid: int) -> None:
    with suppress(psutil.NoSuchProcess):
        psutil.Process(pid).wait()


def create_folders(stack: Path) -> None:
    """Create the folders of the processes. The inbox is created with the first `up` only: a later one must not put an empty folder in
    the place of a lost one."""
    names = ("logs", "artifacts") if (stack / "logs").exists() else ("logs", "artifacts", "inbox")
    for name in names:
        (stack / name).mkdir(mode=0o700, exist_ok=True)


@contextmanager
def exclusive(folder: Path) -> Iterator[None]:
    """Allow one `up` or `down` at a time. The kernel drops the lock with its holder."""
    try:
        with FileLock(folder / "lock", mode=0o600, timeout=0):
            yield
    except Timeout:
        raise StackError(f"another up or down is at work in {folder}; wait for it or end it") from None


def _walk(needs: Mapping[str, Collection[str]], act: Callable[[str, threading.Event], None]) -> None:
    """Call `act` for each name after its needs, several at a time.

    After a failure, names that do not need the failed one still follow. All failures are raised together at the end. The event is set
    when the caller gives up (Ctrl-C); `act` should then return soon.
    """
    order = graphlib.TopologicalSorter({name: set(before) & set(needs) for name, before in needs.items()})
    order.prepare()
    given_up = threading.Event()
    failures: list[str] = []
    pending: dict[Future[None], str] = {}
    with ThreadPoolExecutor(max_workers=len(needs) or 1) as pool:
        try:
            while True:
                pending |= {pool.submit(act, name, given_up): name for name in order.get_ready()}
                if not pending:
                    break
                done, _ = wait(pending, return_when=FIRST_COMPLETED)
                for future in done:
                    name = pending.pop(future)
                    if error := future.exception():
                        failures.append(str(error) if isinstance(error, StackError) else f"{name}: {error!r}")
                    else:
                        order.done(name)
        except BaseException:
            given_up.set()
            raise
    if failures:
        raise StackError("\n".join(failures))


def _bring_up(stack: Stack, supervisor: Supervisor, part: Part, report: Report, given_up: threading.Event) -> None:
    began = time.monotonic()
    if isinstance(part, Step):
        part.run(stack)
    else:
        if not supervisor.states()[part.name].alive and part.prepare:
            part.prepare()
        supervisor.start(part.name)
        _await_ready(stack, supervisor, part, given_up)
    report(part.name, time.monotonic() - began)


def _await_ready(stack: Stack, supervisor: Supervisor, process: Process, given_up: threading.Event) -> None:
    deadline = time.monotonic() + READY_SECONDS
    lives: set[int] = set()
    log = stack.logs / f"{process.name}.log"
    while not given_up.is_set():
        state = supervisor.states()[process.name]
        if state.alive and process.ready(state.started):
            return
        lives |= {state.pid} - {0}
        if state.given_up or len(lives) > CRASHES:
            raise StackError(
                f"{process.name} does not start ({state.state}: {state.reason}). The end of {log}:\n{tail(log, 15)}"
            )
        if time.monotonic() > deadline:
            raise StackError(
                f"{process.name} is not ready after {READY_SECONDS:.0f} s. The end of {log}:\n{tail(log, 15)}"
            )
        given_up.wait(POLL_SECONDS)


def _refuse_taken_ports(stack: Stack, processes: Collection[Process]) -> None:
    taken = [port for process in processes for port in process.ports if not is_free(stack.ports[port])]
    if taken:
        lines = (
            f"port {stack.ports[port]} ({port}) is taken by {process_tree.holder_of(stack.ports[port])}: "
            f"stop it, or set {setting_of(port)} to another port, or use --free-ports"
            for port in taken
        )
        raise StackError("\n".join(lines))


def _shut_down(supervisor: Supervisor) -> None:
    supervisor.shutdown()
    _wait(lambda: not supervisor.alive())


def _wait(condition: Callable[[], bool], seconds: float = 15.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.05)
