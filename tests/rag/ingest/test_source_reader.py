from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest

from rag.adapters.memory.ledger import MemoryLedger
from rag.adapters.memory.objects import MemoryObjects
from rag.errors import Rejected, Unavailable
from rag.ids import Ids
from rag.ingest.roots import Roots
from rag.ingest.source_reader import Reader
from rag.models import RETIRED, Cause, DocumentRecord, DocumentStatus, IndexingTask
from rag.sources import Source, Sources

IDS = Ids(b"0123456789abcdef")
SOURCE = Source("s3", "acme", "s3://docs", ("group:staff",), {"hr/": ("group:people",)})
CAUSE = Cause("documents.changed.v1", "e1", 0, 7)
UNKNOWN = DocumentRecord("d")


def task(key: str = "a.md", **changes: Any) -> IndexingTask:
    return replace(IndexingTask("d", "acme", "s3", f"s3://docs/{key}", 0, CAUSE), **changes)


@pytest.fixture
def objects() -> MemoryObjects:
    return MemoryObjects("s3://docs", "s3://other")


@pytest.fixture
def reader(objects: MemoryObjects) -> Reader:
    return Reader(IDS, Sources({"s3": SOURCE}), objects, Roots(objects, MemoryLedger()), max_bytes=100)


async def record_of(reader: Reader, key: str = "a.md") -> DocumentRecord:
    """Return the record that the ledger has after the object was applied."""
    reading = await reader.read(task(key), UNKNOWN)
    assert reading
    applied = reading.task
    return DocumentRecord(
        "d", 1, applied.status, "acme", "s3", applied.uri, 0, applied.version, applied.change_token,
        applied.content_hash, applied.principals, config_hash=applied.config_hash,
    )  # fmt: skip


async def test_a_new_object_is_read_with_the_state_and_labels_of_now(reader: Reader, objects: MemoryObjects) -> None:
    labels = {"title": "Mooring%20line", "subjects": "Pat@Example.com, kim@example.com"}
    state = await objects.put("s3://docs/a.md", b"# A", media_type="text/markdown", labels=labels)
    reading = await reader.read(task(version="an older one", title="stale"), UNKNOWN)
    assert reading
    assert reading.source_object
    assert reading.source_object.content == b"# A"
    read = reading.task
    assert (read.status, read.version, read.change_token, read.media_type) == (
        DocumentStatus.LIVE, state.version, state.change_token, "text/markdown",
    )  # fmt: skip
    assert (read.title, read.principals) == ("Mooring line", ("group:staff",))
    assert read.content_hash == IDS.content_hash("acme", b"# A")
    people = {IDS.subject_id("acme", name) for name in ("pat@example.com", "kim@example.com")}
    assert set(read.subjects) == people


async def test_a_settled_object_is_not_read_again(
    reader: Reader, objects: MemoryObjects, monkeypatch: pytest.MonkeyPatch
) -> None:
    await objects.put("s3://docs/a.md", b"# A")
    record = await record_of(reader)

    async def forbidden(uri: str, *, limit: int | None = None) -> None:
        raise AssertionError(f"{uri} was read")

    monkeypatch.setattr(objects, "get", forbidden)
    assert await reader.read(task(), record) is None


@pytest.mark.parametrize(
    ("changes", "reread"),
    [({}, True), ({"cause": replace(CAUSE, offset=-1)}, False)],
    ids=["its own outcome may be unpublished", "a backfill"],
)
async def test_a_settled_object_is_read_when_its_content_is_needed(
    reader: Reader, objects: MemoryObjects, changes: Mapping[str, Any], reread: bool
) -> None:
    await objects.put("s3://docs/a.md", b"# A")
    reading = await reader.read(task(**changes), await record_of(reader), reread=reread)
    assert reading
    assert reading.source_object


async def test_a_new_version_or_new_access_unsettles_an_object(reader: Reader, objects: MemoryObjects) -> None:
    await objects.put("s3://docs/a.md", b"# A")
    record = await record_of(reader)
    await objects.put("s3://docs/a.md", b"# B")
    assert await reader.read(task(), record)
    record = await record_of(reader)
    assert await reader.read(task(), record) is None
    assert await reader.read(task(), replace(record, principals=("group:everyone",)))
    assert await reader.read(task(), replace(record, status=DocumentStatus.SUPPRESSED))


