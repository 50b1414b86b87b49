from __future__ import annotations

import socket
import stat
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from deploy.local.errors import StackError
from deploy.local.stack import FREE_PORTS, PORTS, SECRETS, environment, open_stack, parse, render

# What ARCHITECTURE.md and .env.example promise to clients.
PROMISED = (
    "GATEWAY_URL",
    "OIDC_ISSUER",
    "OIDC_AUDIENCE",
    "OIDC_CLIENT_ID",
    "OIDC_CLIENT_SECRET",
    "KAFKA_BOOTSTRAP",
    "SCHEMA_REGISTRY_URL",
    "DATABASE_URL",
    "QDRANT_URL",
    "QDRANT_API_KEY",
    "QDRANT_READ_ONLY_API_KEY",
    "REDIS_URL",
    "S3_ENDPOINT_URL",
    "S3_BUCKET",
    "S3_QUEUE_URL",
    "INTERNAL_BUCKET",
    "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_REGION",
    "SNOWFLAKE_HOST",
    "SNOWFLAKE_PORT",
    "DAGSTER_URL",
    "INBOX_DIR",
    "ARTIFACTS_URL",
    "IDENTITY_SECRET",
    "SIGNING_KEY",
    "TIDEMARK_ENVIRONMENT",
    "MODELS_DIR",
)


def test_the_env_file_has_every_promised_value(tmp_path: Path) -> None:
    open_stack(tmp_path, environ={})
    values = parse((tmp_path / "env").read_text())
    assert [name for name in PROMISED if not values.get(name)] == []


def test_every_address_in_the_env_file_is_the_loopback_address(tmp_path: Path) -> None:
    values = environment(open_stack(tmp_path, environ={}))
    addresses = {urlsplit(value).hostname for name, value in values.items() if name.endswith("_URL")} - {None}
    assert addresses == {"127.0.0.1"}
    assert values["KAFKA_BOOTSTRAP"] == f"127.0.0.1:{PORTS['kafka']}"


def test_only_the_owner_can_read_the_env_file(tmp_path: Path) -> None:
    stack = open_stack(tmp_path, environ={})
    assert stat.S_IMODE(stack.env_file.stat().st_mode) == 0o600


def test_secrets_are_random_and_kept(tmp_path: Path) -> None:
    first = open_stack(tmp_path / "a", environ={})
    assert open_stack(tmp_path / "a", environ={}).secrets == first.secrets
    other = open_stack(tmp_path / "b", environ={})
    assert not set(first.secrets.values()) & set(other.secrets.values())
    assert set(first.secrets) == set(SECRETS)


def test_free_ports_are_kept_without_being_asked_for_again(tmp_path: Path) -> None:
    first = open_stack(tmp_path, free_ports=True, environ={})
    assert all(port in FREE_PORTS for port in first.ports.values())
    assert len(set(first.ports.values())) == len(PORTS)
    assert open_stack(tmp_path, environ={}).ports == first.ports


def test_a_port_is_a_setting(tmp_path: Path) -> None:
    stack = open_stack(tmp_path, environ={"TIDEMARK_PORT_KAFKA": "20123"})
    assert environment(stack)["KAFKA_BOOTSTRAP"] == "127.0.0.1:20123"


def test_a_port_that_was_a_setting_once_stays_until_another_setting(tmp_path: Path) -> None:
    open_stack(tmp_path, environ={"TIDEMARK_PORT_KAFKA": "20123"})
    again = open_stack(tmp_path, environ={})
    assert again.ports == {**PORTS, "kafka": 20123}
    assert environment(again)["KAFKA_BOOTSTRAP"] == "127.0.0.1:20123"
    back = {"TIDEMARK_PORT_KAFKA": str(PORTS["kafka"])}
    assert open_stack(tmp_path, environ=back).ports == PORTS
    assert open_stack(tmp_path, environ={}).ports == PORTS


def test_a_setting_wins_over_a_free_port_and_free_ports_over_those_of_the_last_start(tmp_path: Path) -> None:
    open_stack(tmp_path, environ={"TIDEMARK_PORT_REDIS": "20124"})
    free = open_stack(tmp_path, free_ports=True, environ={"TIDEMARK_PORT_KAFKA": "20123"})
    assert free.ports["kafka"] == 20123
    assert free.ports["redis"] in FREE_PORTS
    assert free.ports["redis"] != 20124


@pytest.mark.parametrize("text", ["kafka", "0", "65536", "-1", "9092.5", "٩٠٩٢"])
def test_what_is_not_a_port_is_refused_by_name(tmp_path: Path, text: str) -> None:
    with pytest.raises(StackError, match="TIDEMARK_PORT_KAFKA"):
        open_stack(tmp_path, environ={"TIDEMARK_PORT_KAFKA": text})


def test_one_port_for_two_processes_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StackError, match="kafka, redis were given the same port"):
        open_stack(tmp_path, environ={"TIDEMARK_PORT_KAFKA": "20000", "TIDEMARK_PORT_REDIS": "20000"})


def test_free_ports_avoid_ports_in_use(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        taken = listener.getsockname()[1]
        monkeypatch.setattr("deploy.local.stack.FREE_PORTS", range(taken, taken + 200))
        assert taken not in open_stack(tmp_path, free_ports=True, environ={}).ports.values()


@pytest.mark.parametrize("name", ["with blank", "quo'te", "dol$lar", "per%cent", "hash#", "semi;colon"])
def test_a_folder_that_configuration_files_would_misread_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(StackError, match="choose another folder"):
        open_stack(tmp_path / name, environ={})
    assert not (tmp_path / name).exists()


def test_an_env_file_reads_back_the_written_values() -> None:
    values = {"A": "x=y", "B": "", "C": "http://u:p@h:1/x?y=z"}
    assert parse(render(values)) == values


def test_a_value_that_a_shell_would_change_is_refused() -> None:
    with pytest.raises(StackError, match="MODELS_DIR"):
        render({"MODELS_DIR": "/home/my models"})
