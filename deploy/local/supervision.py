"""The supervisord of a stack, which keeps the processes alive: its configuration, and the calls over its socket."""

from __future__ import annotations

import configparser
import contextlib
import hashlib
import http.client
import os
import shlex
import subprocess
import sys
import tempfile
import time
import xmlrpc.client
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from supervisor.xmlrpc import Faults, SupervisorTransport

from deploy.local.errors import StackError
from deploy.local.process_tree import MARKER
from deploy.local.processes import Process
from deploy.local.stack import HOST, ROOT, Stack, environment
from rag.files import write_whole
from rag.no_telemetry import SWITCHES

SOCKET_PATH_BYTES = 90  # of 107 (Linux) or 103 (macOS); supervisord adds its pid while it binds
START_SECONDS = 15.0
PRIVATE = 0o077  # the umask of every process, so that only the owner can read the stack's files

ALIVE = ("STARTING", "RUNNING")


@dataclass(frozen=True, slots=True)
class State:
    name: str
    state: str
    pid: int
    started: int
    reason: str

    @property
    def alive(self) -> bool:
        return self.state in ALIVE

    @property
    def given_up(self) -> bool:
        return not self.alive and self.state != "BACKOFF"


class Supervisor:
    """The supervisord of one stack, whether it runs or not."""

    def __init__(self, stack: Stack) -> None:
        self.stack = stack
        self.config = stack.folder / "supervisor.conf"
        self.child: subprocess.Popen[bytes] | None = None  # kept if this process started it, to collect its exit status

    def alive(self) -> bool:
        try:
            with self._call() as rpc:
                return bool(rpc.getPID())
        except (OSError, http.client.HTTPException):
            return False

    def launch(self, processes: Iterable[Process]) -> None:
        """Start supervisord, or give the running one the changed processes. No process is started."""
        write_whole(self.config, render(self.stack, processes, self._choose_socket()).encode())
        if self.alive():
            self._reload()
            return
        command = (sys.executable, "-m", "supervisor.supervisord", "-n", "-s", "-c", str(self.config))
        self.stack.logs.mkdir(exist_ok=True)
        with (self.stack.logs / "supervisor.out").open("ab") as out:
            self.child = child = subprocess.Popen(  # noqa: S603
                command, cwd=ROOT, env=inherited(self.stack), start_new_session=True, umask=PRIVATE,
                stdin=subprocess.DEVNULL, stdout=out, stderr=out,
            )  # fmt: skip
        deadline = time.monotonic() + START_SECONDS
        while not self.alive():
            if child.poll() is not None or time.monotonic() > deadline:
                raise StackError(f"supervisord did not start: {tail(Path(out.name), 5)}")
            time.sleep(0.05)

    def start(self, name: str) -> None:
        """Start a process at once, even between two attempts."""
        if self.states()[name].state == "BACKOFF":
            self.stop(name)
        with self._call() as rpc:
            try:
                rpc.startProcess(name, False)
            except xmlrpc.client.Fault as fault:
                if fault.faultCode != Faults.ALREADY_STARTED:
                    raise

    def stop(self, name: str) -> None:
        """Stop a process and return when it has ended."""
        with self._call() as rpc:
            try:
                rpc.stopProcess(name, True)
            except xmlrpc.client.Fault as fault:
                if fault.faultCode not in (Faults.NOT_RUNNING, Faults.BAD_NAME):
                    raise

    def states(self) -> dict[str, State]:
        with self._call() as rpc:
            infos = rpc.getAllProcessInfo()
        return {
            info["name"]: State(info["name"], info["statename"], info["pid"], info["start"], info["spawnerr"] or info["description"])
            for info in infos
        }  # fmt: skip

    def shutdown(self) -> None:
        with contextlib.suppress(OSError, http.client.HTTPException), self._call() as rpc:
            rpc.shutdown()
        if self.child is not None:
            self.child.wait(START_SECONDS)

    def _reload(self) -> None:
        with self._call() as rpc:
            ((added, changed, removed),) = rpc.reloadConfig()
            for name in (*changed, *removed):
                rpc.stopProcessGroup(name)
                rpc.removeProcessGroup(name)
            for name in (*added, *changed):
                rpc.addProcessGroup(name)

    @contextlib.contextmanager
    def _call(self) -> Iterator[Any]:
        """Open a connection for each call, because calls come from several threads."""
        parser = configparser.RawConfigParser(strict=False)
        parser.read(self.config)
        url = parser.get("supervisorctl", "serverurl", fallback="")
        if not url:
            raise ConnectionRefusedError(f"{self.config} names no socket")
        transport = SupervisorTransport(serverurl=url)
        try:
            yield xmlrpc.client.ServerProxy("http://localhost", transport=transport).supervisor
        finally:
            transport.close()

    def _choose_socket(self) -> Path:
        path = self.stack.folder / "supervisor.sock"
        if len(os.fsencode(path)) <= SOCKET_PATH_BYTES:
            return path
        name = hashlib.sha256(os.fsencode(path)).hexdigest()[:16]
        folder = Path(tempfile.gettempdir()) / f"tidemark-{os.getuid()}-{name}"
        folder.mkdir(mode=0o700, exist_ok=True)
        if folder.stat().st_uid != os.getuid() or folder.stat().st_mode & 0o077:
            raise StackError(
                f"{folder} belongs to another user or is open to others; remove it, or choose a shorter --dir"
            )
        return folder / "supervisor.sock"


