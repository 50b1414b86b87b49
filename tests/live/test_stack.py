"""What the stack promises as a whole: one command up, one command down, nothing lost and nothing left, whatever was killed."""

from __future__ import annotations

import os
import signal
import stat
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import boto3
import psutil
import psycopg
import pytest
from botocore.exceptions import BotoCoreError
from confluent_kafka import Consumer, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic  # type: ignore[attr-defined]
from redis import Redis

from deploy.local import process_tree
from tests.live.folders import below

if TYPE_CHECKING:
    from tests.live.conftest import LocalStack

TOPIC = "kept"
STORES = "kafka,databases,redis,buckets"  # enough to read everything back, and quick


@pytest.fixture(scope="module")
def infrastructure(own_stack: LocalStack) -> LocalStack:
    own_stack.run("up", "--only", "infrastructure", "--free-ports")
    return own_stack


def bucket(stack: LocalStack) -> Any:
    env = stack.env
    return boto3.resource(
        "s3",
        endpoint_url=env["S3_ENDPOINT_URL"],
        region_name=env["AWS_REGION"],
        aws_access_key_id=env["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=env["AWS_SECRET_ACCESS_KEY"],
    ).Bucket(env["S3_BUCKET"])


def put_everywhere(stack: LocalStack) -> None:
    env = stack.env
    admin = AdminClient({"bootstrap.servers": env["KAFKA_BOOTSTRAP"]})
    admin.create_topics([NewTopic(TOPIC, 1, 1)])[TOPIC].result(10)
    producer = Producer({"bootstrap.servers": env["KAFKA_BOOTSTRAP"], "acks": "all"})
    producer.produce(TOPIC, b"record")
    assert producer.flush(10) == 0
    with psycopg.connect(env["DATABASE_URL"]) as connection:
        connection.execute("CREATE TABLE kept AS SELECT 'row' AS value")
    Redis.from_url(env["REDIS_URL"]).set("kept", "key")
    bucket(stack).put_object(Key="kept.md", Body=b"object")
    (Path(env["INBOX_DIR"]) / "kept.md").write_text("file")


def read_everywhere(stack: LocalStack) -> list[str]:
    env = stack.env
    consumer = Consumer({"bootstrap.servers": env["KAFKA_BOOTSTRAP"], "group.id": "reader"})
    consumer.assign([TopicPartition(TOPIC, 0, 0)])
    message = consumer.poll(15)
    consumer.close()
    with psycopg.connect(env["DATABASE_URL"]) as connection:
        ((row,),) = connection.execute("SELECT value FROM kept").fetchall()
    key = Redis.from_url(env["REDIS_URL"]).get("kept")
    body = bucket(stack).Object("kept.md").get()["Body"].read()
    file = (Path(env["INBOX_DIR"]) / "kept.md").read_text()
    return [message.value().decode() if message else "nothing", row, key.decode(), body.decode(), file]


def kill(processes: list[psutil.Process]) -> None:
    for process in processes:
        try:
            process.send_signal(signal.SIGKILL)
        except psutil.NoSuchProcess:  # went with its parent
            continue
    psutil.wait_procs(processes, timeout=10)


def supervisor_of(stack: LocalStack) -> psutil.Process:
    return psutil.Process(int((stack.folder / "supervisor.pid").read_text()))


def eventually(condition: Callable[[], bool], seconds: float = 30) -> bool:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.1)
    return True


def test_everything_listens_on_the_loopback_address_only(infrastructure: LocalStack) -> None:
    listening = {
        connection.laddr.ip
        for process in process_tree.processes_of(infrastructure.folder)
        for connection in process.net_connections("inet")
        if connection.status == psutil.CONN_LISTEN
    }
    assert listening <= {"127.0.0.1", "::ffff:127.0.0.1"}
    assert listening


def test_files_and_folders_of_the_stack_are_open_to_their_owner_alone(infrastructure: LocalStack) -> None:
    modes = {}
    for path in (infrastructure.folder, *below(infrastructure.folder)):
        with suppress(FileNotFoundError):
            modes[path] = path.lstat().st_mode
    assert {path.relative_to(infrastructure.folder).parts[0] for path in modes if path != infrastructure.folder} >= {
        "kafka", "postgres", "redis", "s3", "registry", "warehouse", "qdrant", "issuer", "logs", "artifacts", "env",
    }  # fmt: skip
    assert {str(path): oct(mode) for path, mode in modes.items() if mode & 0o077 and not stat.S_ISLNK(mode)} == {}


def test_notifications_arrive_again_when_the_s3_server_alone_was_killed(infrastructure: LocalStack) -> None:
    [server] = [
        process for process in supervisor_of(infrastructure).children() if "deploy.local.s3" in process.cmdline()
    ]
    kill([server])
    env = infrastructure.env
    client = bucket(infrastructure).meta.client
    assert eventually(lambda: s3_answers(client))
    client.put_object(Bucket=env["S3_BUCKET"], Key="after.md", Body=b"# After")
    sqs = boto3.client(
        "sqs", endpoint_url=env["S3_ENDPOINT_URL"], region_name=env["AWS_REGION"],
        aws_access_key_id=env["AWS_ACCESS_KEY_ID"], aws_secret_access_key=env["AWS_SECRET_ACCESS_KEY"],
    )  # fmt: skip
    received = sqs.receive_message(QueueUrl=env["S3_QUEUE_URL"], WaitTimeSeconds=10)["Messages"]
    assert '"after.md"' in received[0]["Body"]


def s3_answers(client: Any) -> bool:
    try:
        client.list_buckets()
    except BotoCoreError:
        return False
    return True


def test_a_second_up_changes_nothing(infrastructure: LocalStack) -> None:
    before = {process.pid for process in supervisor_of(infrastructure).children()}
    infrastructure.run("up", "--only", "infrastructure")
    assert {process.pid for process in supervisor_of(infrastructure).children()} == before


def test_a_process_that_dies_is_started_again(infrastructure: LocalStack) -> None:
    redis = Redis.from_url(infrastructure.env["REDIS_URL"])
    pid = redis.info("server")["process_id"]
    os.kill(pid, signal.SIGKILL)
    infrastructure.run("up", "--only", "redis")
    assert redis.info("server")["process_id"] != pid


def test_state_survives_the_death_of_everything_at_once(infrastructure: LocalStack) -> None:
    put_everywhere(infrastructure)
    secrets = dict(infrastructure.env)
    kill(process_tree.processes_of(infrastructure.folder))
    infrastructure.run("up", "--only", "infrastructure")
    assert read_everywhere(infrastructure) == ["record", "row", "key", "object", "file"]
    assert infrastructure.env == secrets


def test_up_takes_over_from_a_supervisor_that_was_killed(infrastructure: LocalStack) -> None:
    orphans = supervisor_of(infrastructure).children()
    kill([supervisor_of(infrastructure)])
    infrastructure.run("up", "--only", STORES)
    assert not [orphan for orphan in orphans if orphan.is_running()]
    assert read_everywhere(infrastructure) == ["record", "row", "key", "object", "file"]


def test_down_ends_the_processes_of_a_killed_supervisor_and_keeps_state(infrastructure: LocalStack) -> None:
    kill([supervisor_of(infrastructure)])
    assert process_tree.processes_of(infrastructure.folder)
    infrastructure.run("down")
    assert process_tree.processes_of(infrastructure.folder) == []
    infrastructure.run("down")
    infrastructure.run("up", "--only", STORES)
    assert read_everywhere(infrastructure) == ["record", "row", "key", "object", "file"]
    infrastructure.run("down")
    assert process_tree.processes_of(infrastructure.folder) == []
