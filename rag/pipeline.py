"""The four steps over a batch of references: parse → chunk → embed → index. Both lanes and every backfill call these.

A batch holds references (`Work`), never content; what a step makes goes to the artifacts, so any step can be run alone.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeVar

from rag import indexing
from rag.artifacts import Artifacts
from rag.chunking import ChunkSettings, chunk
from rag.embedding import embed
from rag.errors import Conflict, Rejected, TidemarkError
from rag.ids import Ids, object_key
from rag.models import Batch, Cause, Chunk, DocumentStatus, IndexSpec, ParsedDocument, Recorded, SourceObject, Work
from rag.ports import (
    Catalog,
    Delta,
    Embedder,
    EmbeddingCache,
    Ledger,
    ObjectStore,
    Parser,
    SparseEncoder,
    Tokenizer,
    VectorIndex,
)
from rag.sources import SUBJECTS_LABEL, TITLE_LABEL, Sources, split_label
from rag.telemetry import (
    CHUNKS_EMBEDDED,
    CHUNKS_REUSED,
    DOCUMENTS_DEAD,
    DOCUMENTS_INDEXED,
    STEP_SECONDS,
    TOKENS_EMBEDDED,
    logger,
    span,
)

_log = logger(__name__)

WINDOW = 64  # documents whose content is in memory at once
ATTEMPTS = 5  # derivations of a document that keeps changing under us, before the batch is given back
BUGS = 10  # documents of one batch that may fail by a bug of ours before the batch is given back

Admit = Callable[[str, Sequence[str]], Awaitable[set[str]]]
"""(tenant, document and subject ids) → those that are refused. ``governance.admission.admit`` is the one."""

Item = TypeVar("Item")


class LaneStopped(TidemarkError):
    """Too many documents of one batch failed by a bug: sending all of them to the dead letters would hide an outage."""


@dataclass(frozen=True, slots=True)
class Report:
    """What became of a batch. ``works`` are as they were applied, each with the number of chunks and its new revision."""

    works: tuple[tuple[Work, int, int], ...] = ()
    documents: int = 0
    chunks: int = 0
    written: int = 0
    embedded: int = 0
    tokens: int = 0
    dead: int = 0


@dataclass(frozen=True)
class Pipeline:
    """Everything a document needs on its way into the index ``spec``."""

    spec: IndexSpec
    ids: Ids
    sources: Sources
    objects: ObjectStore
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
    max_bytes: int = 100 * 2**20

    async def partition(self, partition: int, *, run_id: str = "") -> Batch:
        """Every document that the ledger has for the partition, with the artifacts it lists: what a backfill works on."""
        recorded = await self.catalog.live(self.spec.index_id, partition)
        return Batch(self.spec.index_id, partition, tuple(_backfill(each, run_id) for each in recorded))

    async def parse(self, batch: Batch, *, admit: Admit, force: bool = False) -> Batch:
        """Look at the current state of each source object, ask for admission, and parse what is new.

        Documents whose recorded version is the current one drop out, unless ``force``. Absent ones become DELETED, unreadable
        ones DEAD, refused ones SUPPRESSED. Raises Unavailable when a source cannot be asked, for the whole batch.
        """
        with span("documents.parse", documents=len(batch.works)), STEP_SECONDS.labels("parse").time():
            parsed: list[Work] = []
            bugs = _Bugs()
            for window in _windows(batch.works, WINDOW):
                parsed += await self._parse_window(window, admit, force, bugs)
        return replace(batch, works=tuple(parsed))

    async def chunk(self, batch: Batch, *, force: bool = False) -> Batch:
        """Cut what was parsed. Chunks of a content hash that were cut before stay as they are, unless ``force``."""
        bugs = _Bugs()

        async def one(work: Work) -> Work:
            key = self._key(work, "chunks.json")
            if work.status is not DocumentStatus.LIVE or (not force and await self.artifacts.exists(key)):
                return replace(work, chunked=key) if work.status is DocumentStatus.LIVE else work
            parsed = await self.artifacts.parsed(work.parsed)
            try:
                made = await asyncio.to_thread(self._cut, parsed, work)
            except Rejected as error:
                return dead(work, error.reason)
            except Exception as error:
                return bugs.count(work, error)
            await self.artifacts.put_chunks(key, made)
            return replace(work, chunked=key)

        with span("documents.chunk", documents=len(batch.works)), STEP_SECONDS.labels("chunk").time():
            works = [w for window in _windows(batch.works, WINDOW) for w in await asyncio.gather(*map(one, window))]
        return replace(batch, works=tuple(works))

    async def embed(self, batch: Batch, *, force: bool = False) -> Batch:
        """Vectors for every chunk; what the cache or an artifact has is not computed again, even with ``force``."""
        with span("documents.embed", documents=len(batch.works)), STEP_SECONDS.labels("embed").time():
            works: list[Work] = []
            for window in _windows(batch.works, 8 * WINDOW):
                works += await self._embed_window(window, force)
        return replace(batch, works=tuple(works))

    async def index(self, batch: Batch, *, admit: Admit, force: bool = False) -> Report:
        """Plan and apply; documents that changed meanwhile are derived again from the source. Raises Conflict after too many."""
        report = Report()
        with STEP_SECONDS.labels("index").time():
            for window in _windows(batch.works, WINDOW):
                works: Sequence[Work] = window
                for _ in range(ATTEMPTS):
                    report, lost = await self._apply(batch.partition, works, report, force)
                    if not lost:
                        break
                    works = (await self._derive_again(batch, lost, admit, force)).works
                else:
                    raise Conflict(
                        f"{len(works)} documents changed {ATTEMPTS} times while they were indexed: run the batch again"
                    )
        return report

    # -- parse

    async def _parse_window(self, window: Sequence[Work], admit: Admit, force: bool, bugs: _Bugs) -> list[Work]:
        # The revision is read before the source: whoever applies in between makes this derivation lose.
        recorded = await self.ledger.recorded(self.spec.index_id, [work.document_id for work in window])
        works = [replace(work, base_revision=recorded[work.document_id].revision) for work in window]
        with span("documents.admit", documents=len(works)):
            refused = await _refused(works, admit, lambda work: [work.document_id])
        with span("documents.read", documents=len(works)):
            read = await asyncio.gather(
                *(
                    self._read(work, recorded[work.document_id], force)
                    if work.document_id not in refused
                    else _nothing(suppressed(work))
                    for work in works
                )
            )
        seen = [pair for pair in read if pair is not None]
        refused = await _refused([work for work, _ in seen], admit, lambda work: list(work.subjects))
        return list(
            await asyncio.gather(
                *(
                    self._parse_one(work, found, force, bugs)
                    if work.document_id not in refused
                    else _only(suppressed(work))
                    for work, found in seen
                )
            )
        )

    async def _read(self, work: Work, recorded: Recorded, force: bool) -> tuple[Work, SourceObject | None] | None:
        """The work as the source's current state has it, with the content; None when there is nothing to do."""
        try:
            source = self.sources.owner(work.source, work.tenant, work.uri)
            if not force and recorded.revision:
                state = await self.objects.head(work.uri)
                if state is None and recorded.status is DocumentStatus.DELETED:
                    return None
                settled = recorded.status in {DocumentStatus.LIVE, DocumentStatus.DEAD}
                if state is not None and settled and state.version == recorded.version:
                    return None
            found = await self.objects.get(work.uri, limit=self.max_bytes)
        except Rejected as error:
            return dead(work, error.reason), None
        if found is None:
            return replace(work, status=DocumentStatus.DELETED, version="", stamp="", content_hash=""), None
        labels = found.state.labels
        subjects = {self.ids.subject_id(work.tenant, each) for each in split_label(labels.get(SUBJECTS_LABEL, ""))}
        return replace(
            work,
            status=DocumentStatus.LIVE,
            version=found.state.version,
            stamp=found.state.stamp,
            content_hash=self.ids.content_hash(work.tenant, found.content),
            media_type=found.state.media_type or "",
            title=labels.get(TITLE_LABEL, ""),
            principals=source.access(work.uri, labels).principals,
            subjects=tuple(sorted(subjects)),
        ), found

    async def _parse_one(self, work: Work, found: SourceObject | None, force: bool, bugs: _Bugs) -> Work:
        if work.status is not DocumentStatus.LIVE or found is None:
            return work
        key = self._key(work, "parsed.json")
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
        async def pending(work: Work) -> bool:
            return work.status is DocumentStatus.LIVE and (
                force or not await self.artifacts.exists(self._key(work, "vectors.npz"))
            )

        due = [work for work, is_due in zip(window, await asyncio.gather(*map(pending, window)), strict=True) if is_due]
        chunks = dict(
            zip(
                (w.document_id for w in due),
                await asyncio.gather(*(self.artifacts.chunks(w.chunked) for w in due)),
                strict=True,
            )
        )
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
                await self.artifacts.put_embeddings(self._key(work, "vectors.npz"), own)
                keys = {self.ids.embedding_key(tenant, each.input) for each in chunks[work.document_id]}
                fresh[work.document_id] = len(keys & made.fresh.keys())
        return [
            replace(work, embedded=self._key(work, "vectors.npz"), fresh=fresh.get(work.document_id, 0))
            if work.status is DocumentStatus.LIVE
            else work
            for work in window
        ]

    # -- index

    async def _apply(
        self, partition: int, works: Sequence[Work], report: Report, force: bool
    ) -> tuple[Report, list[Work]]:
        with span("documents.plan", documents=len(works)):
            recorded = await self.ledger.recorded(self.spec.index_id, [work.document_id for work in works])
            live = [work for work in works if work.status is DocumentStatus.LIVE]
            loaded = await asyncio.gather(*(self._load(work) for work in live))
            made = {work.document_id: parts for work, parts in zip(live, loaded, strict=True)}
            deltas = []
            for work in works:
                parsed, chunks = made.get(work.document_id, (None, ()))
                wanted = indexing.desired(work, partition, parsed, chunks)
                deltas.append(indexing.plan(wanted, recorded[work.document_id], force=force))
        writing = [w for w, d in zip(works, deltas, strict=True) if d.upserts]
        vectors = await asyncio.gather(*(self.artifacts.embeddings(work.embedded) for work in writing))
        embeddings = {chunk_id: one for found in vectors for chunk_id, one in found.items()}
        remembered = {
            (self.embedder.fingerprint, work.tenant, self.ids.embedding_key(work.tenant, each.input)): (
                work.document_id, embeddings[each.chunk_id].dense,
            )
            for work in writing
            for each in made[work.document_id][1]
        }  # fmt: skip
        done = await indexing.apply(
            self.spec.index_id, deltas, embeddings, ledger=self.ledger, vectors=self.vectors, fresh=remembered
        )
        await self._forget_old_artifacts(done.applied, recorded)
        by_id = {work.document_id: work for work in works}
        lost = [by_id[delta.record.document_id] for delta in done.lost]
        return _reported(report, done.applied, by_id), lost

    async def _load(self, work: Work) -> tuple[ParsedDocument, tuple[Chunk, ...]]:
        parsed, chunks = await asyncio.gather(self.artifacts.parsed(work.parsed), self.artifacts.chunks(work.chunked))
        return parsed, chunks

    async def _forget_old_artifacts(self, applied: Iterable[Delta], recorded: dict[str, Recorded]) -> None:
        old = [
            key
            for delta in applied
            for key in recorded[delta.record.document_id].artifacts
            if key not in delta.record.artifacts
        ]
        if old:
            await self.artifacts.delete(old)

    async def _derive_again(self, batch: Batch, lost: Sequence[Work], admit: Admit, force: bool) -> Batch:
        again = replace(batch, works=tuple(_fresh(work) for work in lost))
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


