"""Everything between a source and the index, in memory."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from governance.access import filter_for
from governance.admission import admit
from rag.adapters.memory.events import MemoryEventLog
from rag.adapters.memory.ledger import MemoryLedger
from rag.adapters.memory.models import HashEmbedder, WordBm25
from rag.adapters.memory.objects import MemoryObjects
from rag.adapters.memory.vectors import MemoryVectors
from rag.answer.retrieval import retrieve
from rag.ids import Ids
from rag.ingest.announcements import Notice, publish
from rag.ingest.artifacts import CONTAINER, Artifacts
from rag.ingest.change_events import CHANGED, announce, collect, refuse
from rag.ingest.parsing import parse
from rag.ingest.pipeline import Pipeline
from rag.ingest.source_reader import Reader
from rag.ingest.tasks import Report
from rag.models import IndexSpec, OffsetRange, ParsedDocument
from rag.sources import Source, Sources

IDS = Ids(b"0123456789abcdef")
SOURCE = Source("s3", "acme", "s3://docs", ("group:staff",), {"finance/": ("group:finance",)})
SPEC = IndexSpec("f" * 16, 64)
TEXT = "# Mooring\n\nThree ropes hold a zeppelin.\n\n## Storms\n\nTwo cables are added in a storm.\n"


class Parsing:
    """The real parsers, without the sandbox; ``breaks`` are names that a bug of ours falls over."""

    def __init__(self) -> None:
        self.breaks: set[str] = set()
        self.parsed = 0

    async def parse(self, content: bytes, *, name: str, media_type: str | None = None) -> ParsedDocument:
        self.parsed += 1
        if name in self.breaks:
            raise ZeroDivisionError
        return parse(content, name, media_type)


@dataclass
class World:
    objects: MemoryObjects = field(default_factory=lambda: MemoryObjects("s3://docs"))
    artifacts: MemoryObjects = field(default_factory=lambda: MemoryObjects(CONTAINER))
    ledger: MemoryLedger = field(default_factory=MemoryLedger)
    vectors: MemoryVectors = field(default_factory=MemoryVectors)
    log: MemoryEventLog = field(default_factory=MemoryEventLog)
    embedder: HashEmbedder = field(default_factory=lambda: HashEmbedder(64))
    parsing: Parsing = field(default_factory=Parsing)
    source: Source = SOURCE

    @property
    def pipeline(self) -> Pipeline:
        reader = Reader(IDS, self.sources, self.objects, max_bytes=10_000)
        return Pipeline(
            SPEC, IDS, reader, Artifacts(self.artifacts), self.ledger, self.ledger, self.ledger, self.vectors, self.parsing,
            self.embedder, self.embedder, WordBm25(),
        )  # fmt: skip

    @property
    def sources(self) -> Sources:
        return Sources({"s3": self.source})

    async def put(self, key: str, content: str | bytes = TEXT, **labels: str) -> None:
        body = content.encode() if isinstance(content, str) else content
        await self.objects.put(f"s3://docs/{key}", body, labels=labels)
        await self.tell(key)

    async def tell(self, key: str, *, deleted: bool = False) -> None:
        notice = Notice(f"s3://docs/{key}", datetime.now(UTC), "notification", is_deletion=deleted)
        await publish([notice], SOURCE, IDS, self.log)

    async def work(self) -> Report:
        """Everything that waits, partition by partition, as a run does it."""
        await self.vectors.create(SPEC)
        state, total = await self.log.describe(CHANGED), Report()
        for partition, (low, end) in state.bounds.items():
            start = (await self.ledger.positions(SPEC.index_id, CHANGED, state.epoch)).get(partition, low)
            due = OffsetRange(CHANGED, state.epoch, partition, start, end)
            records = await self.log.read(CHANGED, partition, start, end)
            arrived = await collect(
                records, due, index_id=SPEC.index_id, ids=IDS, sources=self.sources, ledger=self.ledger
            )
            await refuse(arrived.unusable, self.log)
            total += await self.derive(arrived.batch)
            await self.ledger.advance(SPEC.index_id, due)
        return total

    async def derive(self, batch: Any, *, force: bool = False) -> Report:
        gate, pipeline = admit(self.ledger), self.pipeline
        parsed = await pipeline.parse(batch, admit=gate, force=force)
        made = await pipeline.embed(await pipeline.chunk(parsed, force=force), force=force)
        return await pipeline.index(
            made, admit=gate, tell=lambda report: announce(report, batch, self.log), force=force
        )

    async def backfill(self) -> Report:
        total = Report()
        for partition in range(8):
            total += await self.derive(await self.pipeline.partition(partition), force=True)
        return total

    async def found(self, question: str, *groups: str) -> str:
        access = filter_for(tenant="acme", subject="alice", groups=groups or ("staff",))
        hits = await retrieve(
            question, access, limit=10, embedder=self.embedder, sparse=WordBm25(), vectors=self.vectors,
            ledger=self.ledger, index_id=SPEC.index_id,
        )  # fmt: skip
        return "\n".join(hit.chunk.text for hit in hits)

    async def told(self, topic: str) -> list[Any]:
        bounds: Mapping[int, tuple[int, int]] = (await self.log.describe(topic)).bounds
        return [r.value for p, (low, end) in bounds.items() for r in await self.log.read(topic, p, low, end)]

    async def row(self, key: str) -> Any:
        document_id = IDS.document_id("acme", "s3", f"s3://docs/{key}")
        return (await self.ledger.recorded(SPEC.index_id, [document_id]))[document_id]
