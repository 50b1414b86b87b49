"""One behaviour for every object store: in memory, in a folder, in an S3 bucket."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import boto3
import pytest
from moto.server import ThreadedMotoServer

from rag.adapters.memory.objects import MemoryObjects
from rag.adapters.objects import Bucket, Folder, Objects, aws_client
from rag.errors import Rejected, Unavailable
from rag.ids import object_key, object_uri

BASE = "s3://store"


@dataclass
class Made:
    objects: Any
    keeps_labels: bool = True
    raw: Any = None
    take_away: Any = None
    odd_keys: tuple[str, ...] = field(
        default=("ü/é.md", "sp ace+plus%25.md", "q?x=1#f.md", "a\\b.md", "tab\tx.md", "e\u0301.md")
    )


@pytest.fixture(scope="module")
def s3_endpoint() -> Iterator[str]:
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture(params=["memory", "folder", "bucket", "prefix"])
def made(request: pytest.FixtureRequest, tmp_path: Path) -> Made:
    if request.param == "memory":
        objects = MemoryObjects(BASE)
        return Made(objects, take_away=lambda: objects.denied.add(BASE))
    if request.param == "folder":
        return Made(
            Objects({BASE: Folder(tmp_path / "store")}), False, take_away=lambda: shutil.rmtree(tmp_path / "store")
        )
    endpoint = request.getfixturevalue("s3_endpoint")
    keys = {"aws_access_key_id": "a", "aws_secret_access_key": "b", "region_name": "us-east-1"}
    raw = boto3.resource("s3", endpoint_url=endpoint, **keys).Bucket(f"store-{abs(hash(tmp_path))}")
    raw.create()
    client = aws_client("s3", region="us-east-1", endpoint=endpoint, key_id="a", secret="b")
    bucket = Bucket(client, raw.name, "below/" if request.param == "prefix" else "")

    def take_away() -> None:
        raw.object_versions.delete()
        raw.delete()

    return Made(Objects({BASE: bucket}), raw=raw if request.param == "bucket" else None, take_away=take_away)


async def test_what_was_put_is_got_back_with_one_stamp_everywhere(made: Made) -> None:
    uri = object_uri(BASE, "a/b.md")
    await made.objects.put(uri, b"content")
    head, got = await made.objects.head(uri), await made.objects.get(uri)
    (listed,) = [state async for state in made.objects.list(BASE)]
    assert got.content == b"content"
    assert head.uri == got.state.uri == listed.uri == uri
    assert head.change_token == got.state.change_token == listed.change_token != ""
    assert head.version == got.state.version
    assert head.size == listed.size == 7


async def test_other_content_has_another_version_and_stamp(made: Made) -> None:
    uri = object_uri(BASE, "a.md")
    await made.objects.put(uri, b"one")
    first = await made.objects.head(uri)
    await made.objects.put(uri, b"two")
    second = await made.objects.head(uri)
    assert first.version != second.version
    assert first.change_token != second.change_token


async def test_labels_and_media_type_come_back_whatever_they_hold(made: Made) -> None:
    if not made.keeps_labels:
        with pytest.raises(ValueError, match="no labels"):
            await made.objects.put(object_uri(BASE, "a.md"), b"x", labels={"title": "T"})
        return
    labels = {"title": "Müller & Söhne, 100% — ok", "principals": "group:staff,user:alice"}
    await made.objects.put(object_uri(BASE, "a.md"), b"x", media_type="text/markdown", labels=labels)
    state = (await made.objects.get(object_uri(BASE, "a.md"))).state
    assert state.labels == labels
    assert state.media_type == "text/markdown"


async def test_every_key_a_source_may_hold_is_read_and_listed(made: Made) -> None:
    uris = {object_uri(BASE, key) for key in made.odd_keys}
    for uri in uris:
        await made.objects.put(uri, object_key(uri)[1].encode())
    assert {state.uri async for state in made.objects.list(BASE)} == uris
    for uri in uris:
        assert (await made.objects.get(uri)).content == object_key(uri)[1].encode()


async def test_one_odd_object_hides_no_other(made: Made) -> None:
    if made.raw is None:
        pytest.skip("only S3 takes such keys")
    for key in ("up/../x.md", "dot/./x.md", "a//b.md", "/lead.md", "ok.md"):
        made.raw.put_object(Key=key, Body=b"x")
    listed = {state.uri async for state in made.objects.list(BASE)}
    assert listed == {object_uri(BASE, key) for key in ("a//b.md", "/lead.md", "ok.md")}
    assert (await made.objects.get(object_uri(BASE, "a//b.md"))).content == b"x"


async def test_a_missing_object_is_an_absence(made: Made) -> None:
    assert await made.objects.head(object_uri(BASE, "none.md")) is None
    assert await made.objects.get(object_uri(BASE, "none.md")) is None


async def test_a_missing_store_is_an_outage_and_no_absence(made: Made) -> None:
    uri = object_uri(BASE, "a.md")
    await made.objects.put(uri, b"x")
    made.take_away()
    if isinstance(made.objects, MemoryObjects):
        pytest.skip("memory cannot go away")
    with pytest.raises(Unavailable):
        await made.objects.head(uri)
    with pytest.raises(Unavailable):
        await made.objects.get(uri)
    with pytest.raises(Unavailable):
        [state async for state in made.objects.list(BASE)]


async def test_a_large_object_is_refused_before_it_is_read(made: Made) -> None:
    uri = object_uri(BASE, "large.bin")
    await made.objects.put(uri, b"x" * 100)
    with pytest.raises(Rejected) as caught:
        await made.objects.get(uri, limit=99)
    assert caught.value.reason == "too_large"
    assert (await made.objects.get(uri, limit=100)).state.size == 100


async def test_deleting_twice_is_no_error(made: Made) -> None:
    uris = [object_uri(BASE, f"d/{n}.md") for n in range(3)]
    await made.objects.put(uris[0], b"x")
    await made.objects.delete(uris)
    await made.objects.delete(uris)
    assert [state async for state in made.objects.list(BASE)] == []


async def test_a_prefix_lists_what_is_below_it_only(made: Made) -> None:
    for key in ("a/1.md", "a/b/2.md", "ab/3.md"):
        await made.objects.put(object_uri(BASE, key), b"x")
    assert {state.uri async for state in made.objects.list(f"{BASE}/a")} == {f"{BASE}/a/1.md", f"{BASE}/a/b/2.md"}


async def test_other_containers_cannot_be_reached(made: Made) -> None:
    for uri in ("s3://other/a.md", "file:///etc/passwd", "http://127.0.0.1/x"):
        with pytest.raises(Rejected):
            await made.objects.get(uri)


async def test_links_and_climbing_keys_lead_nowhere(tmp_path: Path) -> None:
    (tmp_path / "outside.txt").write_text("secret")
    folder = Folder(tmp_path / "store")
    (tmp_path / "store" / "link.txt").symlink_to(tmp_path / "outside.txt")
    (tmp_path / "store" / "door").symlink_to(tmp_path)
    assert [key async for key, _ in folder.list("")] == []
    for key in ("link.txt", "door/outside.txt", "../outside.txt"):
        with pytest.raises(Rejected):
            await folder.get(key, None)
