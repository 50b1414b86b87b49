"""The common part of the small local servers: three arguments, loopback only, and one process per data directory."""

from __future__ import annotations

import argparse
import ipaddress
import os
import socket
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout


@dataclass(frozen=True)
class Place:
    """The address of a server and the directory that it owns. The process holds `claim` for as long as it lives."""

    host: str
    port: int
    data: Path
    claim: FileLock


def arguments(program: str, description: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=f"python -m deploy.local.{program}", description=description)
    parser.add_argument("--host", default="127.0.0.1", help="a loopback address (default %(default)s)")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--data", type=Path, required=True, help="directory this server alone writes to")
    return parser


def place(options: argparse.Namespace) -> Place:
    """Check the address, make the directory and claim it. Exits with one line when one of these is refused."""
    require_loopback(options.host)
    require_free(options.host, options.port)
    data: Path = options.data.resolve()
    data.mkdir(parents=True, exist_ok=True, mode=0o700)
    return Place(options.host, options.port, data, claim(data))


def require_loopback(host: str) -> None:
    """Exit unless the host is a loopback address, because these servers are for this machine only."""
    if not is_loopback(host):
        raise SystemExit(f"refusing to listen on {host!r}: a development server; use --host 127.0.0.1")


def is_loopback(host: str) -> bool:
    """Return whether a host without a port is a loopback address, `localhost`, or a name under it."""
    name = host.strip("[]").lower()
    if name == "localhost" or name.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


def is_loopback_authority(authority: str) -> bool:
    """Return whether the value of a `Host` header names this machine. Web pages that rebind their own name fail this check."""
    host, _, port = authority.rpartition(":")
    return is_loopback(host if host and port.isdigit() else authority)


def require_free(host: str, port: int) -> None:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise SystemExit(f"cannot listen on {host}:{port}: {error.strerror}; choose another --port") from None


def claim(data: Path) -> FileLock:
    """Lock the directory for this process. The kernel drops the lock with the process, so a kill -9 leaves nothing to clean."""
    lock = FileLock(data / "claim", mode=0o600)
    try:
        lock.acquire(blocking=False)
    except Timeout:
        holder = (data / "claim").read_text().strip() or "another process"
        raise SystemExit(f"{data} is in use by {holder}; stop it or choose another --data") from None
    (data / "claim").write_text(f"process {os.getpid()}")
    return lock
