"""Real servers for the contract suites, each started once, separately, in a folder of its own."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from deploy.local.stack import ROOT, parse


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
