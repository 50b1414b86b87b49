"""The module is valid, applies to a local AWS, and gives each part no more rights than it names."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
from moto.server import ThreadedMotoServer

from deploy.local.stack import ROOT

TERRAFORM = shutil.which("terraform")
pytestmark = [
    pytest.mark.heavy,
    pytest.mark.skipif(TERRAFORM is None, reason="terraform is not on PATH: the module was not tried"),
    pytest.mark.timeout(900),
]


class Applied:
    def __init__(self, endpoint: str, outputs: dict[str, Any]) -> None:
        self.endpoint = endpoint
        self.settings = outputs["settings"]["value"]
        self.roles = outputs["roles"]["value"]

    def client(self, service: str) -> Any:
        keys: dict[str, Any] = {"aws_access_key_id": "local", "aws_secret_access_key": "local"}
        return boto3.client(service, endpoint_url=self.endpoint, region_name="eu-central-1", **keys)


@pytest.fixture(scope="module")
def applied(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Applied]:
    folder = tmp_path_factory.mktemp("terraform")
    shutil.copytree(
        ROOT / "terraform", folder / "terraform", ignore=shutil.ignore_patterns(".terraform*", "*.tfstate*")
    )
    here = folder / "terraform" / "envs" / "local"
    began = _terraform(here, "init", "-input=false")
    if began.returncode:
        pytest.skip(f"terraform cannot get the AWS provider here, the module was not tried: {began.stderr[-300:]}")
    assert _terraform(here, "validate").returncode == 0
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        endpoint = f"http://{host}:{port}"
        done = _terraform(here, "apply", "-auto-approve", "-input=false", f"-var=endpoint={endpoint}")
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
        yield Applied(endpoint, json.loads(_terraform(here, "output", "-json").stdout))
    finally:
        server.stop()


def _terraform(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "TF_IN_AUTOMATION": "1", "CHECKPOINT_DISABLE": "1"}
    if not Path(
        env.get("TF_CLI_CONFIG_FILE", "")
    ).is_file():  # terraform warns of a file that is not there, and then fails
        env.pop("TF_CLI_CONFIG_FILE", None)
    command = [str(TERRAFORM), *arguments, "-no-color"]
    return subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, check=False)


def test_an_object_put_into_the_bucket_is_announced_on_the_queue(applied: Applied) -> None:
    applied.client("s3").put_object(Bucket=applied.settings["S3_BUCKET"], Key="a.md", Body=b"# A")
    sqs = applied.client("sqs")
    keys = set()
    for _ in range(5):
        got = sqs.receive_message(QueueUrl=applied.settings["S3_QUEUE_URL"], WaitTimeSeconds=2, MaxNumberOfMessages=10)
        bodies = [json.loads(message["Body"]) for message in got.get("Messages", [])]
        keys |= {record["s3"]["object"]["key"] for body in bodies for record in body.get("Records", [])}
        if keys:
            break
    assert keys == {"a.md"}


def test_buckets_are_private_and_documents_keep_versions(applied: Applied) -> None:
    s3 = applied.client("s3")
    for bucket in (applied.settings["S3_BUCKET"], applied.settings["INTERNAL_BUCKET"]):
        assert all(s3.get_public_access_block(Bucket=bucket)["PublicAccessBlockConfiguration"].values())
    assert s3.get_bucket_versioning(Bucket=applied.settings["S3_BUCKET"])["Status"] == "Enabled"


def test_only_the_gateway_writes_checkpoints_and_nobody_deletes_them(applied: Applied) -> None:
    bucket = applied.settings["AUDIT_URL"].split("/")[2]
    rule = applied.client("s3").get_object_lock_configuration(Bucket=bucket)["ObjectLockConfiguration"]["Rule"]
    assert rule["DefaultRetention"]["Mode"] == "COMPLIANCE"
    iam = applied.client("iam")
    for part, arn in applied.roles.items():
        policy = iam.get_role_policy(RoleName=arn.rsplit("/", 1)[1], PolicyName="least")["PolicyDocument"]
        actions = {
            action
            for statement in policy["Statement"]
            if bucket in str(statement["Resource"])
            for action in ([statement["Action"]] if isinstance(statement["Action"], str) else statement["Action"])
        }
        assert actions == ({"s3:ListBucket", "s3:GetObject", "s3:PutObject"} if part == "gateway" else set()), part


def test_no_part_may_do_everything(applied: Applied) -> None:
    iam = applied.client("iam")
    assert set(applied.roles) == {"assets", "consumers", "gateway", "stream"}
    for arn in applied.roles.values():
        policy = iam.get_role_policy(RoleName=arn.rsplit("/", 1)[1], PolicyName="least")["PolicyDocument"]
        for statement in policy["Statement"]:
            listed = [[x] if isinstance(x, str) else x for x in (statement["Action"], statement["Resource"])]
            assert not any(action.endswith("*") for action in listed[0]), (arn, statement)
            assert "*" not in listed[1], (arn, statement)


def test_only_consumers_may_take_from_the_queue_and_the_gateway_reads_no_documents(applied: Applied) -> None:
    iam = applied.client("iam")
    documents = f"arn:aws:s3:::{applied.settings['S3_BUCKET']}"
    for part, arn in applied.roles.items():
        policy = json.dumps(iam.get_role_policy(RoleName=arn.rsplit("/", 1)[1], PolicyName="least")["PolicyDocument"])
        assert ("sqs:DeleteMessage" in policy) == (part == "consumers")
        if part == "gateway":
            assert documents not in policy


def test_secrets_have_names_and_no_values(applied: Applied) -> None:
    manager = applied.client("secretsmanager")
    names = {secret["Name"] for secret in manager.list_secrets()["SecretList"]}
    assert "tidemark/identity" in names
    with pytest.raises(manager.exceptions.ResourceNotFoundException):
        manager.get_secret_value(SecretId="tidemark/identity")
