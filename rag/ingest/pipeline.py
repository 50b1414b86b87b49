"""The four steps over a batch of references: parse → chunk → embed → index. Both lanes and every backfill call these.

A batch holds references (`Work`), never content; what a step makes goes to the artifacts, so any step can be run alone.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from rag.errors import Conflict, Rejected, TidemarkError
from rag.ids import Ids, object_key
from rag.ingest import indexing
from rag.ingest.artifacts import Artifacts
from rag.ingest.chunking import ChunkSettings, chunk
from rag.ingest.embedding import embed
from rag.ingest.source_reader import Reader
from rag.ingest.tasks import (
    CHUNKS,
    PARSED,
    VECTORS,
    Planned,
    Report,
    afresh,
    backfill,
    dead,
    reported,
    suppressed,
    windows,
)
from rag.models import (
    Batch,
    Chunk,
    DocumentStatus,
    IndexSpec,
    OffsetRange,
    ParsedDocument,
    Recorded,
    SourceObject,
    Work,
)
from rag.ports import Catalog, Delta, Embedder, EmbeddingCache, Ledger, Parser, SparseEncoder, Tokenizer, VectorIndex
from rag.telemetry import CHUNKS_EMBEDDED, CHUNKS_REUSED, STEP_SECONDS, TOKENS_EMBEDDED, logger, span

_log = logger(__name__)

WINDOW = 64  # documents that are looked up, embedded and applied together
AT_ONCE = 4  # documents whose content is in memory at once
ATTEMPTS = 5  # derivations of a document that keeps changing under us, before the batch is given back
BUGS = 10  # documents of one batch that may fail by a bug of ours before the batch is given back

Admit = Callable[[str, Sequence[str]], Awaitable[set[str]]]
"""(tenant, document and subject ids) → those that are refused. ``governance.admission.admit`` is the one."""

Tell = Callable[[Report], Awaitable[None]]
"""Hears what was applied."""


class LaneStopped(TidemarkError):
    """Too many documents of one batch failed by a bug: sending all of them to the dead letters would hide an outage."""


@dataclass(frozen=True)
class Pipeline:
    """Everything a document needs on its way into the index ``spec``."""

    spec: IndexSpec
    ids: Ids
    reader: Reader
    artifacts: Artifacts
    ledger: Ledger
    catalog: Catalog
    cache: EmbeddingCache
    vectors: VectorIndex
    parser: Parser
    tokenizer: Tokenizer
    embedder: Embedder
    sparse: SparseEncoder
    chunking: ChunkSettings = field(default_factory=ChunkSettings)

    async def partition(self, partition: int, *, run_id: str = "") -> Batch:
        """Every document that the ledger has for the partition, with the artifacts it lists: what a backfill works on."""
        recorded = await self.catalog.live(self.spec.index_id, partition)
        return Batch(self.spec.index_id, partition, tuple(backfill(each, run_id) for each in recorded))

    async def parse(self, batch: Batch, *, admit: Admit, force: bool = False) -> Batch:
        """Look at the current state of each source object, ask for admission, and parse what is new.

        Documents whose recorded version is the current one drop out, unless ``force``, or unless an event of this very range was
        the last to change them: their news may be untold. Absent ones become DELETED, unreadable ones DEAD, refused ones
        SUPPRESSED. Raises Unavailable when a source cannot be asked, for the whole batch.
        """
        with span("documents.parse", documents=len(batch.works)), STEP_SECONDS.labels("parse").time():
            parsed: list[Work] = []
            bugs = _Bugs()
            for window in windows(batch.works, WINDOW):
                parsed += await self._parse_window(window, batch.range, admit, force, bugs)
        return replace(batch, works=tuple(parsed))

    async def chunk(self, batch: Batch, *, force: bool = False) -> Batch:
        """Cut what was parsed. Chunks of a content hash that were cut before stay as they are, unless ``force``."""
        bugs = _Bugs()

        async def one(work: Work) -> Work:
            key = self._key(work, CHUNKS)
            if work.status is not DocumentStatus.LIVE or (not force and await self.artifacts.exists(key)):
                return replace(work, chunked=key) if work.status is DocumentStatus.LIVE else work
            try:
                parsed = await self.artifacts.parsed(work.parsed)
                made = await asyncio.to_thread(self._cut, parsed, work)
            except Conflict:
                return replace(work, parsed="", chunked="", embedded="")  # overtaken: `index` derives it again
            except Rejected as error:
                return dead(work, error.reason)
            except TidemarkError:
                raise
            except Exception as error:
                return bugs.count(work, error)
            await self.artifacts.put_chunks(key, made)
            return replace(work, chunked=key)

        with span("documents.chunk", documents=len(batch.works)), STEP_SECONDS.labels("chunk").time():
            works = [w for window in windows(batch.works, WINDOW) for w in await asyncio.gather(*map(one, window))]
        return replace(batch, works=tuple(works))

    async def embed(self, batch: Batch, *, force: bool = False) -> Batch:
        """Vectors for every chunk; what the cache or an artifact has is not computed again, even with ``force``."""
        with span("documents.embed", documents=len(batch.works)), STEP_SECONDS.labels("embed").time():
            works: list[Work] = []
            for window in windows(batch.works, 2 * WINDOW):
                works += await self._embed_window(window, force)
        return replace(batch, works=tuple(works))

    async def index(self, batch: Batch, *, admit: Admit, tell: Tell | None = None, force: bool = False) -> Report:
        """Plan and apply; documents that changed meanwhile are derived again from the source. ``tell`` hears what was applied, window
        by window, so that a failure of a later one keeps no news back. Raises Conflict when documents never hold still.
        """
        total = Report()
        with STEP_SECONDS.labels("index").time():
            for window in windows(batch.works, WINDOW):
                works: Sequence[Work] = window
                for _ in range(ATTEMPTS):
                    report, lost = await self._apply(batch.partition, works, force)
                    if tell:
                        await tell(report)
                    total += report
                    if not lost:
                        break
                    works = (await self._derive_again(batch, lost, admit, force)).works
                else:
                    raise Conflict(
                        f"{len(works)} documents changed {ATTEMPTS} times while they were indexed: run the batch again"
                    )
        return total

    # -- parse

    async def _parse_window(
        self, window: Sequence[Work], due: OffsetRange | None, admit: Admit, force: bool, bugs: _Bugs
    ) -> list[Work]:
        # The revision is read before the source: whoever applies in between makes this derivation lose.
        recorded = await self.ledger.recorded(self.spec.index_id, [work.document_id for work in window])
        works = [replace(work, base_revision=recorded[work.document_id].revision) for work in window]
        with span("documents.admit", documents=len(works)):
            refused = await _refused(works, admit)
        few = asyncio.Semaphore(AT_ONCE)

        async def one(work: Work) -> Work | None:
            if work.document_id in refused:
                return suppressed(work)
            # Applied by an event of this very range, before a crash that may have kept the news back: again, without embedding.
            is_untold = due is not None and due.covers(recorded[work.document_id].cause)
            async with few:
                with span("documents.read"):
                    reading = await self.reader.read(work, recorded[work.document_id], force=force or is_untold)
                if reading is None:
                    return None
                if reading.found is None:
                    return reading.work
                if reading.work.subjects and await admit(work.tenant, reading.work.subjects):
                    return suppressed(reading.work)
                return await self._parse_one(reading.work, reading.found, force, bugs)

        return [work for work in await asyncio.gather(*map(one, works)) if work is not None]

    async def _parse_one(self, work: Work, found: SourceObject, force: bool, bugs: _Bugs) -> Work:
        key = self._key(work, PARSED)
        if not force and await self.artifacts.exists(key):
            parsed = await self.artifacts.parsed(key)
            return replace(work, parsed=key, media_type=parsed.media_type)
        name = object_key(work.uri)[1].rsplit("/", 1)[-1]
        try:
            parsed = await self.parser.parse(found.content, name=name, media_type=found.state.media_type)
        except Rejected as error:
            return dead(work, error.reason)
        except TidemarkError:
            raise
        except Exception as error:
            return bugs.count(work, error)
        await self.artifacts.put_parsed(key, parsed)
        return replace(work, parsed=key, media_type=parsed.media_type)

    # -- chunk and embed

    def _cut(self, parsed: ParsedDocument, work: Work) -> tuple[Chunk, ...]:
        return chunk(
            parsed,
            document_id=work.document_id,
            tenant=work.tenant,
            ids=self.ids,
            tokenizer=self.tokenizer,
            settings=self.chunking,
        )

    async def _embed_window(self, window: Sequence[Work], force: bool) -> list[Work]:
        async def load(work: Work) -> tuple[Chunk, ...] | None:
            if work.status is not DocumentStatus.LIVE or not work.chunked:
                return None
            if not force and await self.artifacts.exists(self._key(work, VECTORS)):
                return None
            try:
                return await self.artifacts.chunks(work.chunked)
            except Conflict:
                overtaken.add(work.document_id)
                return None

        overtaken: set[str] = set()
        loaded = zip(window, await asyncio.gather(*map(load, window)), strict=True)
        chunks = {work.document_id: cut for work, cut in loaded if cut is not None}
        due = [work for work in window if work.document_id in chunks]
        fresh: dict[str, int] = {}
        for tenant in sorted({work.tenant for work in due}):
            mine = [work for work in due if work.tenant == tenant]
            together = [each for work in mine for each in chunks[work.document_id]]
            made = await embed(
                together, embedder=self.embedder, sparse=self.sparse, cache=self.cache, ids=self.ids, tenant=tenant
            )
            CHUNKS_EMBEDDED.inc(len(made.fresh))
            CHUNKS_REUSED.inc(made.reused)
            TOKENS_EMBEDDED.inc(made.tokens)
            for work in mine:
                own = {each.chunk_id: made.embeddings[each.chunk_id] for each in chunks[work.document_id]}
                await self.artifacts.put_embeddings(self._key(work, VECTORS), own)
                keys = {self.ids.embedding_key(tenant, each.input) for each in chunks[work.document_id]}
                fresh[work.document_id] = len(keys & made.fresh.keys())
        return [
            replace(work, embedded=self._key(work, VECTORS), fresh=fresh.get(work.document_id, 0))
            if work.status is DocumentStatus.LIVE and work.chunked and work.document_id not in overtaken
            else work
            for work in window
        ]

    # -- index

    async def _apply(self, partition: int, works: Sequence[Work], force: bool) -> tuple[Report, list[Work]]:
        """What was applied, and the works that were overtaken."""
        with span("documents.plan", documents=len(works)):
            recorded = await self.ledger.recorded(self.spec.index_id, [work.document_id for work in works])
            plans = await asyncio.gather(
                *(self._plan(work, recorded[work.document_id], partition, force) for work in works)
            )
        planned = [plan for plan in plans if plan is not None]
        remembered = {
            (self.embedder.fingerprint, plan.work.tenant, self.ids.embedding_key(plan.work.tenant, each.input)): (
                plan.work.document_id, plan.embeddings[each.chunk_id].dense,
            )
            for plan in planned
            if plan.delta.upserts
            for each in plan.chunks
        }  # fmt: skip
        done = await indexing.apply(
            self.spec.index_id,
            [plan.delta for plan in planned],
            {chunk_id: one for plan in planned for chunk_id, one in plan.embeddings.items()},
            ledger=self.ledger,
            vectors=self.vectors,
            fresh=remembered,
        )
        applied = {delta.record.document_id: delta for delta in done.applied}
        await self._forget_artifacts(applied, works, recorded)
        by_id = {work.document_id: work for work in works}
        return reported(done.applied, by_id), [work for work in works if work.document_id not in applied]

    async def _plan(self, work: Work, recorded: Recorded, partition: int, force: bool) -> Planned | None:
        """None when somebody else was quicker: the revision has moved, or an artifact is gone with it."""
        if work.base_revision != recorded.revision or (work.status is DocumentStatus.LIVE and not work.embedded):
            return None
        if work.status is not DocumentStatus.LIVE:
            return Planned(work, indexing.plan(indexing.desired(work, partition), recorded))
        try:
            parsed, chunks = await asyncio.gather(
                self.artifacts.parsed(work.parsed), self.artifacts.chunks(work.chunked)
            )
            delta = indexing.plan(indexing.desired(work, partition, parsed, chunks), recorded, force=force)
            embeddings = await self.artifacts.embeddings(work.embedded) if delta.upserts else {}
        except Conflict:
            return None
        return Planned(work, delta, chunks, embeddings)

    async def _forget_artifacts(
        self, applied: Mapping[str, Delta], works: Iterable[Work], recorded: Mapping[str, Recorded]
    ) -> None:
        """Delete what older versions, and derivations that were refused, have left."""
        made = {work.document_id: (work.parsed, work.chunked, work.embedded) for work in works}
        old = [
            key
            for document_id, delta in applied.items()
            for key in {*recorded[document_id].artifacts, *made[document_id]}
            if key and key not in delta.record.artifacts
        ]
        if old:
            await self.artifacts.delete(old)

    async def _derive_again(self, batch: Batch, lost: Sequence[Work], admit: Admit, force: bool) -> Batch:
        again = replace(batch, works=tuple(afresh(work) for work in lost))
        parsed = await self.parse(again, admit=admit, force=force)
        return await self.embed(await self.chunk(parsed))

    def _key(self, work: Work, step: str) -> str:
        return self.artifacts.key(self.spec.index_id, work.document_id, work.content_hash, step)


@dataclass
class _Bugs:
    """Counts what should not happen: a few documents may die of it, many stop the lane."""

    seen: int = 0

    def count(self, work: Work, error: Exception) -> Work:
        self.seen += 1
        # The type alone: a message may quote the document.
        _log.error("documents.bug", document_id=work.document_id, error=type(error).__name__)
        if self.seen > BUGS:
            raise LaneStopped(
                f"more than {BUGS} documents of a batch failed by a bug: see documents.bug in the log"
            ) from error
        return dead(work, "bug")


async def _refused(works: Sequence[Work], admit: Admit) -> set[str]:
    """The documents that admission refuses by their id."""
    refused: set[str] = set()
    for tenant in sorted({work.tenant for work in works}):
        refused |= await admit(tenant, [work.document_id for work in works if work.tenant == tenant])
    return refused
