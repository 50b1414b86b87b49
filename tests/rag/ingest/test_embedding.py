import io
from collections.abc import Iterable, Sequence

import numpy as np
import pytest

from rag.adapters.memory.models import HashEmbedder, WordBm25
from rag.errors import Unavailable
from rag.ids import Ids
from rag.ingest.embedding import Embedded, dump, embed, load
from rag.models import Chunk, Vector
from rag.ports import Embedder

IDS = Ids(b"0123456789abcdef")


class Cache:
    def __init__(self) -> None:
        self.vectors: dict[tuple[str, str, bytes], Vector] = {}
        self.lookups = 0

    async def lookup(self, fingerprint: str, tenant: str, keys: Iterable[bytes]) -> dict[bytes, Vector]:
        self.lookups += 1
        return {k: v for k in keys if (v := self.vectors.get((fingerprint, tenant, k))) is not None}

    async def prune(self, *, max_rows: int, max_age_days: float) -> int:
        return 0

    def remember(self, embedder: Embedder, tenant: str, embedded: Embedded) -> None:
        self.vectors |= {(embedder.fingerprint, tenant, key): vector for key, vector in embedded.fresh.items()}


def chunks(*inputs: str) -> list[Chunk]:
    return [
        Chunk(chunk_id=f"chunk-{n}", ordinal=n, text=text, input=text, start=0, end=len(text), section=(), tokens=len(text.split()))
        for n, text in enumerate(inputs)
    ]  # fmt: skip


async def run(given: Sequence[Chunk], embedder: Embedder, cache: Cache, tenant: str = "acme") -> Embedded:
    embedded = await embed(given, embedder, WordBm25(), cache, IDS, tenant)
    cache.remember(embedder, tenant, embedded)
    return embedded


async def test_equal_inputs_are_embedded_once_and_every_chunk_has_its_vector() -> None:
    embedder, cache = HashEmbedder(), Cache()
    done = await run(chunks("pump one", "valve two three", "pump one"), embedder, cache)
    assert (embedder.embedded, len(done.fresh), done.reused, done.tokens) == (2, 2, 1, 5)
    assert list(done.embeddings) == ["chunk-0", "chunk-1", "chunk-2"]
    assert done.embeddings["chunk-0"].dense is done.embeddings["chunk-2"].dense
    assert done.embeddings["chunk-1"].dense.tolist() == (await embedder.embed_query("valve two three")).tolist()
    assert cache.lookups == 1


async def test_an_input_that_was_embedded_before_costs_nothing() -> None:
    embedder, cache = HashEmbedder(), Cache()
    first = await run(chunks("pump", "valve"), embedder, cache)
    again = await run(chunks("pump", "valve", "seal"), embedder, cache)
    assert embedder.embedded == 3
    assert (len(again.fresh), again.reused, again.tokens) == (1, 2, 1)
    assert again.embeddings["chunk-0"].dense.tobytes() == first.embeddings["chunk-0"].dense.tobytes()


async def test_the_cache_is_not_shared_between_tenants_or_models() -> None:
    cache = Cache()
    await run(chunks("pump"), HashEmbedder(), cache, "acme")
    assert len((await run(chunks("pump"), HashEmbedder(), cache, "globex")).fresh) == 1
    assert len((await run(chunks("pump"), HashEmbedder(32), cache, "acme")).fresh) == 1


async def test_a_cached_vector_of_another_width_is_not_used() -> None:
    embedder, cache = HashEmbedder(), Cache()
    cache.vectors[(embedder.fingerprint, "acme", IDS.embedding_key("acme", "pump"))] = np.ones(3, np.float32)
    assert len((await run(chunks("pump"), embedder, cache)).fresh) == 1


async def test_no_chunks_cause_no_lookup() -> None:
    cache = Cache()
    done = await run([], HashEmbedder(), cache)
    assert (dict(done.embeddings), dict(done.fresh), done.reused, done.tokens, cache.lookups) == ({}, {}, 0, 0, 0)


@pytest.mark.parametrize(
    ("vectors", "says"),
    [
        ([], "0 vectors for 1 texts"),
        ([np.ones(3, np.float32)], "64 dimensions are set"),
        ([np.full(64, np.nan, np.float32)], "not of unit length"),
        ([np.zeros(64, np.float32)], "not of unit length"),
    ],
)
async def test_invalid_vectors_of_an_embedder_are_unavailable(vectors: list[Vector], says: str) -> None:
    class Broken(HashEmbedder):
        async def embed(self, texts: Sequence[str]) -> Sequence[Vector]:
            return vectors

    with pytest.raises(Unavailable, match=says):
        await run(chunks("pump"), Broken(), Cache())


async def test_an_artifact_keeps_the_embeddings_to_the_bit() -> None:
    done = await run(chunks("pump one", "", "valve valve two"), HashEmbedder(), Cache())
    artifact = dump(done.embeddings)
    back = load(artifact)
    assert list(back) == list(done.embeddings)
    for chunk_id, embedding in done.embeddings.items():
        assert back[chunk_id].dense.tobytes() == embedding.dense.tobytes()
        assert back[chunk_id].sparse.indices.tolist() == embedding.sparse.indices.tolist()
        assert back[chunk_id].sparse.values.tobytes() == embedding.sparse.values.tobytes()
    assert dump(back) == artifact
    assert load(dump({})) == {}


async def test_a_damaged_artifact_is_refused_and_never_unpickled() -> None:
    artifact = dump((await run(chunks("pump"), HashEmbedder(), Cache())).embeddings)
    pickled = np.array([object()], dtype=object)
    buffer = io.BytesIO()
    np.save(buffer, pickled, allow_pickle=True)
    for damaged in (b"", b"junk", artifact[:-3], artifact[:200], buffer.getvalue()):
        with pytest.raises(ValueError, match="damaged"):
            load(damaged)
