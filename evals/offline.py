"""An index in memory, built by the pipeline itself: quality without a stack, and with any embedder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from governance.admission import admit
from rag.adapters.memory.ledger import MemoryLedger
from rag.adapters.memory.models import KeepOrder
from rag.adapters.memory.objects import MemoryObjects
from rag.adapters.memory.vectors import MemoryVectors
from rag.ids import Ids, fingerprint, object_uri
from rag.ingest.artifacts import CONTAINER, Artifacts
from rag.ingest.chunking import ChunkSettings
from rag.ingest.parsing import SandboxedParser
from rag.ingest.pipeline import Pipeline
from rag.ingest.source_reader import Reader
from rag.models import Batch, Cause, IndexSpec, Work
from rag.ports import Embedder, Generator, Parser, Reranker, SparseEncoder, Tokenizer
from rag.sources import Source, Sources

BASE = "s3://evals"
TENANT, SOURCE, PRINCIPAL = "evals", "evals", "group:staff"
_SECRET = b"keys the ids of an index that lives for one evaluation"


@dataclass(frozen=True, slots=True)
class Held:
    """An object of the corpus."""

    name: str
    content: bytes = field(repr=False)
    media_type: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)

    @property
    def uri(self) -> str:
        return object_uri(BASE, self.name)


@dataclass(frozen=True)
class Offline:
    """``evals.quality.Backend`` in memory."""

    spec: IndexSpec
    embedder: Embedder
    sparse: SparseEncoder
    vectors: MemoryVectors
    ledger: MemoryLedger
    reranker: Reranker
    generator: Generator
    pipeline: Pipeline


def offline(
    embedder: Embedder,
    tokenizer: Tokenizer,
    sparse: SparseEncoder,
    generator: Generator,
    *,
    parser: Parser | None = None,
) -> Offline:
    """An empty index."""
    spec = IndexSpec(fingerprint({"embedder": embedder.fingerprint, "sparse": sparse.fingerprint}), embedder.dimensions)
    objects, ledger, vectors = MemoryObjects(BASE, CONTAINER), MemoryLedger(), MemoryVectors()
    ids, sources = Ids(_SECRET), Sources({SOURCE: Source(SOURCE, TENANT, BASE, (PRINCIPAL,))})
    pipeline = Pipeline(
        spec=spec,
        ids=ids,
        reader=Reader(ids, sources, objects),
        artifacts=Artifacts(objects),
        ledger=ledger,
        catalog=ledger,
        cache=ledger,
        vectors=vectors,
        parser=parser or SandboxedParser(),
        tokenizer=tokenizer,
        embedder=embedder,
        sparse=sparse,
        chunking=ChunkSettings(),
    )
    return Offline(spec, embedder, sparse, vectors, ledger, KeepOrder(), generator, pipeline)


async def index(held: Sequence[Held], backend: Offline) -> int:
    """Parse, chunk, embed and index documents as a Dagster run would; returns the number of chunks."""
    pipeline = backend.pipeline
    await backend.vectors.create(backend.spec)
    works = []
    for number, each in enumerate(held):
        await pipeline.reader.objects.put(each.uri, each.content, media_type=each.media_type, labels=each.labels)
        document_id = pipeline.ids.document_id(TENANT, SOURCE, each.uri)
        works.append(Work(document_id, TENANT, SOURCE, each.uri, 0, Cause("evals", "", 0, number)))
    gate = admit(backend.ledger)
    parsed = await pipeline.parse(Batch(backend.spec.index_id, 0, tuple(works)), admit=gate)
    report = await pipeline.index(await pipeline.embed(await pipeline.chunk(parsed)), admit=gate)
    return report.chunks
