"""Local servers as the supervisor runs them: real processes, on free ports, in temporary directories."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

ROOT = Path(__file__).parents[2]
START_SECONDS = 60


class Server:
    """`python -m deploy.local.<module>`, ready when its health path answers."""

    def __init__(self, module: str, data: Path, health: str, environment: dict[str, str] | None = None) -> None:
        self.module, self.data, self.health, self.environment = module, data, health, environment or {}
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port: int = probe.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.process: subprocess.Popen[bytes] | None = None

    def command(self, *arguments: str) -> list[str]:
        where = ["--port", str(self.port), "--data", str(self.data)]
        return [sys.executable, "-m", f"deploy.local.{self.module}", *where, *arguments]

    def start(self, *arguments: str) -> Server:
        self.log = (self.data.parent / f"{self.module}.log").open("ab")
        self.process = subprocess.Popen(
            self.command(*arguments), cwd=ROOT, env=os.environ | self.environment, stdout=self.log, stderr=self.log
        )
        self.log.close()  # the server has a copy of the descriptor
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            if self.process.poll() is not None:
                pytest.fail(f"{self.module} ended at start:\n{Path(self.log.name).read_text()}")
            try:
                if httpx.get(self.url + self.health, timeout=5).status_code == 200:
                    return self
            except httpx.TransportError:
                time.sleep(0.05)
        pytest.fail(f"{self.module} was not ready in {START_SECONDS} s:\n{Path(self.log.name).read_text()}")

    def stop(self, how: int = signal.SIGTERM) -> int:
        assert self.process is not None
        self.process.send_signal(how)
        return self.process.wait(timeout=20)

    def kill_and_restart(self) -> Server:
        self.stop(signal.SIGKILL)
        return self.start()


@pytest.fixture(scope="module")
def run_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Server]]:
    """Start a server in a directory of its own; it is killed when the module's tests are over, if it still runs."""
    servers: list[Server] = []

    def run(module: str, health: str, *arguments: str, environment: dict[str, str] | None = None) -> Server:
        servers.append(Server(module, tmp_path_factory.mktemp(module) / module, health, environment))
        return servers[-1].start(*arguments)

    yield run
    for server in servers:
        if server.process is not None and server.process.poll() is None:
            server.stop(signal.SIGKILL)
