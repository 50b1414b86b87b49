"""One behaviour for every object store: in memory, in a folder, in an S3 bucket, and in the containers of obstore."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.stub import Stubber
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from moto.server import ThreadedMotoServer
from obstore.store import AzureStore, GCSStore, MemoryStore, S3Store

from rag.adapters.memory.objects import MemoryObjects
from rag.adapters.objects import Bucket, Folder, Objects, Remote, aws_client
from rag.adapters.objects.folder import MARKER
from rag.errors import ObjectUnavailable, Rejected, Unavailable
from rag.ids import object_key, object_uri
from rag.labels import decode_label, encode_label, join_label, split_label
from rag.models import ObjectState
from tests.fakes.blobs import Blobs
from tests.fakes.serving import serving

BASE = "s3://store"
PRINTABLE = st.characters(exclude_categories=["C", "Z"])
NAMES = st.text(st.sampled_from("%2C,=? ") | PRINTABLE, min_size=1)

REMOTE_KEYS = ("ü/é.md", "sp ace+plus%25.md", "q?x=1#f.md", "a\\b.md", "%2e%2e/x.md", "e\u0301.md", "..x/y...md")


@dataclass
class Store:
    objects: Any
    keeps_labels: bool = True
    raw: Any = None
    remove: Any = None
    refuse: Any = None  # (uri, monkeypatch): refuse this object alone
    heads_refused: bool = True  # a refused object still has a head
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


@pytest.fixture
def obstore_gs() -> Iterator[tuple[Blobs, Remote]]:
    fake = Blobs("gs")
    with serving(fake) as url:
        options = {"base_url": url, "bearer_token": "t"}
        yield fake, Remote(GCSStore(fake.name, config=options, client_options={"allow_http": True}), "gs://store")


@pytest.fixture
def obstore_az() -> Iterator[tuple[Blobs, Remote]]:
    fake = Blobs("az")
    with serving(fake) as url:
        options = {"endpoint": url, "account_name": "a", "skip_signature": True}
        yield fake, Remote(AzureStore(fake.name, config=options, client_options={"allow_http": True}), "az://store")


@pytest.fixture(
    params=["memory", "folder", "bucket", "prefix", "obstore-memory", "obstore-s3", "obstore-gs", "obstore-az"]
)
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    if request.param == "memory":
        objects = MemoryObjects(BASE)
        return Store(
            objects,
            remove=lambda: objects.denied.add(BASE),
            refuse=lambda uri, _: objects.unreadable.update({uri: "archived"}),
        )
    if request.param == "folder":
        return Store(
            Objects({BASE: Folder(tmp_path / "store", create=True)}),
            False,
            remove=lambda: shutil.rmtree(tmp_path / "store"),
            refuse=lambda uri, patch: _refuse_file(tmp_path / "store" / object_key(uri)[1], patch),
        )
    if request.param == "obstore-memory":
        return Store(Objects({BASE: Remote(MemoryStore(), BASE)}), odd_keys=REMOTE_KEYS)
    if request.param in {"obstore-gs", "obstore-az"}:
        fake, remote = request.getfixturevalue(request.param.replace("-", "_"))
        return Store(
            Objects({BASE: remote}),
            remove=lambda: setattr(fake, "exists", False),
            refuse=lambda uri, _: fake.refused.update({object_key(uri)[1]: 409 if fake.dialect == "az" else 403}),
            odd_keys=REMOTE_KEYS,
            heads_refused=False,
        )
    endpoint = request.getfixturevalue("s3_endpoint")
    keys = {"aws_access_key_id": "a", "aws_secret_access_key": "b", "region_name": "us-east-1"}
    raw = boto3.resource("s3", endpoint_url=endpoint, **keys).Bucket(f"store-{abs(hash(tmp_path))}")
    raw.create()
    client = aws_client("s3", region="us-east-1", endpoint=endpoint, key_id="a", secret="b")
    bucket = Bucket(client, raw.name, "below/" if request.param == "prefix" else "")

    def remove() -> None:
        raw.object_versions.delete()
        raw.delete()

    def refuse(uri: str, _: Any) -> None:
        key = ("below/" if request.param == "prefix" else "") + object_key(uri)[1]
        raw.put_object(Key=key, Body=b"x", StorageClass="GLACIER")

    if request.param == "obstore-s3":
        options = {"access_key_id": "a", "secret_access_key": "b", "region": "us-east-1", "endpoint": endpoint}
        remote = Remote(S3Store(raw.name, config=options, client_options={"allow_http": True}), raw.name)
        return Store(Objects({BASE: remote}), remove=remove, refuse=refuse, odd_keys=REMOTE_KEYS)
    return Store(Objects({BASE: bucket}), raw=raw if request.param == "bucket" else None, remove=remove, refuse=refuse)


def _refuse_file(path: Path, patch: pytest.MonkeyPatch) -> None:
    """Deny one file. The superuser may read every file, so its mode would not do."""
    real = os.open

    def denied(name: Any, *arguments: Any, **options: Any) -> int:
        if Path(name) == path:
            _denied()
        return real(name, *arguments, **options)

    patch.setattr(os, "open", denied)


async def test_an_erased_object_leaves_nothing(store: Store) -> None:
    uris = [f"{BASE}/a/gone.md", f"{BASE}/a/gone.md.bak", f"{BASE}/a/kept.md"]
    for uri in uris:
        await store.objects.put(uri, b"text")
    assert await store.objects.kept([*uris, f"{BASE}/none.md"]) == set(uris)
    for _ in range(2):
        await store.objects.erase([uris[0], f"{BASE}/none.md"])
    assert await store.objects.kept(uris) == set(uris[1:])
    assert await store.objects.head(uris[0]) is None


@pytest.mark.parametrize("prefix", ["", "below/"])
async def test_every_version_marker_and_unfinished_upload_is_erased(s3_endpoint: str, prefix: str) -> None:
    client = aws_client("s3", region="us-east-1", endpoint=s3_endpoint, key_id="a", secret="b")
    name = f"versions-{prefix.strip('/')}x"
    client.create_bucket(Bucket=name)
    client.put_bucket_versioning(Bucket=name, VersioningConfiguration={"Status": "Enabled"})
    objects = Objects({BASE: Bucket(client, name, prefix)})
    gone, kept = f"{BASE}/gone.md", f"{BASE}/gone.md2"
    for number in range(3):
        await objects.put(gone, b"text %d" % number)
        await objects.put(kept, b"text")
    await objects.delete([gone])
    await objects.put(gone, b"once more")
    client.create_multipart_upload(Bucket=name, Key=f"{prefix}gone.md")
    client.create_multipart_upload(Bucket=name, Key=f"{prefix}gone.md2")
    assert await objects.kept([gone, kept]) == {gone, kept}
    await objects.erase([gone])
    assert await objects.kept([gone, kept]) == {kept}
    left = client.list_object_versions(Bucket=name)
    assert {each["Key"] for each in left.get("Versions", []) + left.get("DeleteMarkers", [])} == {f"{prefix}gone.md2"}
    assert len(left["Versions"]) == 3
    assert [each["Key"] for each in client.list_multipart_uploads(Bucket=name)["Uploads"]] == [f"{prefix}gone.md2"]


async def test_an_unfinished_upload_alone_is_kept(s3_endpoint: str) -> None:
    client = aws_client("s3", region="us-east-1", endpoint=s3_endpoint, key_id="a", secret="b")
    client.create_bucket(Bucket="unfinished")
    client.create_multipart_upload(Bucket="unfinished", Key="a.md")
    objects = Objects({BASE: Bucket(client, "unfinished")})
    assert await objects.kept([f"{BASE}/a.md"]) == {f"{BASE}/a.md"}
    await objects.erase([f"{BASE}/a.md"])
    assert await objects.kept([f"{BASE}/a.md"]) == set()


async def test_a_written_object_is_returned_with_the_same_change_token_everywhere(store: Store) -> None:
    uri = object_uri(BASE, "a/b.md")
    await store.objects.put(uri, b"content")
    head, got = await store.objects.head(uri), await store.objects.get(uri)
    (listed,) = [state async for state in store.objects.list(BASE)]
    assert got.content == b"content"
    assert head.uri == got.state.uri == listed.uri == uri
    assert head.change_token == got.state.change_token == listed.change_token != ""
    assert head.version == got.state.version
    assert head.size == listed.size == 7


async def test_other_content_has_another_version_and_change_token(store: Store) -> None:
    uri = object_uri(BASE, "a.md")
    await store.objects.put(uri, b"one")
    first = await store.objects.head(uri)
    await store.objects.put(uri, b"two")
    second = await store.objects.head(uri)
    assert first.version != second.version
    assert first.change_token != second.change_token


async def test_labels_and_media_type_come_back_as_they_were_written(store: Store) -> None:
    if not store.keeps_labels:
        with pytest.raises(ValueError, match="no labels"):
            await store.objects.put(object_uri(BASE, "a.md"), b"x", labels={"title": "T"})
        return
    title, names = (
        "Müller & Söhne, 100% — ok",
        ["group:staff", "user:al%69ce", "user:a,group:b", "=?utf-8?q?user:bob?="],
    )
    labels = {"title": encode_label(title), "principals": join_label(names), "subjects": ""}
    await store.objects.put(object_uri(BASE, "a.md"), b"x", media_type="text/markdown", labels=labels)
    state = (await store.objects.get(object_uri(BASE, "a.md"))).state
    assert state.labels == labels
    assert decode_label(state.labels["title"]) == title
    assert list(split_label(state.labels["principals"])) == names
    assert state.media_type == "text/markdown"


async def test_the_same_bytes_within_a_second_have_another_version_when_their_metadata_differs(store: Store) -> None:
    if not store.keeps_labels:
        pytest.skip("a folder keeps no labels")
    uri = object_uri(BASE, "a.md")

    async def put_thrice() -> list[ObjectState]:
        metadata = [("text/plain", {}), ("text/plain", {"subjects": "pat"}), ("text/markdown", {"subjects": "pat"})]
        return [await store.objects.put(uri, b"x", media_type=kind, labels=labels) for kind, labels in metadata]

    states = await put_thrice()
    while len({state.modified.replace(microsecond=0) for state in states}) > 1:  # the second has changed in between
        states = await put_thrice()
    assert len({state.version for state in states}) == 3
    head, got = await store.objects.head(uri), await store.objects.get(uri)
    assert head.version == got.state.version == states[-1].version


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(names=st.lists(NAMES, max_size=5))
async def test_any_list_of_names_comes_back_from_the_metadata_of_an_object(store: Store, names: list[str]) -> None:
    if store.keeps_labels:
        state = await store.objects.put(object_uri(BASE, "a.md"), b"x", labels={"subjects": join_label(names)})
        assert list(split_label(state.labels["subjects"])) == names


async def test_a_label_that_is_not_encoded_is_refused(store: Store) -> None:
    for label in ("Müller", "line\n", "tab\t"):
        with pytest.raises(ValueError, match="label"):
            await store.objects.put(object_uri(BASE, "a.md"), b"x", labels={"title": label})


async def test_a_percent_escape_of_another_writer_is_decoded_once(store: Store) -> None:
    if store.raw is None:
        pytest.skip("only S3 has other writers")
    store.raw.put_object(Key="a.md", Body=b"x", Metadata={"principals": "user:a%2Cb,user:al%2569ce"})
    label = (await store.objects.head(object_uri(BASE, "a.md"))).labels["principals"]
    assert split_label(label) == ("user:a,b", "user:al%69ce")


async def test_every_key_a_source_may_hold_is_read_and_listed(store: Store) -> None:
    uris = {object_uri(BASE, key) for key in store.odd_keys}
    for uri in uris:
        await store.objects.put(uri, object_key(uri)[1].encode())
    assert {state.uri async for state in store.objects.list(BASE)} == uris
    for uri in uris:
        assert (await store.objects.get(uri)).content == object_key(uri)[1].encode()


async def test_one_odd_object_hides_no_other(store: Store) -> None:
    if store.raw is None:
        pytest.skip("only S3 takes such keys")
    for key in ("up/../x.md", "dot/./x.md", "a//b.md", "/lead.md", "ok.md"):
        store.raw.put_object(Key=key, Body=b"x")
    listed = {state.uri async for state in store.objects.list(BASE)}
    assert listed == {object_uri(BASE, key) for key in ("a//b.md", "/lead.md", "ok.md")}
    assert (await store.objects.get(object_uri(BASE, "a//b.md"))).content == b"x"


async def test_a_missing_object_is_an_absence(store: Store) -> None:
    assert await store.objects.head(object_uri(BASE, "none.md")) is None
    assert await store.objects.get(object_uri(BASE, "none.md")) is None


async def test_a_missing_store_is_an_outage_and_not_an_absence(store: Store) -> None:
    uri = object_uri(BASE, "a.md")
    await store.objects.put(uri, b"x")
    if store.remove is None or isinstance(store.objects, MemoryObjects):
        pytest.skip("memory cannot go away")
    store.remove()
    with pytest.raises(Unavailable):
        await store.objects.head(uri)
    with pytest.raises(Unavailable):
        await store.objects.get(uri)
    with pytest.raises(Unavailable):
        [state async for state in store.objects.list(BASE)]


async def test_a_refusal_of_one_object_is_distinguished_from_an_outage(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    uri, other = object_uri(BASE, "cold.md"), object_uri(BASE, "warm.md")
    await store.objects.put(uri, b"x")
    await store.objects.put(other, b"y")
    if store.refuse is None:
        pytest.skip("obstore's memory refuses nothing")
    store.refuse(uri, monkeypatch)
    with pytest.raises(ObjectUnavailable) as caught:
        await store.objects.get(uri)
    assert caught.value.reason in {"archived", "access_denied"}
    assert (await store.objects.get(other)).content == b"y"
    if store.heads_refused:
        assert await store.objects.head(uri) is not None


@pytest.mark.parametrize(
    ("code", "is_listed", "reason"),
    [("AccessDenied", True, "access_denied"), ("KMS.DisabledException", True, "key_unavailable"), ("AccessDenied", False, "")],
)  # fmt: skip
async def test_a_bucket_that_lists_refuses_one_object_and_one_that_does_not_is_an_outage(
    s3_endpoint: str, code: str, is_listed: bool, reason: str
) -> None:
    client = aws_client("s3", region="us-east-1", endpoint=s3_endpoint, key_id="a", secret="b")
    client.create_bucket(Bucket="denied")
    with Stubber(client) as stub:
        stub.add_client_error("get_object", code)
        if is_listed:
            stub.add_response("list_objects_v2", {})
        else:
            stub.add_client_error("list_objects_v2", code)
        with pytest.raises(Unavailable) as caught:
            await Bucket(client, "denied").get("a.md", None)
    assert getattr(caught.value, "reason", "") == reason


async def test_a_folder_that_cannot_be_listed_is_an_outage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = Folder(tmp_path / "store", create=True)
    await folder.put("a.md", b"x", "", {})
    monkeypatch.setattr(os, "open", _denied)
    monkeypatch.setattr(os, "scandir", _denied)
    with pytest.raises(Unavailable) as caught:
        await folder.get("a.md", None)
    assert not isinstance(caught.value, ObjectUnavailable)


def _denied(*_: Any, **__: Any) -> Any:
    raise PermissionError(errno.EACCES, "denied")


async def test_a_large_object_is_refused_before_it_is_read(store: Store) -> None:
    uri = object_uri(BASE, "large.bin")
    await store.objects.put(uri, b"x" * 100)
    with pytest.raises(Rejected) as caught:
        await store.objects.get(uri, limit=99)
    assert caught.value.reason == "too_large"
    assert (await store.objects.get(uri, limit=100)).state.size == 100


async def test_deleting_twice_is_not_an_error(store: Store) -> None:
    uris = [object_uri(BASE, f"d/{n}.md") for n in range(3)]
    await store.objects.put(uris[0], b"x")
    await store.objects.delete(uris)
    await store.objects.delete(uris)
    assert [state async for state in store.objects.list(BASE)] == []


async def test_a_prefix_lists_only_the_objects_below_it(store: Store) -> None:
    for key in ("a/1.md", "a/b/2.md", "ab/3.md"):
        await store.objects.put(object_uri(BASE, key), b"x")
    assert {state.uri async for state in store.objects.list(f"{BASE}/a")} == {f"{BASE}/a/1.md", f"{BASE}/a/b/2.md"}


async def test_other_containers_cannot_be_reached(store: Store) -> None:
    for uri in ("s3://other/a.md", "file:///etc/passwd", "http://127.0.0.1/x"):
        with pytest.raises(Rejected):
            await store.objects.get(uri)


async def test_links_and_climbing_keys_lead_nowhere(tmp_path: Path) -> None:
    (tmp_path / "outside.txt").write_text("secret")
    folder = Folder(tmp_path / "store", create=True)
    (tmp_path / "store" / "link.txt").symlink_to(tmp_path / "outside.txt")
    (tmp_path / "store" / "door").symlink_to(tmp_path)
    assert [key async for key, _ in folder.list("")] == []
    for key in ("link.txt", "door/outside.txt", "../outside.txt"):
        with pytest.raises(Rejected):
            await folder.get(key, None)


async def test_a_watched_folder_that_is_absent_is_never_made(tmp_path: Path) -> None:
    folder = Folder(tmp_path / "unmounted")
    calls: list[Callable[[], Any]] = [
        lambda: folder.head("a.md"), lambda: folder.get("a.md", None), lambda: folder.identity(),
        lambda: folder.put("a.md", b"x", "", {}),
    ]  # fmt: skip
    for call in calls:
        with pytest.raises(Unavailable, match="mount or create it"):
            await call()
    with pytest.raises(Unavailable, match="mount or create it"):
        _ = [entry async for entry in folder.list("")]
    assert not (tmp_path / "unmounted").exists()


async def test_a_folder_is_identified_by_its_marker_else_by_its_inode(tmp_path: Path) -> None:
    (first, second) = (tmp_path / "first", tmp_path / "second")
    for each in (first, second):
        each.mkdir()
    marks = [await Folder(each).identity() for each in (first, second)]
    assert marks[0].keys() == {"inode"}
    assert marks[0] != marks[1]
    for each in (first, second):
        (each / MARKER).write_text("one-and-only\n")
    assert [(await Folder(each).identity())["marker"] for each in (first, second)] == ["one-and-only"] * 2


@pytest.fixture(params=["obstore_gs", "obstore_az"])
def remote(request: pytest.FixtureRequest) -> tuple[Blobs, Remote]:
    return request.getfixturevalue(request.param)


@pytest.mark.parametrize(
    "key", ["../store2/x.md", "a/../x.md", "./x.md", "/x.md", "x.md/", "a//x.md", "tab\tx.md", ".."]
)
async def test_a_key_that_obstore_would_change_or_refuse_is_never_read_as_another(
    remote: tuple[Blobs, Remote], key: str
) -> None:
    fake, container = remote
    await container.put("x.md", b"other", "", {})
    calls: list[Callable[[], Any]] = [
        lambda: container.head(key), lambda: container.get(key, None), lambda: container.put(key, b"x", "", {}),
        lambda: container.delete([key]),
    ]  # fmt: skip
    for call in calls:
        with pytest.raises(Rejected):
            await call()
    assert fake.blobs.keys() == {"x.md"}


async def test_a_listing_with_an_unreadable_name_is_an_outage_with_a_remedy_and_other_folders_are_listed(
    remote: tuple[Blobs, Remote],
) -> None:
    fake, container = remote
    await container.put("docs/a.md", b"x", "", {})
    fake.blobs["odd//secret-name.md"] = fake.blobs["docs/a.md"]
    with pytest.raises(Unavailable, match="narrow base_uri") as caught:
        [key async for key, _ in container.list("")]
    assert "secret-name" not in str(caught.value)
    assert [key async for key, _ in container.list("docs/")] == ["docs/a.md"]
    assert await container.get("none.md", None) is None


async def test_a_denied_container_is_an_outage_and_no_refusal_of_an_object(remote: tuple[Blobs, Remote]) -> None:
    fake, container = remote
    await container.put("a.md", b"x", "", {})
    fake.refused["a.md"], fake.lists = 403, False
    with pytest.raises(Unavailable) as caught:
        await container.get("a.md", None)
    assert not isinstance(caught.value, ObjectUnavailable)
    with pytest.raises(Unavailable):
        await container.head("none.md")


async def test_metadata_that_cannot_be_read_refuses_one_object(remote: tuple[Blobs, Remote]) -> None:
    fake, container = remote
    await container.put("a.md", b"x", "", {"principals": ""})
    assert (await container.head("a.md")).labels == {"principals": ""}
    name = next(name for name in fake.blobs["a.md"].headers if name.endswith(b"principals"))
    fake.blobs["a.md"].headers[name] = "Müller".encode()
    with pytest.raises(ObjectUnavailable) as caught:
        await container.get("a.md", None)
    assert caught.value.reason == "unreadable_metadata"
