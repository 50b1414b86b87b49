"""A gateway in memory: real routes, retrieval, ledger verdicts and tokens; no socket."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import httpx
import pytest
import structlog
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from gateway import metrics
from gateway.app import create_app
from gateway.identity import Verifier
from gateway.issuer import IssuerKeys
from rag.adapters.memory.cache import MemoryAnswerCache
from rag.adapters.memory.events import MemoryEventLog
from rag.adapters.memory.ledger import MemoryLedger
from rag.adapters.memory.models import HashEmbedder, KeepOrder, WordBm25
from rag.adapters.memory.objects import MemoryObjects
from rag.adapters.memory.vectors import MemoryVectors
from rag.answer.answering import Answering
from rag.ids import Ids
from rag.ingest import chunking, indexing
from rag.ingest.artifacts import Artifacts
from rag.ingest.parsing import SandboxedParser
from rag.ingest.pipeline import Pipeline
from rag.ingest.roots import Roots
from rag.ingest.source_reader import Reader
from rag.models import (
    Answer,
    Block,
    BlockKind,
    Cause,
    Citation,
    DocumentStatus,
    Embedding,
    Hit,
    IndexingTask,
    IndexSpec,
    ParsedDocument,
)
from rag.settings import Settings, SourceSettings
from tests.fakes.issuer import ISSUER, Issuer

CHANGED = "documents.changed.v1"
SECRET = "only-for-these-tests-1234567890"


class Quoting:
    """Answers with the text of the best hit. ``calls`` counts; ``meanwhile`` runs while it writes."""

    name = "quoting"

    def __init__(self) -> None:
        self.calls = 0
        self.meanwhile: Callable[[], Any] | None = None

    async def generate(self, question: str, hits: Sequence[Hit]) -> Answer:
        self.calls += 1
        if self.meanwhile:
            await self.meanwhile()
        if not hits:
            return Answer("The documents hold no answer.", (), self.name, {}, abstained=True)
        chunk, origin, cause = hits[0].chunk, hits[0].provenance, hits[0].provenance.cause
        citation = Citation(1, origin.document_id, chunk.chunk_id, origin.title, origin.uri, origin.source_version,
                            chunk.page, chunk.start, chunk.end, chunk.text, hits[0].score, cause.topic, cause.partition,
                            cause.offset, cause.run_id)  # fmt: skip
        return Answer(f"{chunk.text} [1]", (citation,), self.name, {"input_tokens": 7})


@dataclass
class World:
    """What a test can touch. ``services`` has the fields of ``rag.wiring.Services`` that the gateway uses."""

    settings: Settings
    issuer: Issuer = field(default_factory=Issuer)
    clock: float = 0.0

    def __post_init__(self) -> None:
        self.spec = IndexSpec("0123456789abcdef", 64)
        self.ids = Ids(SECRET.encode())
        self.sources = self.settings.source_registry()
        self.objects = MemoryObjects(f"s3://{self.settings.internal_bucket}", f"s3://{self.settings.s3_bucket}")
        self.events, self.ledger, self.vectors = MemoryEventLog(), MemoryLedger(), MemoryVectors()
        self.embedder, self.sparse, self.generator = HashEmbedder(), WordBm25(), Quoting()
        self.cache: Any = MemoryAnswerCache()
        client = httpx.AsyncClient(transport=httpx.MockTransport(self.issuer.answer))
        keys = IssuerKeys(ISSUER, client, allow_http=True, clock=lambda: self.clock)
        self.verifier = Verifier(keys, audience="tidemark")
        self.app = create_app(self, self.verifier)  # type: ignore[arg-type]
        listener = httpx.ASGITransport(metrics.create_app(self))  # type: ignore[arg-type]
        self.metrics = httpx.AsyncClient(transport=listener, base_url="http://metrics.test")
        self.client = httpx.AsyncClient(
            transport=httpx.ASGITransport(self.app, raise_app_exceptions=False), base_url="http://gateway.test"
        )

    @property
    def pipeline(self) -> Pipeline:
        reader = Reader(self.ids, self.sources, self.objects, Roots(self.objects, self.ledger))
        return Pipeline(self.spec, self.ids, reader, Artifacts(self.objects), self.ledger,
                        self.ledger, self.ledger, self.vectors, SandboxedParser(), self.embedder, self.embedder, self.sparse)  # fmt: skip

    @property
    def answering(self) -> Answering:
        return Answering(self.spec.index_id, self.ids, self.embedder, self.sparse, self.vectors, self.ledger, KeepOrder(),
                         self.generator, self.cache)  # fmt: skip

    def bearer(self, user: str, scope: str = "rag:query rag:ingest", **changes: Any) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.issuer.token(user, scope, **changes)}"}

    async def post(self, user: str, path: str, **body: Any) -> httpx.Response:
        return await self.client.post(path, json=body, headers=self.bearer(user))

    async def published(self) -> list[Any]:
        """Events of documents.changed.v1, in the order of their publication."""
        records = []
        for number, (low, end) in (await self.events.describe(CHANGED)).bounds.items():
            records += await self.events.read(CHANGED, number, low, end)
        assert not [record.error for record in records if record.error]
        return sorted((record.value for record in records if record.value), key=lambda event: event.announced_at)

    async def tombstones(self) -> list[str]:
        """Return the keys of the tombstones of documents.changed.v1."""
        bounds = (await self.events.describe(CHANGED)).bounds
        records = [
            r for number, (low, end) in bounds.items() for r in await self.events.read(CHANGED, number, low, end)
        ]
        return [record.key for record in records if record.value is None]

    async def index(
        self, text: str, *, name: str = "a.md", principals: Sequence[str] = ("group:staff",), tenant: str = "acme",
        source: str = "s3", status: DocumentStatus = DocumentStatus.LIVE, uri: str = "", content_hash: str = "hash",
        reason: str = "",
    ) -> str:  # fmt: skip
        """Index a one-paragraph document through plan and apply; returns its id."""
        uri = uri or f"s3://{self.settings.s3_bucket}/{name}"
        document_id = self.ids.document_id(tenant, source, uri)
        recorded = (await self.ledger.recorded(self.spec.index_id, [document_id]))[document_id]
        cause = Cause("documents.changed.v1", "e1", 3, 41, "run-1")
        work = IndexingTask(document_id, tenant, source, uri, recorded.revision, cause, status, "v1", "t1", content_hash, "text/markdown",
                    principals=tuple(principals), scopes=self.ids.scopes(tenant, source, uri, document_id), reason=reason)  # fmt: skip
        block = Block(BlockKind.PARAGRAPH, 0, len(text))
        parsed = ParsedDocument(text, (block,), name, "en", "text/markdown")
        live = status is DocumentStatus.LIVE
        chunks = chunking.chunk(
            parsed, document_id=document_id, tenant=tenant, ids=self.ids, tokenizer=self.embedder,
            settings=chunking.ChunkSettings(),
        ) if live else ()  # fmt: skip
        dense = await self.embedder.embed([chunk.input for chunk in chunks])
        sparse = self.sparse.encode([chunk.input for chunk in chunks])
        embeddings = {c.chunk_id: Embedding(d, s) for c, d, s in zip(chunks, dense, sparse, strict=True)}
        delta = indexing.plan(indexing.desired(work, 3, parsed, chunks), recorded)
        await indexing.apply(self.spec.index_id, [delta], embeddings, ledger=self.ledger, vectors=self.vectors)
        return document_id


@pytest.fixture(scope="session", autouse=True)
def _exporter() -> InMemorySpanExporter:
    exporter = InMemorySpanExporter()
    if not isinstance(trace.get_tracer_provider(), TracerProvider):  # a process has one provider for its life
        trace.set_tracer_provider(TracerProvider())
    provider = trace.get_tracer_provider()
    assert isinstance(provider, TracerProvider)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    return exporter


@pytest.fixture
def spans(_exporter: InMemorySpanExporter) -> InMemorySpanExporter:
    """The spans that ended in this test."""
    _exporter.clear()
    return _exporter


@pytest.fixture(autouse=True)
def logs() -> Iterator[list[Any]]:
    """What was logged."""
    with structlog.testing.capture_logs() as captured:
        yield captured


@pytest.fixture
def settings() -> Settings:
    places = [
        SourceSettings(name="s3", kind="s3", tenant="acme", base_uri="s3://tidemark-documents", principals=("group:staff",)),
        SourceSettings(name="uploads", kind="uploads", tenant="acme", base_uri="s3://tidemark-internal/uploads",
                       principals=("group:staff",)),
    ]  # fmt: skip
    return Settings(
        _env_file=None, tidemark_environment="development", identity_secret=SECRET, database_url="postgresql://none",
        signing_key="b25seS1mb3ItdGhlc2UtdGVzdHMtMTIzNDU2Nzg5MHg",
        oidc_issuer=ISSUER, sources=tuple(places), upload_bytes=4096, rate_limit=0,
    )  # fmt: skip


@pytest.fixture
async def world(settings: Settings) -> AsyncIterator[World]:
    made = World(settings)
    await made.vectors.create(made.spec)
    yield made
    await made.client.aclose()
