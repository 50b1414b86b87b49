from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from email.header import decode_header, make_header
from typing import Any

import boto3
import httpx
import obstore
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError
from obstore.exceptions import AlreadyExistsError
from obstore.store import S3Store

from deploy.local.s3.mirror import Mirror

pytestmark = pytest.mark.heavy

REGION = "eu-central-1"
KEY, SECRET = "local", "a-secret-of-the-tests"
BUCKET = "documents"
HOSTILE_KEYS = [
    "../../etc/passwd",
    "a//b",
    "/absolute",
    "tab\t",
    "é/文書 ünïcode +&%41.md",
    "x" * 1024,
    ".",
    "..",
    "a/",
    "%2e%2e/%00",
]


def client(server: Any, service: str = "s3") -> Any:
    return boto3.client(
        service, endpoint_url=server.url, region_name=REGION, aws_access_key_id=KEY, aws_secret_access_key=SECRET
    )


def open_store(server: Any) -> S3Store:
    return S3Store(
        BUCKET,
        endpoint=server.url,
        access_key_id=KEY,
        secret_access_key=SECRET,
        region=REGION,
        virtual_hosted_style_request=False,
        client_options={"allow_http": True},
    )


@pytest.fixture(scope="module")
def running(run_server: Callable[..., Any]) -> Any:
    return run_server("s3", "/_health", environment={"AWS_ACCESS_KEY_ID": KEY, "AWS_SECRET_ACCESS_KEY": SECRET})


@pytest.fixture
def server(running: Any) -> Any:
    """The one server of this module, alive again after whatever the last test did to it."""
    return running if running.process.poll() is None else running.start()


@pytest.fixture
def s3(server: Any) -> Iterator[Any]:
    s3 = client(server)
    s3.create_bucket(Bucket=BUCKET, CreateBucketConfiguration={"LocationConstraint": REGION})
    yield s3
    for bucket in s3.list_buckets()["Buckets"]:
        found = s3.list_object_versions(Bucket=bucket["Name"])
        for version in found.get("Versions", []) + found.get("DeleteMarkers", []):
            s3.delete_object(Bucket=bucket["Name"], Key=version["Key"], VersionId=version["VersionId"])
        s3.delete_bucket(Bucket=bucket["Name"])


def contents(s3: Any) -> dict[str, bytes]:
    listed = s3.list_objects_v2(Bucket=BUCKET).get("Contents", [])
    return {item["Key"]: s3.get_object(Bucket=BUCKET, Key=item["Key"])["Body"].read() for item in listed}


def test_an_acknowledged_object_is_the_same_after_kill_9(server: Any, s3: Any) -> None:
    s3.put_object(
        Bucket=BUCKET,
        Key="a.md",
        Body=b"# Title",
        ContentType="text/markdown",
        Metadata={"tidemark-groups": "staff", "with_underscore": "kept"},
        Tagging="kind=policy",
        CacheControl="no-store",
    )
    before = s3.get_object(Bucket=BUCKET, Key="a.md")
    tags = s3.get_object_tagging(Bucket=BUCKET, Key="a.md")["TagSet"]

    server.kill_and_restart()

    after = s3.get_object(Bucket=BUCKET, Key="a.md")
    assert after["Body"].read() == before["Body"].read() == b"# Title"
    kept = ("ETag", "LastModified", "ContentType", "ContentLength", "Metadata", "CacheControl")
    assert {name: after[name] for name in kept} == {name: before[name] for name in kept}
    assert after["Metadata"] == {"tidemark-groups": "staff", "with_underscore": "kept"}
    assert s3.get_object_tagging(Bucket=BUCKET, Key="a.md")["TagSet"] == tags == [{"Key": "kind", "Value": "policy"}]
    assert s3.get_object(Bucket=BUCKET, Key="a.md", Range="bytes=2-4")["Body"].read() == b"Tit"


