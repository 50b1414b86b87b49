from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from deploy.local import lifecycle, process_tree
from deploy.local.stack import ROOT

pytestmark = pytest.mark.heavy

STUBBORN = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('ready', flush=True); signal.pause()"
OBEDIENT = "import signal; print('ready', flush=True); signal.pause()"


@contextmanager
def running(code: str, folder: Path | None) -> Iterator[subprocess.Popen[str]]:
    env = {**os.environ, **({process_tree.MARKER: str(folder)} if folder else {})}
    child = subprocess.Popen([sys.executable, "-c", code], env=env, stdout=subprocess.PIPE, text=True)
    try:
        assert child.stdout
        assert child.stdout.readline() == "ready\n"
        yield child
    finally:
        child.kill()
        child.wait()
        if child.stdout is not None:
            child.stdout.close()


def test_a_process_of_the_stack_is_found_and_ended(tmp_path: Path) -> None:
    with running(OBEDIENT, tmp_path) as child:
        assert [process.pid for process in process_tree.processes_of(tmp_path)] == [child.pid]
        assert process_tree.end(tmp_path) == 1
        assert process_tree.processes_of(tmp_path) == []


def test_one_that_ignores_the_polite_signal_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process_tree, "PATIENCE_SECONDS", 0.3)
    with running(STUBBORN, tmp_path):
        assert process_tree.end(tmp_path) == 1
        assert process_tree.processes_of(tmp_path) == []


def test_another_stack_and_other_processes_are_left_alone(tmp_path: Path) -> None:
    with running(OBEDIENT, tmp_path / "other") as other, running(OBEDIENT, None) as unrelated:
        assert process_tree.end(tmp_path) == 0
        assert other.poll() is None
        assert unrelated.poll() is None


def test_a_shell_in_the_folder_of_the_stack_is_left_alone(tmp_path: Path) -> None:
    child = subprocess.Popen([sys.executable, "-c", OBEDIENT], cwd=tmp_path, stdout=subprocess.DEVNULL)
    try:
        assert process_tree.processes_of(tmp_path) == []
    finally:
        child.kill()
        child.wait()


def test_a_child_without_the_supervisor_still_belongs_to_the_stack(tmp_path: Path) -> None:
    code = f"import subprocess, sys; subprocess.Popen([sys.executable, '-c', {OBEDIENT!r}])"
    subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, process_tree.MARKER: str(tmp_path)},
        check=True,
        stdout=subprocess.DEVNULL,
    )
    assert len(process_tree.processes_of(tmp_path)) == 1
    assert process_tree.end(tmp_path) == 1
    assert process_tree.processes_of(tmp_path) == []


def test_down_ends_a_stack_whose_folder_was_removed(tmp_path: Path) -> None:
    with running(OBEDIENT, tmp_path / "gone"):
        assert lifecycle.down(tmp_path / "gone", None) == 1
        assert process_tree.processes_of(tmp_path / "gone") == []


def test_the_holder_of_a_port_is_named() -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        assert f"pid {os.getpid()}" in process_tree.holder_of(listener.getsockname()[1])


def test_a_stack_ends_with_the_process_it_was_started_for(tmp_path: Path) -> None:
    folder = tmp_path / "stack"
    folder.mkdir()
    command = [sys.executable, "-m", "deploy.local", "clean", "--dir", str(folder), "--after-pid"]
    with running(OBEDIENT, None) as owner, running(OBEDIENT, folder):
        heir = subprocess.Popen([*command, str(owner.pid)], cwd=ROOT, stdout=subprocess.DEVNULL)
        owner.kill()
        owner.wait()
        assert heir.wait(60) == 0
        assert process_tree.processes_of(folder) == []
    assert not folder.exists()
