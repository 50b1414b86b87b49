"""Whether a run's process lives, judged by the run's own events."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from unittest.mock import patch

import dagster as dg
import pytest
from dagster._core.events import EngineEventData
from dagster._core.launcher import WorkerStatus
from dagster._core.storage.tags import GRPC_INFO_TAG

from deploy.local.dagster.launcher import LocalRunLauncher

GONE = 2**22 + 1  # no system counts its processes so far


@pytest.fixture(scope="module")
def instance() -> Iterator[dg.DagsterInstance]:
    launcher = {"module": "deploy.local.dagster.launcher", "class": "LocalRunLauncher"}
    with dg.instance_for_test(overrides={"run_launcher": launcher}) as instance:
        yield instance


def status(instance: dg.DagsterInstance, pid: int | None) -> WorkerStatus:
    """The health of a new run that has reported to run in the process."""
    run = instance.create_run_for_job(dg.job(name="work")(lambda: None))
    instance.report_engine_event("Starting", run)
    if pid is not None:
        instance.report_engine_event(f"Started process for run (pid: {pid}).", run, EngineEventData.in_process(pid))
    assert isinstance(instance.run_launcher, LocalRunLauncher)
    assert instance.run_launcher.supports_check_run_worker_health
    return instance.run_launcher.check_run_worker_health(run).status


@pytest.mark.heavy
def test_a_run_is_running_while_its_process_lives_and_failed_afterwards(instance: dg.DagsterInstance) -> None:
    worker = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        assert status(instance, worker.pid) is WorkerStatus.RUNNING
        worker.kill()
        deadline = time.monotonic() + 10
        while status(instance, worker.pid) is WorkerStatus.RUNNING and time.monotonic() < deadline:
            pass
        assert status(instance, worker.pid) is WorkerStatus.FAILED  # a zombie, for nobody has waited for it
    finally:
        worker.communicate()
    assert status(instance, worker.pid) is WorkerStatus.FAILED


def test_a_run_does_not_fail_before_its_code_location_is_back_to_retry_it(instance: dg.DagsterInstance) -> None:
    run = instance.create_run_for_job(dg.job(name="work")(lambda: None))
    instance.report_engine_event("Started process for run", run, EngineEventData.in_process(GONE))
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    instance.add_run_tags(run.run_id, {GRPC_INFO_TAG: json.dumps({"host": "127.0.0.1", "port": port})})
    launcher = instance.run_launcher
    assert launcher.check_run_worker_health(run).status is WorkerStatus.RUNNING
    with patch("dagster._grpc.client.DagsterGrpcClient.ping", return_value={"echo": "health"}):
        assert launcher.check_run_worker_health(run).status is WorkerStatus.FAILED


@pytest.mark.heavy
def test_a_later_process_with_the_same_number_is_not_the_runs_own(instance: dg.DagsterInstance) -> None:
    worker = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        with patch("psutil.Process.create_time", return_value=time.time() + 60):
            assert status(instance, worker.pid) is WorkerStatus.FAILED
    finally:
        worker.communicate()


def test_a_run_that_has_not_named_its_process_is_left_alone(instance: dg.DagsterInstance) -> None:
    assert status(instance, None) is WorkerStatus.RUNNING