def test_versions_and_delete_markers_survive_kill_9(server: Any, s3: Any) -> None:
    s3.put_bucket_versioning(Bucket=BUCKET, VersioningConfiguration={"Status": "Enabled"})
    first = s3.put_object(Bucket=BUCKET, Key="a.md", Body=b"one")["VersionId"]
    second = s3.put_object(Bucket=BUCKET, Key="a.md", Body=b"two")["VersionId"]
    third = s3.put_object(Bucket=BUCKET, Key="a.md", Body=b"three")["VersionId"]
    marker = s3.delete_object(Bucket=BUCKET, Key="a.md")["VersionId"]
    s3.delete_object(Bucket=BUCKET, Key="a.md", VersionId=second)
    before = s3.list_object_versions(Bucket=BUCKET)

    server.kill_and_restart()

    after = s3.list_object_versions(Bucket=BUCKET)
    assert (after["Versions"], after["DeleteMarkers"]) == (before["Versions"], before["DeleteMarkers"])
    assert [item["VersionId"] for item in after["Versions"]] == [third, first]
    assert [item["VersionId"] for item in after["DeleteMarkers"]] == [marker]
    assert s3.get_object(Bucket=BUCKET, Key="a.md", VersionId=first)["Body"].read() == b"one"
    with pytest.raises(ClientError, match="NoSuchKey"):
        s3.get_object(Bucket=BUCKET, Key="a.md")
    s3.delete_object(Bucket=BUCKET, Key="a.md", VersionId=marker)
    assert contents(s3) == {"a.md": b"three"}
    assert s3.get_bucket_versioning(Bucket=BUCKET)["Status"] == "Enabled"


def test_overwrites_copies_batches_and_deletes_survive_kill_9(server: Any, s3: Any) -> None:
    for key in ("a", "b", "c", "d"):
        s3.put_object(Bucket=BUCKET, Key=key, Body=key.encode(), Metadata={"from": key})
    s3.put_object(Bucket=BUCKET, Key="a", Body=b"newer")
    s3.copy_object(Bucket=BUCKET, Key="e", CopySource={"Bucket": BUCKET, "Key": "b"})
    s3.delete_objects(Bucket=BUCKET, Delete={"Objects": [{"Key": "b"}, {"Key": "c"}]})
    s3.delete_object(Bucket=BUCKET, Key="d")

    server.kill_and_restart()

    assert contents(s3) == {"a": b"newer", "e": b"b"}
    assert s3.head_object(Bucket=BUCKET, Key="e")["Metadata"] == {"from": "b"}
    bodies = list((server.data / "buckets").glob("*/bodies/*/*"))
    assert len(bodies) == 2, "bodies nobody mentions are removed"


def test_a_multipart_upload_survives_kill_9_with_its_etag(server: Any, s3: Any) -> None:
    parts = [os.urandom(5 * 1024 * 1024), b"tail"]
    upload = s3.create_multipart_upload(Bucket=BUCKET, Key="big", Metadata={"a": "b"}, ContentType="application/pdf")[
        "UploadId"
    ]
    done = [
        {
            "PartNumber": n,
            "ETag": s3.upload_part(Bucket=BUCKET, Key="big", UploadId=upload, PartNumber=n, Body=part)["ETag"],
        }
        for n, part in enumerate(parts, 1)
    ]
    etag = s3.complete_multipart_upload(Bucket=BUCKET, Key="big", UploadId=upload, MultipartUpload={"Parts": done})[
        "ETag"
    ]

    server.kill_and_restart()

    found = s3.get_object(Bucket=BUCKET, Key="big")
    assert found["Body"].read() == b"".join(parts)
    assert (found["ETag"], found["Metadata"], found["ContentType"]) == (etag, {"a": "b"}, "application/pdf")
    assert etag.endswith('-2"')


def test_hostile_keys_stay_in_the_data_directory_and_survive(server: Any, s3: Any) -> None:
    for key in HOSTILE_KEYS:
        s3.put_object(Bucket=BUCKET, Key=key, Body=key.encode())
    before = contents(s3)
    assert {key: key.encode() for key in HOSTILE_KEYS} == before

    server.kill_and_restart()

    assert contents(s3) == before
    names = [path.name for path in server.data.parent.rglob("*")]
    assert all(name.replace(".json", "").isalnum() for name in names if name not in {"s3.log"})


@pytest.mark.parametrize("key", ["nul\0", "bell\x07", "a\r\nb", "not-a-character\uffff"])
def test_a_key_that_no_listing_could_show_is_refused(s3: Any, key: str) -> None:
    with pytest.raises(ClientError, match="400"):
        s3.put_object(Bucket=BUCKET, Key=key, Body=b"x")
    assert "Versions" not in s3.list_object_versions(Bucket=BUCKET)


