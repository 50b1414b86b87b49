from __future__ import annotations

import configparser
import graphlib
from pathlib import Path

import pytest

from deploy.local.bootstrap import steps
from deploy.local.errors import StackError
from deploy.local.lifecycle import Part, choose
from deploy.local.processes import table
from deploy.local.stack import PORTS, Stack, open_stack
from deploy.local.supervision import inherited, render
from rag.no_telemetry import SWITCHES


@pytest.fixture
def stack(tmp_path: Path) -> Stack:
    return open_stack(tmp_path, environ={})


def test_every_need_is_in_the_table_and_none_is_circular(stack: Stack) -> None:
    parts: tuple[Part, ...] = (*table(stack), *steps())
    needs = {part.name: set(part.needs) for part in parts}
    assert set(graphlib.TopologicalSorter(needs).static_order()) == set(needs)


def test_every_port_belongs_to_exactly_one_process(stack: Stack) -> None:
    assert sorted(port for process in table(stack) for port in process.ports) == sorted(PORTS)


def test_infrastructure_needs_no_application(stack: Stack) -> None:
    chosen = choose(stack, ["infrastructure"])
    assert {
        "kafka",
        "registry",
        "postgres",
        "redis",
        "s3",
        "issuer",
        "warehouse",
        "qdrant",
        "topics",
        "buckets",
    } <= set(chosen)
    assert not {"gateway", "consumers", "dagster", "daemon", "index"} & set(chosen)


def test_the_gateway_starts_when_the_index_is_there_which_its_key_cannot_create(stack: Stack) -> None:
    assert {"index", "ledger", "qdrant"} <= set(choose(stack, ["gateway"]))


def test_a_named_process_brings_the_parts_that_it_needs(stack: Stack) -> None:
    assert set(choose(stack, ["topics"])) == {"topics", "kafka", "compatibility", "registry", "downloads"}


def test_an_unknown_name_is_refused_with_the_known_ones(stack: Stack) -> None:
    with pytest.raises(StackError, match=r"--only kafak: .*kafka"):
        choose(stack, ["kafak"])


def test_no_secret_is_on_a_command_line_or_in_the_supervisors_configuration(stack: Stack) -> None:
    text = render(stack, table(stack), stack.folder / "socket")
    assert [name for name, secret in stack.secrets.items() if secret in text] == []


def test_the_configuration_gives_every_process_its_own_log(stack: Stack) -> None:
    parser = configparser.RawConfigParser()
    parser.read_string(render(stack, table(stack), stack.folder / "socket"))
    logs = [parser.get(f"program:{process.name}", "stdout_logfile") for process in table(stack)]
    assert len(set(logs)) == len(logs)
    assert all(Path(log).parent == stack.logs for log in logs)


def test_processes_do_not_inherit_settings_that_lead_to_other_services(stack: Stack) -> None:
    given = {
        "AWS_PROFILE": "work",
        "AWS_ENDPOINT_URL": "x",
        "DAGSTER_HOME": "y",
        "PATH": "/bin",
        "NO_PROXY": "example.org",
    }
    env = inherited(stack, given)
    assert "AWS_PROFILE" not in env
    assert "AWS_ENDPOINT_URL" not in env
    assert env["DAGSTER_HOME"] == str(stack.folder / "dagster")
    assert env["PATH"] == "/bin"
    assert env["NO_PROXY"] == "example.org,127.0.0.1,localhost"


def test_no_process_reports_to_the_makers_of_its_libraries(stack: Stack) -> None:
    assert inherited(stack, {"DO_NOT_TRACK": ""}).items() >= SWITCHES.items()