def render(stack: Stack, processes: Iterable[Process], sock: Path) -> str:
    sections = [
        _section("supervisord", {
            "logfile": stack.logs / "supervisor.log",
            "pidfile": stack.folder / "supervisor.pid",
            "childlogdir": stack.logs,
            **({"user": "root"} if os.geteuid() == 0 else {}),
        }),
        _section("unix_http_server", {"file": sock, "chmod": "0600"}),
        _section("supervisorctl", {"serverurl": f"unix://{sock}"}),
        _section("rpcinterface:supervisor", {
            "supervisor.rpcinterface_factory": "supervisor.rpcinterface:make_main_rpcinterface"
        }),
        *(_section(f"program:{process.name}", _program(stack, process)) for process in processes),
    ]  # fmt: skip
    return "\n".join(sections)


def _program(stack: Stack, process: Process) -> dict[str, object]:
    program: dict[str, object] = {
        "command": shlex.join(process.command),
        "directory": ROOT,
        "environment": ",".join(f'{key}="{value}"' for key, value in process.env.items()),
        "autostart": "false",  # in the order of needs, by `up`
        "autorestart": "true",
        "startsecs": 5,  # a process that ends sooner is started again after longer and longer waits,
        "startretries": 20,  # and given up after three and a half minutes
        "stopsignal": process.stop_signal,
        "stopwaitsecs": 12,
        "killasgroup": "true",
        "redirect_stderr": "true",
        "stdout_logfile": stack.logs / f"{process.name}.log",
        "stdout_logfile_maxbytes": "20MB",
        "stdout_logfile_backups": 1,
    }
    return program


def _section(title: str, values: Mapping[str, object]) -> str:
    escaped = (f"{key} = {str(value).replace('%', '%%')}" for key, value in values.items() if str(value))
    return f"[{title}]\n" + "\n".join(escaped) + "\n"


def inherited(stack: Stack, environ: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Return the stack's environment over the caller's, without variables that would lead clients to other servers."""
    safe = {key: value for key, value in environ.items() if not key.startswith(("AWS_", "SUPERVISOR_", "DAGSTER_"))}
    direct = ",".join(filter(None, (environ.get("NO_PROXY"), HOST, "localhost")))
    return {
        **safe,
        "NO_PROXY": direct,
        "no_proxy": direct,
        "PYTHONUNBUFFERED": "1",
        **SWITCHES,
        **environment(stack),
        MARKER: str(stack.folder),
    }


def tail(log: Path, lines: int) -> str:
    try:
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - 8192))
            return "\n".join(file.read().decode(errors="replace").splitlines()[-lines:])
    except FileNotFoundError:
        return f"(no {log})"