async def test_an_absent_object_is_deleted_once(reader: Reader) -> None:
    reading = await reader.read(task(), UNKNOWN)
    assert reading
    assert reading.source_object is None
    assert (reading.task.status, reading.task.version, reading.task.content_hash) == (DocumentStatus.DELETED, "", "")
    gone = DocumentRecord("d", 2, DocumentStatus.DELETED, "acme", "s3", "s3://docs/a.md")
    assert await reader.read(task(), gone) is None


async def test_a_source_that_denies_access_is_an_outage_and_never_a_deletion(
    reader: Reader, objects: MemoryObjects
) -> None:
    await objects.put("s3://docs/a.md", b"# A")
    record = await record_of(reader)
    objects.denied.add("s3://docs")
    for known in (record, UNKNOWN):
        with pytest.raises(Unavailable):
            await reader.read(task(), known)


async def test_an_object_that_is_too_large_is_dead_with_its_version(reader: Reader, objects: MemoryObjects) -> None:
    state = await objects.put("s3://docs/hr/a.md", b"x" * 101)
    reading = await reader.read(task("hr/a.md"), UNKNOWN)
    assert reading
    assert (reading.task.status, reading.task.reason) == (DocumentStatus.DEAD, "too_large")
    assert (reading.task.version, reading.task.principals) == (state.version, ("group:people",))
    record = replace(await record_of(reader, "hr/a.md"), reason="too_large")
    assert await reader.read(task("hr/a.md"), record) is None


async def test_an_object_that_shrank_after_its_refusal_keeps_no_version(
    reader: Reader, objects: MemoryObjects, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its own event reads it. A recorded version would make that event look settled."""
    await objects.put("s3://docs/a.md", b"x" * 101)
    get = objects.get

    async def overtaken(uri: str, *, limit: int | None = None) -> Any:
        try:
            return await get(uri, limit=limit)
        except Rejected:
            await objects.put(uri, b"small")
            raise

    monkeypatch.setattr(objects, "get", overtaken)
    reading = await reader.read(task(), UNKNOWN)
    assert reading
    assert (reading.task.status, reading.task.version) == (DocumentStatus.DEAD, "")


@pytest.mark.parametrize(
    ("labels", "principals"),
    [({"title": "nul%00"}, ("group:staff",)), ({"principals": "group:x%0A"}, ()), ({"subjects": "pat%7F"}, ("group:staff",))],
)  # fmt: skip
async def test_an_unprintable_label_makes_the_document_dead_and_opens_it_to_no_one_new(
    reader: Reader, objects: MemoryObjects, labels: dict[str, str], principals: tuple[str, ...]
) -> None:
    await objects.put("s3://docs/a.md", b"# A", labels=labels)
    reading = await reader.read(task(), UNKNOWN)
    assert reading
    assert reading.source_object is None
    assert (reading.task.status, reading.task.reason) == (DocumentStatus.DEAD, "bad_label")
    assert reading.task.principals == principals
    assert (reading.task.title, reading.task.subjects) == ("", ())


@pytest.mark.parametrize("changes", [{"source": "ftp"}, {"tenant": "globex"}, {"uri": "s3://other/a.md"}])
async def test_a_document_that_no_source_contains_is_retired_and_nothing_is_read(
    reader: Reader, objects: MemoryObjects, changes: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    await objects.put("s3://other/a.md", b"the secret of another source")

    async def forbidden(uri: str, *, limit: int | None = None) -> None:
        raise AssertionError(f"{uri} was read")

    monkeypatch.setattr(objects, "get", forbidden)
    reading = await reader.read(task(**changes), replace(UNKNOWN, revision=1, status=DocumentStatus.LIVE))
    assert reading
    assert reading.source_object is None
    assert (reading.task.status, reading.task.reason, reading.task.version) == (DocumentStatus.DELETED, RETIRED, "")
