"""Rules for every test: it stays on this machine, says what it needs, and starts no process unless it is marked for that."""

from __future__ import annotations

import gc
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from copy import copy
from pathlib import Path
from typing import Any

import pytest
from pytest_socket import socket_allow_hosts

import rag  # noqa: F401 - before any dependency: importing rag turns off their telemetry
from deploy.local.issuer.keys import Keys
from deploy.local.stack import ROOT, parse

SHARED = Path(__file__).parents[2] / "shared" / "data"  # real documents, kept beside the repository
STARTS = {"subprocess.Popen", "os.fork", "os.forkpty", "os.posix_spawn"}  # events of the interpreter's audit
HEAVY_FIXTURES = {"run_server", "database_url", "event_servers", "sandbox", "hostile", "minilm"}
"""Fixtures that start a process or load the default model. A test that uses one is ``heavy``."""

_running: pytest.Item | None = None


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--snapshot", action="store_true", help="write the recorded descriptions of API and assets anew")


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real documents. Its licences forbid a copy in the repository, so a plain clone lacks it."""
    if not SHARED.is_dir():
        pytest.skip(f"NOT TESTED: the real documents of {SHARED} are absent. Tests marked `corpus` need them.")
    return SHARED


def _local(verb: str, folder: Path, *arguments: str) -> None:
    command = [sys.executable, "-m", "deploy.local", verb, "--dir", str(folder), *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout}\n{done.stderr}"


@pytest.fixture(scope="session")
def database_url() -> Iterator[str]:
    """Return the address of a PostgreSQL with the ledger's schema."""
    folder = Path(tempfile.mkdtemp(prefix="tidemark-postgres-"))
    try:
        _local("up", folder, "--only", "ledger", "--free-ports")
        yield parse((folder / "env").read_text())["DATABASE_URL"]
    finally:
        _local("clean", folder)
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def event_servers() -> Iterator[Mapping[str, str]]:
    """Start Kafka and the schema registry with the topics of the table. Return the values of their env file."""
    folder = Path(tempfile.mkdtemp(prefix="tidemark-kafka-"))
    try:
        _local("up", folder, "--only", "topics", "--free-ports")
        yield parse((folder / "env").read_text())
    finally:
        _local("clean", folder)
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def generated_keys(tmp_path_factory: pytest.TempPathFactory) -> Keys:
    return Keys(tmp_path_factory.mktemp("issuer") / "keys.json")


@pytest.fixture
def signing_keys(generated_keys: Keys, tmp_path: Path) -> Keys:
    """The issuer's keys in a file of this test. They are generated and checked once, which takes 0.1 s."""
    keys = copy(generated_keys)
    keys.path = Path(shutil.copy2(generated_keys.path, tmp_path))
    return keys


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark each test for the fixtures that it uses, so that ``-m`` can leave it out."""
    for item in items:
        fixtures = set(getattr(item, "fixturenames", ()))
        if "shared" in fixtures:
            item.add_marker("corpus")
        if fixtures & HEAVY_FIXTURES:
            item.add_marker("heavy")


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Any:
    """Import the tests without the garbage collector, which took half of the time, and keep it from their modules later."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


def pytest_runtest_setup(item: pytest.Item) -> None:
    """No test leaves this machine."""
    socket_allow_hosts(["127.0.0.1", "::1", "localhost"], allow_unix_socket=True)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Any:
    global _running
    _running = item
    try:
        return (yield)
    finally:
        _running = None


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_teardown() -> None:
    """The last test of a session also ends the servers of all the others, whatever it is marked itself."""
    global _running
    _running = None


def _refuse_processes(event: str, _: tuple[Any, ...]) -> None:
    """Fail a test that starts a process without a mark: ``make unit`` would no longer be the quick tests."""
    if event not in STARTS or _running is None:
        return
    if not any(_running.get_closest_marker(mark) for mark in ("heavy", "live")):
        raise RuntimeError(f"{_running.nodeid} starts a process ({event}): mark it `heavy`, or use a part in memory")


sys.addaudithook(_refuse_processes)
