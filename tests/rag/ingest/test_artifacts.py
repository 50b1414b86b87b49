from __future__ import annotations

import numpy as np
import pytest

from rag.adapters.memory.objects import MemoryObjects
from rag.errors import Conflict, Unavailable
from rag.ingest.artifacts import CONTAINER, Artifacts, beside, version_of
from rag.models import Block, BlockKind, Chunk, DocumentRecord, Embedding, ParsedDocument, SparseVector

PARSED = ParsedDocument(
    "Mooring\n\nThree ropes — „drei Seile“ 🚀",
    (Block(BlockKind.HEADING, 0, 7), Block(BlockKind.ROW, 9, 33, ("Mooring",), 2, "Rope | Length")),
    "Mooring", "en", "text/markdown", 3,
)  # fmt: skip
CHUNKS = (
    Chunk("c1", 0, "Mooring", "Mooring", 0, 7, (), 3),
    Chunk("c2", 1, "Three ropes", "Mooring\nThree ropes", 9, 20, ("Mooring",), 6, page=2),
)


@pytest.fixture
def artifacts() -> Artifacts:
    return Artifacts(MemoryObjects(CONTAINER))


async def test_parsed_text_and_chunks_come_back_as_they_were(artifacts: Artifacts) -> None:
    await artifacts.put_parsed("i/d/h/parsed.json", PARSED)
    await artifacts.put_chunks("i/d/h/chunks.json", CHUNKS)
    assert await artifacts.parsed("i/d/h/parsed.json") == PARSED
    assert await artifacts.chunks("i/d/h/chunks.json") == CHUNKS


async def test_embeddings_come_back_exact_to_the_bit(artifacts: Artifacts) -> None:
    dense = np.random.default_rng(1).standard_normal(8).astype(np.float32)
    sparse = SparseVector(np.array([3, 2**32 - 1], np.uint32), np.array([0.1, 2.5], np.float32))
    await artifacts.put_embeddings("i/d/h/vectors.npz", {"c1": Embedding(dense, sparse)})
    found = (await artifacts.embeddings("i/d/h/vectors.npz"))["c1"]
    assert found.dense.tobytes() == dense.tobytes()
    assert found.sparse.indices.tolist() == sparse.indices.tolist()
    assert found.sparse.values.tobytes() == sparse.values.tobytes()


async def test_a_document_without_chunks_has_artifacts_as_well(artifacts: Artifacts) -> None:
    await artifacts.put_chunks("i/d/h/chunks.json", ())
    await artifacts.put_embeddings("i/d/h/vectors.npz", {})
    assert await artifacts.chunks("i/d/h/chunks.json") == ()
    assert await artifacts.embeddings("i/d/h/vectors.npz") == {}


def test_a_key_names_everything_that_its_content_depends_on(artifacts: Artifacts) -> None:
    version = version_of("hash", "text/markdown")
    key = artifacts.key("index", "document", 4, version, "parsed.json")
    assert key == f"index/do/document/4-{version}/parsed.json"
    others = [
        artifacts.key("other", "document", 4, version, "parsed.json"),
        artifacts.key("index", "other", 4, version, "parsed.json"),
        artifacts.key("index", "document", 5, version, "parsed.json"),
        artifacts.key("index", "document", 4, version_of("other", "text/markdown"), "parsed.json"),
        artifacts.key("index", "document", 4, version_of("hash", "text/html"), "parsed.json"),
        beside(key, "chunks.json"),
    ]
    assert len({key, *others}) == 7


async def test_artifacts_are_listed_by_shard_and_by_document(artifacts: Artifacts) -> None:
    keys = [f"i/aa/aa{n}/{n}-v/chunks.json" for n in range(3)]
    for key in [*keys, "i/bb/bb0/0-v/chunks.json", "j/aa/aa0/0-v/chunks.json", "i/aa/stray"]:
        await artifacts.put_chunks(key, CHUNKS)
    found = await artifacts.listed("i", "aa")
    assert [(each.key, each.document_id, each.revision) for each in found] == [
        (key, f"aa{n}", n) for n, key in enumerate(keys)
    ]
    assert [each.key for each in await artifacts.listed("i", "aa", "aa1")] == [keys[1]]


async def test_only_older_artifacts_that_are_not_listed_are_superseded(artifacts: Artifacts) -> None:
    kept, lost, running = (f"i/aa/aa1/{revision}-v/chunks.json" for revision in (2, 3, 4))
    for key in (kept, lost, running):
        await artifacts.put_chunks(key, CHUNKS)
    await artifacts.delete_superseded("i", DocumentRecord("aa1", 4, artifacts=(kept,)))
    assert [each.key for each in await artifacts.listed("i", "aa")] == [kept, running]


async def test_a_missing_artifact_is_a_conflict_that_names_the_step(artifacts: Artifacts) -> None:
    for read in (artifacts.parsed, artifacts.chunks, artifacts.embeddings):
        with pytest.raises(Conflict, match=r"chunks\.json is missing"):
            await read("i/d/h/chunks.json")
    assert not await artifacts.exists("i/d/h/chunks.json")


async def test_a_damaged_artifact_of_vectors_is_made_again(artifacts: Artifacts) -> None:
    await artifacts.objects.put(f"{CONTAINER}/i/d/h/vectors.npz", b"\x93NUMPY damaged")
    with pytest.raises(Conflict, match="damaged"):
        await artifacts.embeddings("i/d/h/vectors.npz")
    assert not await artifacts.exists("i/d/h/vectors.npz")


async def test_deleted_artifacts_are_gone_and_absent_ones_are_no_error(artifacts: Artifacts) -> None:
    await artifacts.put_chunks("i/d/h/chunks.json", CHUNKS)
    await artifacts.delete(["i/d/h/chunks.json", "i/d/h/never.json"])
    assert not await artifacts.exists("i/d/h/chunks.json")


async def test_a_store_that_refuses_is_an_outage_and_not_an_absence(artifacts: Artifacts) -> None:
    await artifacts.put_chunks("i/d/h/chunks.json", CHUNKS)
    assert isinstance(artifacts.objects, MemoryObjects)
    artifacts.objects.denied.add(CONTAINER)
    with pytest.raises(Unavailable):
        await artifacts.exists("i/d/h/chunks.json")
    with pytest.raises(Unavailable):
        await artifacts.chunks("i/d/h/chunks.json")
