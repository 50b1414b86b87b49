"""The table of processes: the command of each, its probe of readiness, its ports and its needs."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from deploy.local import kafka, postgres, probes, redis, schema_registry
from deploy.local.dagster import instance
from deploy.local.probes import Probe
from deploy.local.stack import AUDIENCE, HOST, Stack

STREAM = "stream"  # the stream lane; without it, Dagster's sensor requests runs for new events


@dataclass(frozen=True, slots=True)
class Process:
    """One process of the stack. `needs` names the processes that must be ready, and the steps that must be done, before its start."""

    name: str
    command: tuple[str, ...]
    ready: Probe
    ports: tuple[str, ...] = ()
    needs: tuple[str, ...] = ()
    env: Mapping[str, str] = field(default_factory=dict)
    stop_signal: str = "TERM"
    prepare: Callable[[], None] | None = None
    infrastructure: bool = True


def table(stack: Stack) -> tuple[Process, ...]:
    return (*infrastructure(stack), *application(stack))


def infrastructure(stack: Stack) -> tuple[Process, ...]:
    port = stack.ports
    return (
        Process(
            "kafka", kafka.command(stack), probes.kafka(port["kafka"]),
            ports=("kafka", "kafka_controller"), needs=("downloads",), prepare=lambda: kafka.prepare(stack),
        ),
        Process(
            "registry", schema_registry.command(stack), probes.answers(port["registry"], "/apis/ccompat/v7/subjects"),
            ports=("registry", "registry_management"), needs=("downloads",), env=schema_registry.env(stack),
        ),
        Process(
            "postgres", postgres.command(stack), probes.postgres(stack),
            ports=("postgres",), stop_signal="INT", prepare=lambda: postgres.prepare(stack),
        ),
        Process(
            "redis", redis.command(stack), probes.redis(stack),
            ports=("redis",), prepare=lambda: redis.prepare(stack),
        ),
        Process("s3", _server(stack, "s3"), probes.answers(port["s3"], "/_health"), ports=("s3",)),
        Process(
            "issuer", (*_server(stack, "issuer"), "--audience", AUDIENCE),
            probes.answers(port["issuer"], "/.well-known/openid-configuration"), ports=("issuer",),
        ),
        Process("warehouse", _server(stack, "warehouse", "snowflake"), probes.answers(port["warehouse"], "/healthz"), ports=("warehouse",)),
        Process("qdrant", _server(stack, "qdrant"), probes.answers(port["qdrant"], "/healthz"), ports=("qdrant",)),
    )  # fmt: skip


def application(stack: Stack) -> tuple[Process, ...]:
    port = stack.ports
    return (
        *(
            Process(
                location, instance.code_location(stack, location, module), probes.grpc(port[location]),
                ports=(location,), needs=("instance",), infrastructure=False,
            )
            for location, module in instance.LOCATIONS.items()
        ),
        Process(
            "dagster", instance.webserver(stack), probes.dagster_webserver(port["dagster"], len(instance.LOCATIONS)),
            ports=("dagster",), needs=("databases", *instance.LOCATIONS), infrastructure=False,
        ),
        Process(
            "daemon", instance.daemon(stack), probes.dagster_daemon(stack),
            needs=("databases", "topics", "ledger", "buckets", *instance.LOCATIONS), infrastructure=False,
        ),
        Process(
            "consumers", (sys.executable, "-m", "consumers"), probes.answers(port["consumers"], "/healthz"),
            ports=("consumers",), needs=("topics", "buckets", "ledger", "tables", "redis"), infrastructure=False,
        ),
        Process(
            STREAM, (sys.executable, "-m", "consumers", "documents"), probes.answers(port["stream"], "/healthz"),
            ports=("stream",), needs=("topics", "buckets", "ledger", "qdrant"), infrastructure=False,
        ),
        Process(
            "gateway", (sys.executable, "-m", "gateway"), probes.answers(port["gateway"], "/readyz"),
            ports=("gateway", "gateway_metrics"), needs=("topics", "buckets", "qdrant", "index", "redis", "issuer"), infrastructure=False,
        ),
    )  # fmt: skip


def _server(stack: Stack, name: str, module: str | None = None) -> tuple[str, ...]:
    data = str(stack.folder / name)
    return (
        sys.executable,
        "-m",
        f"deploy.local.{module or name}",
        "--host",
        HOST,
        "--port",
        str(stack.ports[name]),
        "--data",
        data,
    )
