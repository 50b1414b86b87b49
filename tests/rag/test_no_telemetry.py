"""No dependency sends telemetry: each is imported in an empty home, and new files and connections are recorded."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from rag.no_telemetry import SWITCHES

pytestmark = pytest.mark.heavy

ROOT = Path(__file__).parents[2]
IMPORTS = Path(__file__).with_name("import_everything.py")
STRACE = ("strace", "-f", "-qq", "-e", "signal=none", "-e", "trace=connect,sendto,sendmsg,sendmmsg")
OFFLINE = ("-e", "inject=connect:error=ENETUNREACH")


@dataclass(frozen=True)
class Imported:
    """The traces of a child process that imported every dependency."""

    output: str
    files: list[str]
    system_calls: list[str] | None  # None: strace cannot run here


def traceable() -> bool:
    return bool(shutil.which("strace")) and not subprocess.run(["strace", "-qq", "-o", os.devnull, "true"]).returncode


@pytest.fixture(scope="module")
def imported(tmp_path_factory: pytest.TempPathFactory) -> Imported:
    """Import everything in a new environment, so that no variable of this process turns telemetry off."""
    home = tmp_path_factory.mktemp("home")
    scratch = tmp_path_factory.mktemp("scratch")
    log = tmp_path_factory.mktemp("log") / "strace"
    tracer = (*STRACE, *OFFLINE, "-o", str(log)) if traceable() else ()
    done = subprocess.run(
        [*tracer, sys.executable, "-B", "-W", "ignore", str(IMPORTS), str(ROOT)],
        env={"HOME": str(home), "PATH": os.environ["PATH"], "TMPDIR": str(scratch), "XDG_RUNTIME_DIR": str(scratch)},
        cwd=scratch,
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return Imported(
        done.stdout,
        [
            str(path)
            for path in (*home.rglob("*"), *scratch.rglob("*"))
            if not (path.is_dir() and scratch in path.parents)
        ],
        log.read_text(errors="replace").splitlines() if tracer else None,
    )


@pytest.mark.timeout(300)
def test_every_dependency_is_imported(imported: Imported) -> None:
    modules = set(re.findall(r"^imported (\S+)", imported.output, re.MULTILINE))
    assert {
        "onnxruntime",
        "unstructured",
        "dagster",
        "dagster_snowflake",
        "ragas",
        "llama_index.core",
        "moto",
    } <= modules
    assert not re.findall(r"^failed .*", imported.output, re.MULTILINE)


def test_no_import_writes_into_the_home_or_leaves_a_temporary_file(imported: Imported) -> None:
    """An empty temporary folder is allowed: fakesnow makes one for its bucket."""
    assert imported.files == []


def test_no_import_resolves_a_name_or_opens_a_connection(imported: Imported) -> None:
    assert not re.findall(r"^network .*", imported.output, re.MULTILINE)


def test_no_native_code_resolves_a_name_or_opens_a_connection(imported: Imported) -> None:
    """Audit hooks observe Python's sockets only. The native library of onnxruntime opens its own sockets."""
    if imported.system_calls is None:
        pytest.skip("strace is not installed or may not trace: connections of native code are NOT checked here")
    assert not [call for call in imported.system_calls if "AF_INET" in call]


def test_the_image_sets_every_switch() -> None:
    """Dagster's webserver and daemon do not import a module of the project, so the image must set the variables."""
    dockerfile = (ROOT / "deploy" / "Dockerfile").read_text()
    missing = [f"{name}={value}" for name, value in SWITCHES.items() if f"{name}={value}" not in dockerfile]
    assert not missing