def test_every_write_acknowledged_before_a_kill_in_full_flight_is_there(server: Any, s3: Any) -> None:
    acknowledged: list[str] = []

    def write(number: int) -> None:
        try:
            s3.put_object(Bucket=BUCKET, Key=f"k{number}", Body=f"v{number}".encode())
            acknowledged.append(f"k{number}")
        except Exception:  # noqa: S110 - the server is gone, which is the point
            pass
        if len(acknowledged) == 40 and server.process.poll() is None:
            server.process.send_signal(signal.SIGKILL)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(write, range(80)))
    server.process.wait()
    server.start()

    found = contents(s3)
    assert len(acknowledged) >= 40
    assert {key: found.get(key) for key in acknowledged} == {key: f"v{key[1:]}".encode() for key in acknowledged}


def listen(server: Any, s3: Any) -> Callable[[int], list[tuple[str, str]]]:
    sqs = client(server, "sqs")
    queue = sqs.create_queue(QueueName=f"changes-{uuid.uuid4()}")["QueueUrl"]
    arn = sqs.get_queue_attributes(QueueUrl=queue, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]
    s3.put_bucket_notification_configuration(
        Bucket=BUCKET,
        NotificationConfiguration={
            "QueueConfigurations": [{"QueueArn": arn, "Events": ["s3:ObjectCreated:*", "s3:ObjectRemoved:*"]}]
        },
    )

    def receive(expected: int) -> list[tuple[str, str]]:
        """At least `expected` events, or what came within ten seconds; S3's own test event is not one."""
        found: list[tuple[str, str]] = []
        deadline = time.monotonic() + 10
        while len(found) < expected and time.monotonic() < deadline:
            answer = sqs.receive_message(QueueUrl=queue, WaitTimeSeconds=2, MaxNumberOfMessages=10)
            for message in answer.get("Messages", []):
                sqs.delete_message(QueueUrl=queue, ReceiptHandle=message["ReceiptHandle"])
                records = json.loads(message["Body"]).get("Records", [])
                found += [(record["eventName"], record["s3"]["object"]["key"]) for record in records]
        return sorted(found)

    return receive


def test_the_queue_and_the_notifications_survive_kill_9_and_a_restore_sends_none(server: Any, s3: Any) -> None:
    receive = listen(server, s3)
    s3.put_object(Bucket=BUCKET, Key="one two", Body=b"1")
    assert receive(1) == [("ObjectCreated:Put", "one+two")]

    server.kill_and_restart()

    s3.put_object(Bucket=BUCKET, Key="b", Body=b"2")
    s3.delete_object(Bucket=BUCKET, Key="one two")
    assert receive(2) == [("ObjectCreated:Put", "b"), ("ObjectRemoved:Delete", "one+two")]


def test_a_versioned_delete_is_announced(server: Any, s3: Any) -> None:
    s3.put_bucket_versioning(Bucket=BUCKET, VersioningConfiguration={"Status": "Enabled"})
    receive = listen(server, s3)
    version = s3.put_object(Bucket=BUCKET, Key="a", Body=b"1")["VersionId"]
    s3.delete_object(Bucket=BUCKET, Key="a")
    s3.delete_object(Bucket=BUCKET, Key="a", VersionId=version)
    assert receive(3) == [
        ("ObjectCreated:Put", "a"),
        ("ObjectRemoved:Delete", "a"),
        ("ObjectRemoved:DeleteMarkerCreated", "a"),
    ]


def test_the_metadata_of_an_object_can_be_read_when_its_notification_arrives(server: Any, s3: Any) -> None:
    receive = listen(server, s3)
    with ThreadPoolExecutor(1) as pool:
        for number in range(10):
            heard = pool.submit(receive, 1)
            s3.put_object(Bucket=BUCKET, Key=f"k{number}", Body=b"x", Metadata={"number": str(number)})
            [(_, key)] = heard.result()
            assert s3.head_object(Bucket=BUCKET, Key=key)["Metadata"] == {"number": str(number)}


