"""The stream of a collector: objects before events, progress after them, and no document that harms its neighbours."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from consumers.collected import CollectedStream, Document
from consumers.runner import step
from rag.adapters.memory.events import MemoryEventLog
from rag.adapters.memory.objects import MemoryObjects
from rag.errors import Unavailable
from rag.ids import Ids
from rag.labels import split_label
from rag.sources import Source

SOURCE = Source("wiki", "acme", "s3://internal/wiki", ("group:staff",))
IDS = Ids(b"0123456789abcdef")


class Pages:
    """A collector of what it is given. ``remembered`` holds the keys of the documents that are done."""

    def __init__(self, *documents: Document) -> None:
        self.waiting = list(documents)
        self.remembered: list[str] = []

    async def collect(self) -> Sequence[Document]:
        return self.waiting

    async def done(self, documents: Sequence[Document]) -> None:
        self.remembered += [document.key for document in documents]
        self.waiting = []


@pytest.fixture
def objects() -> MemoryObjects:
    return MemoryObjects("s3://internal")


@pytest.fixture
def log() -> MemoryEventLog:
    return MemoryEventLog()


async def stored(objects: MemoryObjects) -> dict[str, bytes]:
    uris = [state.uri async for state in objects.list(SOURCE.base_uri)]
    return {uri: found.content for uri in uris if (found := await objects.get(uri))}


async def test_a_document_is_an_object_with_labels_and_then_an_event(
    objects: MemoryObjects, log: MemoryEventLog
) -> None:
    page = Document("a/b ü", b"Text.", "text/plain", title="Über\x00 uns", principals=("group:a,b",), subjects=("ann",))
    pages = Pages(page)
    assert await step(CollectedStream(SOURCE, pages, objects), IDS, log) == 1
    found = await objects.get(page.uri(SOURCE))
    assert found is not None
    assert (found.content, found.state.media_type) == (b"Text.", "text/plain")
    assert SOURCE.access(page.uri(SOURCE), found.state.labels).principals == ("group:a,b",)
    assert split_label(found.state.labels["title"]) == ("Über  uns",)
    assert pages.remembered == ["a/b ü"]


async def test_a_document_without_content_is_deleted(objects: MemoryObjects, log: MemoryEventLog) -> None:
    await step(CollectedStream(SOURCE, Pages(Document("a", b"1"), Document("b", b"2")), objects), IDS, log)
    await step(CollectedStream(SOURCE, Pages(Document("a", None)), objects), IDS, log)
    assert await stored(objects) == {"s3://internal/wiki/b": b"2"}


async def test_a_document_with_too_many_names_is_withdrawn_and_its_neighbours_are_not(
    objects: MemoryObjects, log: MemoryEventLog
) -> None:
    stream = CollectedStream(SOURCE, Pages(Document("a", b"old"), Document("b", b"b")), objects)
    await step(stream, IDS, log)
    crowd = tuple(f"person-{number}@example.org" for number in range(100))
    pages = Pages(Document("a", b"new", subjects=crowd), Document("c", b"c"))
    await step(CollectedStream(SOURCE, pages, objects), IDS, log)
    assert await stored(objects) == {"s3://internal/wiki/b": b"b", "s3://internal/wiki/c": b"c"}


async def test_nothing_is_remembered_while_the_store_or_the_log_is_down(
    objects: MemoryObjects, log: MemoryEventLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def refuse(*_: object, **__: object) -> None:
        raise Unavailable("down")

    pages = Pages(Document("a", b"1"))
    for part, method in ((objects, "put"), (log, "publish")):
        with monkeypatch.context() as broken:
            broken.setattr(part, method, refuse)
            with pytest.raises(Unavailable):
                await step(CollectedStream(SOURCE, pages, objects), IDS, log)
        assert pages.remembered == []
    assert await step(CollectedStream(SOURCE, pages, objects), IDS, log) == 1
