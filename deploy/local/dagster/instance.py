"""The settings and commands of Dagster: two code locations, shared by webserver and daemon, and its storage in PostgreSQL."""

from __future__ import annotations

import sys
from pathlib import Path

from deploy.local.stack import HOST, Stack

# Importing dagster-snowflake takes seconds, so its assets have a process of their own.
LOCATIONS = {"assets": "assets.definitions", "snowflake_assets": "assets.snowflake_definitions"}

INSTANCE = """\
storage:
  postgres:
    postgres_url:
      env: DAGSTER_DATABASE_URL
telemetry:
  enabled: false
nux:
  enabled: false  # the form that asks for an e-mail address
run_launcher:
  module: deploy.local.dagster.launcher
  class: LocalRunLauncher
run_coordinator:
  module: dagster.core.run_coordinator
  class: QueuedRunCoordinator
  config:
    dequeue_interval_seconds: 1
    dequeue_use_threads: true  # without threads, launches wait for each other
    dequeue_num_workers: 2
    # A code location that was killed is back within a minute; its runs wait in the queue meanwhile.
    max_user_code_failure_retries: 20
    user_code_failure_retry_delay: 10
concurrency:
  runs:
    max_concurrent_runs: 2
run_retries:
  enabled: true
  max_retries: 3
  retry_on_asset_or_op_failure: false  # only runs whose process was lost: the sensor decides about the others
run_monitoring:
  enabled: true
  start_timeout_seconds: 120
  poll_interval_seconds: 10
"""


def configure(stack: Stack) -> None:
    home = stack.folder / "dagster"
    home.mkdir(exist_ok=True)
    (home / "dagster.yaml").write_text(INSTANCE)
    servers = (
        f"  - grpc_server:\n      host: {HOST}\n      port: {stack.ports[location]}\n      location_name: {location}\n"
        for location in LOCATIONS
    )
    _workspace(stack).write_text("load_from:\n" + "".join(servers))


def code_location(stack: Stack, location: str, module: str) -> tuple[str, ...]:
    return (
        *_dagster("deploy.local.dagster.code_location"), module, "-h", HOST, "-p", str(stack.ports[location]),
        "--location-name", location,
    )  # fmt: skip


def webserver(stack: Stack) -> tuple[str, ...]:
    return (
        *_dagster("deploy.local.dagster.webserver"),
        "-h",
        HOST,
        "-p",
        str(stack.ports["dagster"]),
        "-w",
        str(_workspace(stack)),
    )


def daemon(stack: Stack) -> tuple[str, ...]:
    return (*_dagster("dagster._daemon"), "run", "-w", str(_workspace(stack)))


def _dagster(module: str) -> tuple[str, ...]:
    return (sys.executable, "-m", module)


def _workspace(stack: Stack) -> Path:
    return stack.folder / "dagster" / "workspace.yaml"
