from __future__ import annotations

import pytest
from pytest_socket import socket_allow_hosts

import rag  # noqa: F401 - before any dependency: importing rag turns off their telemetry


def pytest_runtest_setup(item: pytest.Item) -> None:
    """No test leaves this machine."""
    socket_allow_hosts(["127.0.0.1", "::1", "localhost"], allow_unix_socket=True)