def test_obstore_puts_reads_lists_and_deletes_across_a_restart(server: Any, s3: Any) -> None:
    store = open_store(server)
    attributes = {"Content-Type": "text/markdown", "groups": "staff"}
    store.put("docs/a b.md", b"# A", attributes=attributes)
    store.put("docs/large.bin", os.urandom(6 * 1024 * 1024), use_multipart=True)
    store.put("docs/gone.md", b"x")
    store.delete("docs/gone.md")

    server.kill_and_restart()

    found = store.get("docs/a b.md")
    assert (bytes(found.bytes()), dict(found.attributes)) == (b"# A", attributes)
    assert s3.head_object(Bucket=BUCKET, Key="docs/a b.md")["Metadata"] == {"groups": "staff"}
    assert bytes(obstore.get_range(store, "docs/a b.md", start=2, end=3)) == b"A"
    listed = [item["path"] for batch in store.list("docs/") for item in batch]
    assert sorted(listed) == ["docs/a b.md", "docs/large.bin"]
    assert store.head("docs/large.bin")["size"] == 6 * 1024 * 1024
    with pytest.raises(FileNotFoundError):
        store.get("docs/gone.md")


def test_metadata_beyond_ascii_comes_back_as_s3_encodes_it(server: Any, s3: Any) -> None:
    store = open_store(server)
    store.put("a", b"1", attributes={"title": "Müller & Söhne, " + "x" * 100})
    server.kill_and_restart()
    title = store.get("a").attributes["title"]
    assert title.isascii()
    assert str(make_header(decode_header(title))) == "Müller & Söhne, " + "x" * 100


def test_conditional_writes_of_obstore_are_honoured(server: Any, s3: Any) -> None:
    store = open_store(server)
    store.put("a", b"1", mode="create")
    server.kill_and_restart()
    with pytest.raises(AlreadyExistsError):
        store.put("a", b"2", mode="create")
    assert contents(s3) == {"a": b"1"}


def test_many_writers_of_a_bucket_that_is_being_made_all_succeed(server: Any, s3: Any) -> None:
    def write(number: int) -> None:
        with suppress(s3.exceptions.BucketAlreadyOwnedByYou):
            s3.create_bucket(Bucket="fresh", CreateBucketConfiguration={"LocationConstraint": REGION})
        s3.put_object(Bucket="fresh", Key=f"k{number}", Body=b"x")

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(write, range(24)))
    server.kill_and_restart()
    assert s3.list_objects_v2(Bucket="fresh")["KeyCount"] == 24


def test_a_bucket_that_was_deleted_stays_deleted(server: Any, s3: Any) -> None:
    s3.create_bucket(Bucket="other", CreateBucketConfiguration={"LocationConstraint": REGION})
    s3.delete_bucket(Bucket=BUCKET)
    server.kill_and_restart()
    assert [bucket["Name"] for bucket in s3.list_buckets()["Buckets"]] == ["other"]


@pytest.mark.parametrize(
    ("path", "headers"),
    [
        ("/documents/a", {"Host": "evil.example"}),
        ("/documents/a", {"Origin": "https://evil.example"}),
        ("/moto-api/reset", {}),
    ],
)
def test_web_pages_and_the_reset_door_are_refused(server: Any, s3: Any, path: str, headers: dict[str, str]) -> None:
    s3.put_object(Bucket=BUCKET, Key="a", Body=b"1")
    answer = httpx.post(server.url + path, headers=headers)
    assert answer.status_code == 403
    assert contents(s3) == {"a": b"1"}