def dead(work: Work, reason: str) -> Work:
    return replace(work, status=DocumentStatus.DEAD, reason=reason, parsed="", chunked="", embedded="")


def suppressed(work: Work) -> Work:
    return replace(work, status=DocumentStatus.SUPPRESSED, reason="suppressed", parsed="", chunked="", embedded="")


def _fresh(work: Work) -> Work:
    return replace(work, status=DocumentStatus.LIVE, reason="", parsed="", chunked="", embedded="", fresh=0)


def _backfill(recorded: Recorded, run_id: str) -> Work:
    steps = {key.rsplit("/", 1)[-1]: key for key in recorded.artifacts}
    return Work(
        document_id=recorded.document_id,
        tenant=recorded.tenant,
        source=recorded.source,
        uri=recorded.uri,
        base_revision=recorded.revision,
        cause=Cause("", "", recorded.partition, -1, run_id),
        status=recorded.status,
        version=recorded.version,
        stamp=recorded.stamp,
        content_hash=recorded.content_hash,
        media_type=recorded.media_type,
        title=recorded.title,
        principals=recorded.principals,
        subjects=recorded.subjects,
        reason=recorded.reason,
        parsed=steps.get("parsed.json", ""),
        chunked=steps.get("chunks.json", ""),
        embedded=steps.get("vectors.npz", ""),
    )


