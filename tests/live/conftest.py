"""A stack of its own for tests: in a temporary folder, on free ports, gone afterwards whatever happens."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from deploy.local.stack import ROOT, parse
from tests.live.world import Traces, otlp_receiver

SECONDS = 600  # the first start of a machine downloads Kafka


@dataclass(frozen=True)
class LocalStack:
    folder: Path

    def run(self, *arguments: str) -> str:
        """What `python -m deploy.local ARGUMENTS --dir FOLDER` printed; fails the test when it fails."""
        done = subprocess.run(
            [sys.executable, "-m", "deploy.local", *arguments, "--dir", str(self.folder)],
            cwd=ROOT, env=_environ(), capture_output=True, text=True, check=False, timeout=SECONDS,
        )  # fmt: skip
        assert done.returncode == 0, f"deploy.local {' '.join(arguments)}:\n{done.stdout}\n{done.stderr}"
        return done.stdout

    @property
    def env(self) -> Mapping[str, str]:
        return parse((self.folder / "env").read_text())


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.is_relative_to(Path(__file__).parent):
            item.add_marker(pytest.mark.live)
            if item.get_closest_marker("timeout") is None:
                item.add_marker(pytest.mark.timeout(SECONDS))


@contextmanager
def temporary_stack() -> Iterator[LocalStack]:
    stack = LocalStack(Path(tempfile.mkdtemp(prefix="tidemark-test-")))
    # Should this process be killed, its finally is not reached: somebody else waits for its end.
    heir = [sys.executable, "-m", "deploy.local", "clean", "--after-pid", str(os.getpid()), "--dir", str(stack.folder)]
    watcher = subprocess.Popen(heir, cwd=ROOT, env=_environ(), start_new_session=True, stdout=subprocess.DEVNULL)
    try:
        yield stack
    finally:
        if keep := os.environ.get("KEEP_LOGS"):
            shutil.copytree(stack.folder / "logs", keep, dirs_exist_ok=True)
        stack.run("clean")
        watcher.kill()
        watcher.wait()


@pytest.fixture(scope="session")
def _received() -> Iterator[tuple[str, Traces]]:
    with otlp_receiver() as receiver:
        yield receiver


@pytest.fixture(scope="session")
def traces(_received: tuple[str, Traces]) -> Traces:
    """What the processes of the stack export."""
    return _received[1]


@pytest.fixture(scope="session")
def stack(_received: tuple[str, Traces]) -> Iterator[Mapping[str, str]]:
    """The whole stack, running: the values of its env file."""
    settings = {
        "OTEL_EXPORTER_OTLP_ENDPOINT": _received[0],
        "RECONCILE_SECONDS": "15",
        "POLL_SECONDS": "1",
    }
    with pytest.MonkeyPatch.context() as patch, temporary_stack() as local:
        for name, value in settings.items():
            patch.setenv(name, value)
        local.run("up", "--free-ports", "--lane", "dagster")
        yield local.env


@pytest.fixture(scope="module")
def own_stack() -> Iterator[LocalStack]:
    """A stack for one module to mistreat, not started yet."""
    with temporary_stack() as local:
        yield local


def _environ() -> dict[str, str]:
    """A developer's own ports and folder stay out of it."""
    return {key: value for key, value in os.environ.items() if not key.startswith(("TIDEMARK_PORT_", "TIDEMARK_STACK"))}
