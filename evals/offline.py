"""An index in memory, built by the lane and the pipeline. It measures quality without a stack and with any embedder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

from governance.admission import find_suppressed
from rag.adapters.memory.cache import NoAnswerCache
from rag.adapters.memory.events import MemoryEventLog
from rag.adapters.memory.ledger import MemoryLedger
from rag.adapters.memory.models import KeepOrder
from rag.adapters.memory.objects import MemoryObjects
from rag.adapters.memory.vectors import MemoryVectors
from rag.answer.answering import Answering
from rag.ids import Ids, fingerprint, object_uri
from rag.ingest.artifacts import CONTAINER, Artifacts
from rag.ingest.change_events import ObjectChange, publish_changes
from rag.ingest.chunking import ChunkSettings
from rag.ingest.lane import Lane
from rag.ingest.parsing import SandboxedParser
from rag.ingest.pipeline import Pipeline
from rag.ingest.roots import Roots
from rag.ingest.source_reader import Reader
from rag.models import IndexSpec, OffsetRange
from rag.ports import Embedder, Generator, Parser, SparseEncoder, Tokenizer
from rag.sources import Source, Sources
from schemas.topics import CHANGED

BASE = "s3://evals"
TENANT, SOURCE, PRINCIPAL = "evals", "evals", "group:staff"
_SECRET = b"keys the ids of an index that lives for one evaluation"  # not confidential


@dataclass(frozen=True, slots=True)
class CorpusObject:
    """An object of the corpus. ``name`` is its key below ``BASE``."""

    name: str
    content: bytes = field(repr=False)
    media_type: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)

    @property
    def uri(self) -> str:
        return object_uri(BASE, self.name)


@dataclass(frozen=True)
class Offline:
    """The in-memory implementation of ``evals.quality.Backend``."""

    lane: Lane
    pipeline: Pipeline
    answering: Answering


def empty_index(
    embedder: Embedder,
    tokenizer: Tokenizer,
    sparse: SparseEncoder,
    generator: Generator,
    *,
    parser: Parser | None = None,
) -> Offline:
    """Create an empty index."""
    spec = IndexSpec(fingerprint({"embedder": embedder.fingerprint, "sparse": sparse.fingerprint}), embedder.dimensions)
    objects, ledger, vectors = MemoryObjects(BASE, CONTAINER), MemoryLedger(), MemoryVectors()
    ids, sources = Ids(_SECRET), Sources({SOURCE: Source(SOURCE, TENANT, BASE, (PRINCIPAL,))})
    pipeline = Pipeline(
        spec=spec,
        ids=ids,
        reader=Reader(ids, sources, objects, Roots(objects, ledger)),
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
    answering = Answering(
        index_id=spec.index_id,
        ids=ids,
        embedder=embedder,
        sparse=sparse,
        vectors=vectors,
        ledger=ledger,
        reranker=KeepOrder(),
        generator=generator,
        cache=NoAnswerCache(),
    )
    return Offline(Lane(pipeline, MemoryEventLog(), ledger, find_suppressed(ledger)), pipeline, answering)


async def index(objects: Sequence[CorpusObject], backend: Offline) -> int:
    """Store the objects, announce them and run the lane over their events. Return the number of chunks."""
    lane, pipeline = backend.lane, backend.pipeline
    await pipeline.prepare()
    for each in objects:
        await pipeline.reader.objects.put(each.uri, each.content, media_type=each.media_type, labels=each.labels)
    before = await lane.log.describe(CHANGED)
    now = datetime.now(UTC)
    changes = [ObjectChange(each.uri, now, "listing") for each in objects]
    await publish_changes(changes, pipeline.reader.sources.named(SOURCE), pipeline.ids, lane.log)
    state = await lane.log.describe(CHANGED)
    ranges = [
        OffsetRange(CHANGED, state.epoch, number, before.bounds[number][1], end)
        for number, (_, end) in state.bounds.items()
    ]
    return sum([(await lane.run(due)).chunks for due in ranges])
