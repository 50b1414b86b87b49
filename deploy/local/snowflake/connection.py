"""The connection parameters for clients of the local warehouse, which need not import the server."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rag.no_telemetry import SNOWFLAKE_SESSION

DATABASE, SCHEMA = "TIDEMARK", "PUBLIC"


def connection_parameters(env: Mapping[str, str]) -> dict[str, Any]:
    """Return the arguments for `snowflake.connector.connect`, from the names in `.stack/env`."""
    return {
        "account": env.get("SNOWFLAKE_ACCOUNT", "tidemark"),
        "user": env.get("SNOWFLAKE_USER") or "tidemark",
        "password": env.get("SNOWFLAKE_PASSWORD") or "local",
        "protocol": "http",
        "host": env["SNOWFLAKE_HOST"],
        "port": int(env["SNOWFLAKE_PORT"]),
        "database": env.get("SNOWFLAKE_DATABASE", DATABASE),
        "schema": env.get("SNOWFLAKE_SCHEMA", SCHEMA),
        "platform_detection_timeout_seconds": 0.0,  # otherwise each login asks the metadata services of three clouds
        "session_parameters": dict(SNOWFLAKE_SESSION),
    }


def resource_parameters(env: Mapping[str, str]) -> dict[str, Any]:
    """Return the arguments for `SnowflakeResource`, which has no fields for host, port, protocol and session parameters."""
    parameters = connection_parameters(env)
    additional = {
        name: parameters.pop(name)
        for name in ("protocol", "host", "port", "platform_detection_timeout_seconds", "session_parameters")
    }
    return parameters | {"additional_snowflake_connection_args": additional}