def test_it_refuses_other_interfaces_and_a_directory_in_use(server: Any) -> None:
    environment = os.environ | server.environment
    public = subprocess.run(
        [*server.command(), "--host", "0.0.0.0"],  # noqa: S104
        env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert public.returncode == 1
    assert "refusing to listen on '0.0.0.0'" in public.stderr
    taken = subprocess.run(server.command(), env=environment, capture_output=True, text=True, check=False)
    assert taken.returncode == 1
    assert f"cannot listen on 127.0.0.1:{server.port}" in taken.stderr
    elsewhere = [argument.replace(str(server.port), "0") for argument in server.command()]
    second = subprocess.run(elsewhere, env=environment, capture_output=True, text=True, check=False)
    assert second.returncode == 1
    assert "is in use by process" in second.stderr


def test_it_stops_cleanly_when_asked(server: Any) -> None:
    assert server.stop() == 0


def test_a_damaged_record_is_named_and_not_skipped(tmp_path: Any) -> None:
    mirror = Mirror(tmp_path)
    mirror.save_bucket("b", {"name": "b"})
    mirror.save_key("b", "k", [{"version_id": "null"}])
    [path] = mirror.root.glob("*/keys/*/*")
    path.write_bytes(b"{")
    with pytest.raises(SystemExit, match=path.name):
        list(mirror.keys("b"))


def test_a_queue_keeps_its_settings_and_its_dead_letter_queue_across_a_restart_until_it_is_deleted(server: Any) -> None:
    sqs = client(server, "sqs")
    dead = sqs.create_queue(QueueName="dead")["QueueUrl"]
    arn = sqs.get_queue_attributes(QueueUrl=dead, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]
    redrive = {"deadLetterTargetArn": arn, "maxReceiveCount": 3}
    alive = sqs.create_queue(QueueName="alive", Attributes={"VisibilityTimeout": "7"})["QueueUrl"]
    sqs.set_queue_attributes(
        QueueUrl=alive, Attributes={"RedrivePolicy": json.dumps(redrive), "ReceiveMessageWaitTimeSeconds": "9"}
    )

    server.kill_and_restart()

    names = ["VisibilityTimeout", "ReceiveMessageWaitTimeSeconds", "RedrivePolicy"]
    found = sqs.get_queue_attributes(QueueUrl=alive, AttributeNames=names)["Attributes"]
    assert (found["VisibilityTimeout"], found["ReceiveMessageWaitTimeSeconds"]) == ("7", "9")
    assert json.loads(found["RedrivePolicy"]) == redrive
    for url in (alive, dead):
        sqs.delete_queue(QueueUrl=url)
    server.kill_and_restart()
    assert not any(url.endswith(("/alive", "/dead")) for url in sqs.list_queues().get("QueueUrls", []))


@pytest.mark.parametrize("service", ["s3", "sqs", "secretsmanager"])
def test_a_caller_with_a_wrong_secret_is_refused_by_name(server: Any, s3: Any, service: str) -> None:
    stranger = boto3.client(
        service, endpoint_url=server.url, region_name=REGION, aws_access_key_id=KEY, aws_secret_access_key="b" * 20
    )
    call = {"s3": "list_buckets", "sqs": "list_queues", "secretsmanager": "list_secrets"}[service]
    with pytest.raises(ClientError) as refused:
        getattr(stranger, call)()
    assert refused.value.response["Error"]["Code"] == "SignatureDoesNotMatch"
    assert "AWS_SECRET_ACCESS_KEY" in refused.value.response["Error"]["Message"]


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE"])
def test_an_unsigned_request_is_refused_and_has_no_effect(server: Any, s3: Any, method: str) -> None:
    s3.put_object(Bucket=BUCKET, Key="a", Body=b"1", ACL="public-read-write")
    answer = httpx.request(method, f"{server.url}/{BUCKET}/a")
    assert (answer.status_code, "<Code>AccessDenied</Code>" in answer.text) == (403, True)
    assert contents(s3) == {"a": b"1"}


def test_an_unsigned_call_of_the_queue_is_refused(server: Any, s3: Any) -> None:
    listen(server, s3)
    answer = httpx.get(
        f"{server.url}/123456789012/changes", params={"Action": "ReceiveMessage", "Version": "2012-11-05"}
    )
    assert answer.status_code == 403


def test_a_presigned_url_serves_its_one_object_in_its_one_way(server: Any, s3: Any) -> None:
    s3.put_object(Bucket=BUCKET, Key="é b", Body=b"1")
    signer = boto3.client(
        "s3", endpoint_url=server.url, region_name=REGION, aws_access_key_id=KEY, aws_secret_access_key=SECRET,
        config=Config(signature_version="s3v4"),
    )  # fmt: skip
    url = signer.generate_presigned_url("get_object", {"Bucket": BUCKET, "Key": "é b"}, ExpiresIn=60)
    assert httpx.get(url).content == b"1"
    assert httpx.delete(url).status_code == 403
    assert httpx.get(url.replace("Expires=60", "Expires=61")).status_code == 403
    assert httpx.get(url.replace("/documents/", "/documents/x")).status_code == 403


@pytest.mark.parametrize(
    "keys", [{}, {"AWS_ACCESS_KEY_ID": KEY}, {"AWS_ACCESS_KEY_ID": KEY, "AWS_SECRET_ACCESS_KEY": "short"}]
)
def test_it_does_not_start_without_keys(tmp_path: Any, keys: dict[str, str]) -> None:
    command = [sys.executable, "-m", "deploy.local.s3", "--port", "0", "--data", str(tmp_path)]
    environment = {key: value for key, value in os.environ.items() if not key.startswith("AWS_")} | keys
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert (ended.returncode, "AWS_SECRET_ACCESS_KEY" in ended.stderr) == (1, True)
