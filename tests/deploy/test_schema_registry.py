"""Apicurio on the local stack's own settings, traced: it serves, and it calls no one."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest

from deploy.local import jars, probes, schema_registry
from deploy.local.stack import open_stack

pytestmark = pytest.mark.heavy

START_SECONDS = 90
TRACE = ("strace", "-f", "--seccomp-bpf", "-qq", "-e", "signal=none", "-e", "trace=connect,sendto,sendmsg,sendmmsg")


@pytest.mark.live
@pytest.mark.timeout(START_SECONDS + 60)
def test_the_registry_starts_without_a_look_up_or_a_connection(tmp_path: Path) -> None:
    log = tmp_path / "strace"
    if not shutil.which("strace") or subprocess.run([*TRACE, "-o", str(log), "true"], capture_output=True).returncode:
        pytest.skip("strace may not trace here: connections of the schema registry are NOT checked")
    stack = open_stack(tmp_path / "stack", free_ports=True)
    jars.fetch(stack.cache, lambda _name, _bytes: lambda _received: None)
    home = tmp_path / "home"
    home.mkdir()
    process = subprocess.Popen(
        [*TRACE, "-o", str(log), *schema_registry.command(stack)],
        env={"PATH": os.environ["PATH"], "HOME": str(home), **schema_registry.env(stack)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        ready = probes.answers(stack.ports["registry"], "/apis/ccompat/v7/subjects")
        deadline = time.monotonic() + START_SECONDS
        while not ready(0.0):
            assert process.poll() is None, "the registry ended"
            assert time.monotonic() < deadline, f"the registry is not ready after {START_SECONDS} s"
            time.sleep(0.2)
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait(20)
    assert not [call for call in log.read_text(errors="replace").splitlines() if "AF_INET" in call]
    assert list(home.iterdir()) == []