async def _refused(works: Sequence[Work], admit: Admit, ids_of: Callable[[Work], list[str]]) -> set[str]:
    """Ids of the documents that admission refuses by any of ``ids_of`` them."""
    refused: set[str] = set()
    for tenant in sorted({work.tenant for work in works}):
        mine = {work.document_id: ids_of(work) for work in works if work.tenant == tenant}
        asked = sorted({each for ids in mine.values() for each in ids})
        bad = await admit(tenant, asked) if asked else set()
        refused |= {document_id for document_id, ids in mine.items() if not bad.isdisjoint(ids)}
    return refused


def _reported(report: Report, applied: Sequence[Delta], works: dict[str, Work]) -> Report:
    for delta in applied:
        DOCUMENTS_INDEXED.labels(delta.record.status.value).inc()
        if delta.record.status is DocumentStatus.DEAD:
            DOCUMENTS_DEAD.labels(delta.record.reason).inc()
    done = [
        (replace(works[d.record.document_id], status=d.record.status, reason=d.record.reason), len(d.record.chunks),
         d.record.revision + 1)
        for d in applied
    ]  # fmt: skip
    return Report(
        works=(*report.works, *done),
        documents=report.documents + len(applied),
        chunks=report.chunks + sum(len(delta.record.chunks) for delta in applied),
        written=report.written + sum(len(delta.upserts) for delta in applied),
        embedded=report.embedded + sum(work.fresh for work, _, _ in done),
        tokens=report.tokens + sum(delta.tokens for delta in applied),
        dead=report.dead + sum(delta.record.status is DocumentStatus.DEAD for delta in applied),
    )


async def _only(work: Work) -> Work:
    return work


async def _nothing(work: Work) -> tuple[Work, SourceObject | None]:
    return work, None


def _windows(items: Sequence[Item], size: int) -> Iterator[Sequence[Item]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]
