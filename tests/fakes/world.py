"""Everything between a source and the index, in memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

from governance.access import filter_for
from governance.admission import find_suppressed
from rag.adapters.llms.extractive import ExtractiveGenerator
from rag.adapters.memory.cache import MemoryAnswerCache
from rag.adapters.memory.events import MemoryEventLog
from rag.adapters.memory.ledger import MemoryLedger
from rag.adapters.memory.models import HashEmbedder, KeepOrder, WordBm25
from rag.adapters.memory.objects import MemoryObjects
from rag.adapters.memory.vectors import MemoryVectors
from rag.answer.answering import Answering
from rag.ids import Ids
from rag.ingest.artifacts import CONTAINER, Artifacts
from rag.ingest.change_events import ObjectChange, publish_changes
from rag.ingest.lane import Lane
from rag.ingest.parking import ParkingPolicy
from rag.ingest.parsing import parse
from rag.ingest.pipeline import Pipeline
from rag.ingest.positions import locate
from rag.ingest.roots import Roots
from rag.ingest.source_reader import Reader
from rag.ingest.tasks import Report
from rag.models import Hit, IndexSpec, OffsetRange, ParsedDocument
from rag.ports import Reranker
from rag.sources import Source, Sources
from schemas.topics import CHANGED

IDS = Ids(b"0123456789abcdef")
SOURCE = Source("s3", "acme", "s3://docs", ("group:staff",), {"finance/": ("group:finance",)})
SPEC = IndexSpec("f" * 16, 64)
TEXT = "# Mooring\n\nThree ropes hold a zeppelin.\n\n## Storms\n\nTwo cables are added in a storm.\n"


class Parsing:
    """The real parsers, without the sandbox; ``breaks`` are names that a bug of ours falls over."""

    def __init__(self) -> None:
        self.breaks: set[str] = set()
        self.parsed = 0

    async def parse(
        self, content: bytes, *, name: str, media_type: str | None = None, compartment: str = ""
    ) -> ParsedDocument:
        self.parsed += 1
        if name in self.breaks:
            raise ZeroDivisionError
        return parse(content, name, media_type)


@dataclass
class World:
    objects: Any = field(default_factory=lambda: MemoryObjects("s3://docs"))
    artifacts: MemoryObjects = field(default_factory=lambda: MemoryObjects(CONTAINER))
    ledger: MemoryLedger = field(default_factory=MemoryLedger)
    vectors: MemoryVectors = field(default_factory=MemoryVectors)
    log: MemoryEventLog = field(default_factory=MemoryEventLog)
    embedder: HashEmbedder = field(default_factory=lambda: HashEmbedder(64))
    parsing: Parsing = field(default_factory=Parsing)
    cache: MemoryAnswerCache = field(default_factory=MemoryAnswerCache)
    reranker: Reranker = field(default_factory=KeepOrder)
    source: Source = SOURCE
    parking: ParkingPolicy = field(default_factory=ParkingPolicy)

    @property
    def pipeline(self) -> Pipeline:
        reader = Reader(IDS, self.sources, self.objects, Roots(self.objects, self.ledger), max_bytes=10_000)
        return Pipeline(
            SPEC, IDS, reader, Artifacts(self.artifacts), self.ledger, self.ledger, self.ledger, self.vectors, self.parsing,
            self.embedder, self.embedder, WordBm25(), parking=self.parking,
        )  # fmt: skip

    @property
    def sources(self) -> Sources:
        return Sources({self.source.name: self.source})

    @property
    def services(self) -> Any:
        """The fields of ``rag.wiring.Services`` that the consumers use."""
        return SimpleNamespace(
            spec=SPEC, ids=IDS, sources=self.sources, objects=self.objects, ledger=self.ledger, events=self.log
        )

    @property
    def lane(self) -> Lane:
        return Lane(self.pipeline, self.log, self.ledger, find_suppressed(self.ledger))

    async def put(self, key: str, content: str | bytes = TEXT, **labels: str) -> None:
        body = content.encode() if isinstance(content, str) else content
        await self.objects.put(f"s3://docs/{key}", body, labels=labels)
        await self.announce(key)

    async def announce(self, key: str, *, deleted: bool = False) -> None:
        change = ObjectChange(f"s3://docs/{key}", datetime.now(UTC), "notification", is_deletion=deleted)
        await publish_changes([change], SOURCE, IDS, self.log)

    async def run_lane(self) -> Report:
        """Run the lane over everything that waits, partition by partition."""
        await self.pipeline.prepare()
        await self.lane.publish()  # events that a crash left
        total = Report()
        for due in await self.due():
            total += await self.lane.run(due)
        return total

    async def due(self) -> list[OffsetRange]:
        """Return the range that waits in each partition, where one waits."""
        state, starts = await locate(SPEC.index_id, CHANGED, self.log, self.ledger)
        return [OffsetRange(CHANGED, state.epoch, partition, starts[partition], end)
                for partition, (_, end) in state.bounds.items() if starts[partition] < end]  # fmt: skip

    async def backfill(self) -> Report:
        total = Report()
        for partition in range(8):
            total += await self.lane.derive(await self.pipeline.live_batch(partition))
        return total

    @property
    def answering(self) -> Answering:
        return Answering(SPEC.index_id, IDS, self.embedder, WordBm25(), self.vectors, self.ledger, self.reranker,
                         ExtractiveGenerator(self.embedder), self.cache)  # fmt: skip

    async def found(self, question: str, *groups: str) -> str:
        return "\n".join(hit.chunk.text for hit in await self.hits(question, *groups))

    async def hits(self, question: str, *groups: str) -> Sequence[Hit]:
        access = filter_for(tenant="acme", subject="alice", groups=groups or ("staff",))
        return (await self.answering.search(question, access, top_k=10)).hits

    async def published(self, topic: str) -> list[Any]:
        bounds: Mapping[int, tuple[int, int]] = (await self.log.describe(topic)).bounds
        records = [r for p, (low, end) in bounds.items() for r in await self.log.read(topic, p, low, end)]
        return [record.value for record in records if record.value is not None]

    async def row(self, key: str) -> Any:
        document_id = IDS.document_id("acme", "s3", f"s3://docs/{key}")
        return (await self.ledger.recorded(SPEC.index_id, [document_id]))[document_id]
