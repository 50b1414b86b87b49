"""Chunks to vectors. Only inputs that were never embedded cost an embedding; cached and new vectors are the same."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from rag.errors import Unavailable
from rag.ids import Ids
from rag.models import Chunk, Embedding, SparseVector, Vector
from rag.ports import Embedder, EmbeddingCache, Embeddings, SparseEncoder

_FORMAT = np.array([1], np.uint32)  # first array of an artifact: its version
_LENGTH_TOLERANCE = 1e-3  # how far the length of a vector may be from one


@dataclass(frozen=True, slots=True)
class Embedded:
    """Embeddings of a batch: ``embeddings`` has every chunk, ``fresh`` (embedding key → vector) those that the cache does not have yet.

    ``reused`` counts the chunks that cost no embedding, ``tokens`` the tokens that the model was given.
    """

    embeddings: Embeddings
    fresh: Mapping[bytes, Vector]
    reused: int
    tokens: int


async def embed(
    chunks: Sequence[Chunk], embedder: Embedder, sparse: SparseEncoder, cache: EmbeddingCache, ids: Ids, tenant: str
) -> Embedded:
    """Embed the chunks of any number of documents of one tenant, dense and sparse, with one cache lookup and one call of the embedder.

    Raises Unavailable when the embedder does, or when it returns anything but unit vectors of its dimensions.
    """
    firsts = {chunk.input: chunk for chunk in reversed(chunks)}
    keys = {text: ids.embedding_key(tenant, text) for text in firsts}
    cached = await cache.lookup(embedder.fingerprint, tenant, keys.values()) if keys else {}
    known = {key: vector for key, vector in cached.items() if vector.shape == (embedder.dimensions,)}
    missing = [chunk for text, chunk in firsts.items() if keys[text] not in known]
    fresh = {}
    if missing:
        vectors = await embedder.embed([chunk.input for chunk in missing])
        _check(vectors, len(missing), embedder)
        fresh = {keys[chunk.input]: vector for chunk, vector in zip(missing, vectors, strict=True)}
    dense = {**known, **fresh}
    weights = dict(zip(firsts, sparse.encode(list(firsts)), strict=True))
    return Embedded(
        {chunk.chunk_id: Embedding(dense[keys[chunk.input]], weights[chunk.input]) for chunk in chunks},
        fresh,
        reused=len(chunks) - len(missing),
        tokens=sum(min(chunk.tokens, embedder.max_tokens) for chunk in missing),
    )


def dump(embeddings: Embeddings) -> bytes:
    """Return the bytes of an artifact: exact to the bit, and equal for equal embeddings in equal order."""
    vectors = list(embeddings.values())
    lengths = [len(vector.sparse.indices) for vector in vectors]
    arrays = (
        _FORMAT,
        np.frombuffer("\n".join(embeddings).encode(), np.uint8),
        np.stack([vector.dense for vector in vectors]) if vectors else np.empty((0, 0), np.float32),
        np.array(lengths, np.int64),
        np.concatenate([vector.sparse.indices for vector in vectors] or [np.empty(0, np.uint32)]),
        np.concatenate([vector.sparse.values for vector in vectors] or [np.empty(0, np.float32)]),
    )
    buffer = io.BytesIO()
    for array in arrays:
        np.save(buffer, array, allow_pickle=False)
    return buffer.getvalue()


def load(artifact: bytes) -> dict[str, Embedding]:
    """Return the embeddings that ``dump`` was given. Raises ValueError for damaged bytes: the chunks must be embedded again."""
    buffer = io.BytesIO(artifact)
    try:
        version, names, dense, lengths, indices, values = (np.load(buffer, allow_pickle=False) for _ in range(6))
        if version.tolist() != _FORMAT.tolist() or (dense.dtype, values.dtype) != (np.float32, np.float32):
            raise ValueError(f"format {version.tolist()}")
        chunk_ids = names.tobytes().decode().split("\n") if len(names) else []
        if not len(chunk_ids) == len(dense) == len(lengths) or not lengths.sum() == len(indices) == len(values):
            raise ValueError("the counts differ")
    except (ValueError, EOFError, OSError) as error:
        raise ValueError(f"an embeddings artifact of {len(artifact)} bytes is damaged: embed again") from error
    ends = np.cumsum(lengths)
    return {
        chunk_id: Embedding(row, SparseVector(indices[end - length : end], values[end - length : end]))
        for chunk_id, row, length, end in zip(chunk_ids, dense, lengths, ends, strict=True)
    }


def _check(vectors: Sequence[Vector], count: int, embedder: Embedder) -> None:
    """Raise Unavailable for bad vectors. A search would never return such a vector, and no check would report it as missing."""
    if len(vectors) != count:
        raise Unavailable(
            f"embedder {embedder.name} returned {len(vectors)} vectors for {count} texts: check the model"
        )
    shapes = {vector.shape for vector in vectors}
    if shapes != {(embedder.dimensions,)}:
        raise Unavailable(
            f"embedder {embedder.name} returned vectors of shape {shapes}, but {embedder.dimensions} dimensions are set"
        )
    lengths = np.linalg.norm(np.stack(vectors), axis=1)
    if not (np.abs(lengths - 1) < _LENGTH_TOLERANCE).all():  # also false for NaN
        raise Unavailable(f"embedder {embedder.name} returned vectors that are not of unit length: normalise them")
