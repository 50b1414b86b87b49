"""Dagster's own run launcher, which also knows whether a run's process still lives.

Without that knowledge, a run whose process was killed stays STARTED for ever and blocks its partitions. With it, run monitoring
declares the run failed, and Dagster's run retries start it again.
"""

from __future__ import annotations

import psutil
from dagster import DagsterEvent, DagsterEventType, DagsterRun
from dagster._core.errors import DagsterUserCodeUnreachableError
from dagster._core.launcher import CheckRunHealthResult, DefaultRunLauncher, WorkerStatus

ROUNDING_SECONDS = 1.0  # of the system's start times of processes


class LocalRunLauncher(DefaultRunLauncher):
    """A launcher whose runs are processes of this machine. Each run's first event names its process.

    A run without such an event was started by other means. It counts as running, because run monitoring fails every other status.
    """

    @property
    def supports_check_run_worker_health(self) -> bool:
        return True

    def check_run_worker_health(self, run: DagsterRun) -> CheckRunHealthResult:
        found = self._instance.get_records_for_run(run.run_id, of_type=DagsterEventType.ENGINE_EVENT).records
        named = [
            (pid, record.timestamp) for record in found if (pid := _process_of(record.event_log_entry.dagster_event))
        ]
        if not named or any(_lives(pid, reported) for pid, reported in named):
            return CheckRunHealthResult(WorkerStatus.RUNNING)
        if not self._code_location_answers(run):
            # Dagster retries a failed run once, at once, and gives up if its code location is not back yet.
            return CheckRunHealthResult(WorkerStatus.RUNNING)
        return CheckRunHealthResult(
            WorkerStatus.FAILED, f"process {named[-1][0]} of the run has ended and left no result"
        )

    def _code_location_answers(self, run: DagsterRun) -> bool:
        client = self._get_grpc_client_for_termination(run.run_id)  # type: ignore[no-untyped-call]
        try:
            return client is None or bool(client.ping("health"))
        except DagsterUserCodeUnreachableError:
            return False


def _process_of(event: DagsterEvent | None) -> int | None:
    value = event.engine_event_data.metadata.get("pid") if event else None
    return int(str(value.value)) if value else None


def _lives(pid: int, reported: float) -> bool:
    """Distinguish the process from a later one with its number, by the time of its report (seconds since 1970)."""
    try:
        process = psutil.Process(pid)
        return process.status() != psutil.STATUS_ZOMBIE and process.create_time() <= reported + ROUNDING_SECONDS
    except psutil.NoSuchProcess:
        return False
