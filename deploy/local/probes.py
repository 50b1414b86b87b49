"""The probes of readiness: each tries an operation that clients will use. A probe returns at once, and False until it succeeds."""

from __future__ import annotations

import http.client
import json
import socket
from collections.abc import Callable
from typing import LiteralString

from deploy.local.stack import HOST, Stack

Probe = Callable[[float], bool]  # takes the start of the process in seconds since 1970

SECONDS = 2.0


def answers(port: int, path: str, status: int = 200) -> Probe:
    def probe(_: float) -> bool:
        connection = http.client.HTTPConnection(HOST, port, timeout=SECONDS)
        try:
            connection.request("GET", path)
            return connection.getresponse().status == status
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()

    return probe


def failing_sources(port: int) -> list[str]:
    """Return a line for each source that the consumers report as failing; none when the consumers do not answer."""
    connection = http.client.HTTPConnection(HOST, port, timeout=SECONDS)
    try:
        connection.request("GET", "/healthz")
        sources = json.load(connection.getresponse())["sources"]
        return [
            f"{name} has been failing since {source['since']}: {source['why']}"
            for name, source in sources.items()
            if source["state"] == "failing"
        ]
    except (OSError, http.client.HTTPException, ValueError, KeyError, TypeError, AttributeError):
        return []
    finally:
        connection.close()


def kafka(port: int) -> Probe:
    """Probe for the broker's registration with its controller, which follows the open port by seconds."""

    def probe(_: float) -> bool:
        if not _accepts(port):  # creating a client costs more than this look
            return False
        from confluent_kafka import KafkaException
        from confluent_kafka.admin import AdminClient

        client = AdminClient({
            "bootstrap.servers": f"{HOST}:{port}",
            "reconnect.backoff.ms": 50,
            "reconnect.backoff.max.ms": 100,
            "log_level": 0,
        })  # fmt: skip
        try:
            return bool(client.list_topics(timeout=SECONDS).brokers)
        except KafkaException:
            return False

    return probe


def redis(stack: Stack) -> Probe:
    def probe(_: float) -> bool:
        from redis import Redis, RedisError

        client = Redis(
            host=HOST, port=stack.ports["redis"], password=stack.secrets["REDIS_PASSWORD"], socket_timeout=SECONDS
        )
        try:
            return bool(client.ping())
        except RedisError:
            return False
        finally:
            client.close()

    return probe


def postgres(stack: Stack) -> Probe:
    return lambda _: _finds(stack.postgres_url("postgres"), "SELECT 1")


def dagster_daemon(stack: Stack) -> Probe:
    """Probe for a heartbeat of the sensor loop since the start of the process. Older heartbeats stay in the table."""
    query = (
        "SELECT 1 FROM daemon_heartbeats WHERE daemon_type = 'SENSOR'"
        " AND timestamp >= to_timestamp(%s) AT TIME ZONE 'UTC'"
    )
    return lambda started: _finds(stack.postgres_url("dagster"), query, started)


def dagster_webserver(port: int, locations: int) -> Probe:
    """Probe for every code location to be loaded."""
    query = "{workspaceOrError{... on Workspace{locationEntries{loadStatus locationOrLoadError{__typename}}}}}"

    def probe(_: float) -> bool:
        connection = http.client.HTTPConnection(HOST, port, timeout=SECONDS * 5)
        try:
            body = json.dumps({"query": query})
            connection.request("POST", "/graphql", body, {"Content-Type": "application/json"})
            answer = json.load(connection.getresponse())
            entries = answer["data"]["workspaceOrError"]["locationEntries"]
        except (OSError, http.client.HTTPException, ValueError, KeyError, TypeError):
            return False
        finally:
            connection.close()
        return [entry["loadStatus"] for entry in entries] == ["LOADED"] * locations

    return probe


def _finds(url: str, query: LiteralString, *values: object) -> bool:
    import psycopg

    try:
        with psycopg.connect(url, connect_timeout=int(SECONDS)) as connection:
            return connection.execute(query, values).fetchone() is not None
    except psycopg.Error:
        return False


def grpc(port: int) -> Probe:
    """Probe for the port of a code location, which opens after its definitions are loaded."""
    return lambda _: _accepts(port)


def _accepts(port: int) -> bool:
    try:
        socket.create_connection((HOST, port), SECONDS).close()
    except OSError:
        return False
    return True
