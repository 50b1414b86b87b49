"""How clients reach the local warehouse. Apart from the server, so that they need not import it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

DATABASE, SCHEMA = "TIDEMARK", "PUBLIC"


def connection_parameters(env: Mapping[str, str]) -> dict[str, Any]:
    """For `snowflake.connector.connect(**...)` or `SnowflakeResource(**...)`, from the names in `.stack/env`.

    `SnowflakeResource` has no fields for host, port and protocol: it takes them in `additional_snowflake_connection_args`.
    """
    return {
        "account": env.get("SNOWFLAKE_ACCOUNT", "tidemark"),
        "user": env.get("SNOWFLAKE_USER") or "tidemark",
        "password": env.get("SNOWFLAKE_PASSWORD") or "local",
        "protocol": "http",
        "host": env["SNOWFLAKE_HOST"],
        "port": int(env["SNOWFLAKE_PORT"]),
        "database": env.get("SNOWFLAKE_DATABASE", DATABASE),
        "schema": env.get("SNOWFLAKE_SCHEMA", SCHEMA),
        "session_parameters": {"CLIENT_OUT_OF_BAND_TELEMETRY_ENABLED": False, "CLIENT_TELEMETRY_ENABLED": False},
    }
