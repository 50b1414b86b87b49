from __future__ import annotations

from pathlib import Path

import pytest
from pytest_socket import socket_allow_hosts

import rag  # noqa: F401 - before any dependency: importing rag turns off their telemetry

SHARED = Path(__file__).parents[2] / "shared" / "data"  # real documents, kept beside the repository


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--snapshot", action="store_true", help="write the recorded descriptions of API and assets anew")


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real documents. Its licences forbid a copy in the repository, so a plain clone lacks it."""
    if not SHARED.is_dir():
        pytest.skip(f"NOT TESTED: the real documents of {SHARED} are absent. Tests marked `corpus` need them.")
    return SHARED


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark each test that reads the shared folder, so that `-m "not corpus"` leaves it out."""
    for item in items:
        if "shared" in getattr(item, "fixturenames", ()):
            item.add_marker("corpus")


def pytest_runtest_setup(item: pytest.Item) -> None:
    """No test leaves this machine."""
    socket_allow_hosts(["127.0.0.1", "::1", "localhost"], allow_unix_socket=True)
