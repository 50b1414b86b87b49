"""The databases, topics, buckets and tables that clients expect. Each step may run at any time; a repeated step changes nothing."""

from __future__ import annotations

import json
import subprocess
import sys
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from deploy.local import jars
from deploy.local.dagster import instance
from deploy.local.errors import StackError
from deploy.local.stack import DOCUMENTS, INTERNAL, ROOT, Stack, environment
from deploy.local.supervision import inherited

DATABASES = ("tidemark", "dagster")
DOWNLOADS = "downloads"
STEP_SECONDS = 120  # on a busy machine; a quiet one needs ten
LONG_POLL_SECONDS = "20"
VISIBILITY_SECONDS = "60"  # an unacknowledged notification is delivered again after this time


@dataclass(frozen=True, slots=True)
class Step:
    name: str
    run: Callable[[Stack], None]
    needs: tuple[str, ...]
    infrastructure: bool = True


def steps() -> tuple[Step, ...]:
    return (
        Step(DOWNLOADS, download_jars, ()),
        Step("databases", create_databases, ("postgres",)),
        Step("ledger", migrate_ledger, ("databases",)),
        Step("compatibility", require_backward_compatibility, ("registry",)),
        Step("topics", create_topics, ("kafka", "compatibility")),
        Step("buckets", create_buckets, ("s3",)),
        Step("tables", create_tables, ("warehouse",)),
        Step("instance", instance.configure, ()),
        Step("index", create_index, ("ledger", "qdrant"), infrastructure=False),
    )


def download_jars(stack: Stack) -> None:
    jars.fetch(stack.cache, lambda *_: lambda _: None)


def create_databases(stack: Stack) -> None:
    import psycopg
    from psycopg import sql

    with psycopg.connect(stack.postgres_url("postgres"), autocommit=True) as connection:
        present = {name for (name,) in connection.execute("SELECT datname FROM pg_database")}
        for name in DATABASES:
            if name not in present:
                connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))


def migrate_ledger(stack: Stack) -> None:
    _run(stack, "rag.adapters.ledger")


def create_topics(stack: Stack) -> None:
    _run(stack, "schemas", "register", "--env-file", str(stack.env_file))


def create_index(stack: Stack) -> None:
    """Create the index, because the gateway's key only reads and the stream lane need not run."""
    _run(stack, "assets", "prepare")


def require_backward_compatibility(stack: Stack) -> None:
    """Make BACKWARD the registry's rule, because its default accepts any change."""
    request = urllib.request.Request(  # noqa: S310
        f"{environment(stack)['SCHEMA_REGISTRY_URL']}/config",
        data=json.dumps({"compatibility": "BACKWARD"}).encode(),
        headers={"Content-Type": "application/json"},
        method="PUT",
    )
    with urllib.request.urlopen(request, timeout=STEP_SECONDS) as response:  # noqa: S310
        if json.load(response).get("compatibility") != "BACKWARD":
            raise StackError(
                "the schema registry does not accept the rule BACKWARD: see `python -m deploy.local logs registry`"
            )


def create_buckets(stack: Stack) -> None:
    """Create the buckets and the queue, and send changes of the bucket of documents to the queue."""
    s3, sqs = _client(stack, "s3"), _client(stack, "sqs")
    env = environment(stack)
    present = {bucket["Name"] for bucket in s3.list_buckets()["Buckets"]}
    for bucket in (DOCUMENTS, INTERNAL):
        if bucket not in present:
            s3.create_bucket(Bucket=bucket, CreateBucketConfiguration={"LocationConstraint": env["AWS_REGION"]})
    s3.put_bucket_versioning(Bucket=DOCUMENTS, VersioningConfiguration={"Status": "Enabled"})
    attributes = {"ReceiveMessageWaitTimeSeconds": LONG_POLL_SECONDS, "VisibilityTimeout": VISIBILITY_SECONDS}
    url = sqs.create_queue(QueueName=DOCUMENTS, Attributes=attributes)["QueueUrl"]
    arn = sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]
    if url != env["S3_QUEUE_URL"]:
        raise StackError(f"the queue's address is {url}, but the env file says {env['S3_QUEUE_URL']}: run `up` again")
    queue = {"QueueArn": arn, "Events": ["s3:ObjectCreated:*", "s3:ObjectRemoved:*"]}
    s3.put_bucket_notification_configuration(
        Bucket=DOCUMENTS, NotificationConfiguration={"QueueConfigurations": [queue]}
    )


def create_tables(stack: Stack) -> None:
    """Create the tables that the snowflake source watches, empty."""
    import snowflake.connector

    from deploy.local.demo import loading
    from deploy.local.snowflake.connection import connection_parameters

    loading.create_tables(lambda: snowflake.connector.connect(**connection_parameters(environment(stack))))


def _client(stack: Stack, service: str) -> Any:
    import boto3

    env = environment(stack)
    return boto3.client(
        service,
        endpoint_url=env["S3_ENDPOINT_URL"],
        region_name=env["AWS_REGION"],
        aws_access_key_id=env["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=env["AWS_SECRET_ACCESS_KEY"],
    )


def _run(stack: Stack, module: str, *arguments: str) -> None:
    command = (sys.executable, "-m", module, *arguments)
    done = subprocess.run(  # noqa: S603
        command, env=inherited(stack), cwd=ROOT, capture_output=True, text=True, check=False, timeout=STEP_SECONDS
    )  # fmt: skip
    if done.returncode:
        raise StackError(
            f"python -m {module} {' '.join(arguments)} failed: {(done.stderr or done.stdout).strip()[-2000:]}"
        )
