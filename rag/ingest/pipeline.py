"""The four steps over a batch of references: parse → chunk → embed → index. Both lanes and every backfill call these.

A batch holds references (``IndexingTask``), never content. Each step stores its result as an artifact, so any step can run alone.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime

from rag.errors import Conflict, LostIndex, ObjectUnavailable, Rejected, TidemarkError
from rag.ids import Ids, fingerprint, object_key
from rag.ingest import indexing
from rag.ingest.artifacts import Artifacts, beside, has_version, is_of_revision, version_of
from rag.ingest.change_events import dead_letter_events, outcome_events
from rag.ingest.chunking import ChunkSettings, chunk
from rag.ingest.deletions import REMEDY
from rag.ingest.embedding import embed
from rag.ingest.parking import ParkingPolicy, plan_parked
from rag.ingest.source_reader import Reader
from rag.ingest.tasks import (
    CHUNKS,
    PARSED,
    VECTORS,
    Planned,
    Report,
    backfill_task,
    count,
    dead,
    overtaken,
    parked,
    reset,
    summarize,
    suppressed,
    windows,
    windows_of_text,
)
from rag.models import (
    ERASED,
    Batch,
    Chunk,
    DocumentRecord,
    DocumentStatus,
    ErasedPeople,
    IndexingTask,
    IndexSpec,
    ParsedDocument,
    SourceObject,
)
from rag.ports import (
    Catalog,
    Delta,
    Embedder,
    EmbeddingCache,
    FreshVectors,
    Ledger,
    OutboxEvent,
    Parser,
    SparseEncoder,
    SwapResult,
    Tokenizer,
    VectorIndex,
)
from rag.telemetry import CHUNKS_EMBEDDED, CHUNKS_REUSED, DELETIONS_HELD, STEP_SECONDS, TOKENS_EMBEDDED, logger, span

_log = logger(__name__)

WINDOW = 64  # documents that are looked up, embedded and applied together
TEXT = 4_000_000  # characters of text of such documents, with chunks and vectors about 60 MB
LONG = 5_000  # characters; the search of a shorter text for erased people is done before a thread takes over
AT_ONCE = 4  # documents whose content is in memory at once
ATTEMPTS = 5  # derivations of a document that keeps changing, before the batch fails
REBUILD_REMEDY = "restore it, or run `python -m assets rebuild`"
MAX_BUGS = 10  # documents of one batch that may fail by a bug, before the batch fails
DEAD_SHARE = 0.5  # of a batch: a smaller share of dead documents is the documents' own fault

FindSuppressed = Callable[[str, Sequence[str]], Awaitable[set[str]]]
"""(tenant, document and subject ids) → the suppressed ones. ``governance.admission.find_suppressed`` makes it."""


class TooManyFailures(TidemarkError):
    """Too many documents of one batch failed. Sending all of them to the dead letters would hide an outage or a wrong setting."""


@dataclass(frozen=True)
class Pipeline:
    """Every part that a document meets on its way into the index ``spec``."""

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
    parking: ParkingPolicy = field(default_factory=ParkingPolicy)
    dead_limit: int = 500  # documents of one batch that may newly become dead although they are most of it

    async def prepare(self) -> None:
        """Create the collection and register the index. Idempotent. Raises LostIndex when the ledger has chunks of a lost collection."""
        await self.require_index()
        await self.vectors.create(self.spec)
        await self.ledger.open_index(self.spec)

    async def require_index(self) -> None:
        """Raise LostIndex when the ledger has chunks and the collection is gone or empty."""
        index_id = self.spec.index_id
        if not await self.ledger.has_points(index_id):
            return
        if not await self.vectors.exists(index_id) or not await self.vectors.count(index_id):
            raise LostIndex(
                f"collection {self.spec.collection} is gone or empty, but the ledger has its chunks: {REBUILD_REMEDY}"
            )

    async def live_batch(self, partition: int, *, run_id: str = "") -> Batch:
        """Return the batch of a backfill: every document that the ledger has for the partition, with its listed artifacts."""
        index_id, tasks = self.spec.index_id, list[IndexingTask]()
        while page := await self.catalog.live(index_id, partition, after=tasks[-1].document_id if tasks else ""):
            tasks += [backfill_task(record, run_id) for record in page]
        return Batch(index_id, partition, tuple(tasks))

    async def parse(self, batch: Batch, *, find_suppressed: FindSuppressed) -> Batch:
        """Ask for admission, read the current state of each source object, and parse the changed ones.

        A document whose recorded version is the current one drops out, except in a backfill. An absent document becomes DELETED,
        an unusable one DEAD, a refused one SUPPRESSED, and one that cannot be read now PARKED. Raises Unavailable for the whole batch
        when a source does not answer, and TooManyFailures when most of a large batch would newly become dead.
        """
        with span("documents.parse", documents=len(batch.tasks)), STEP_SECONDS.labels("parse").time():
            bugs = _Bugs()
            tasks: list[IndexingTask] = []
            for window in windows(batch.tasks, WINDOW):
                tasks += await self._parse_window(window, batch, find_suppressed, bugs)
            parsed = replace(batch, tasks=tuple(tasks))
            await self._require_few_dead(parsed, seen=len(batch.tasks))
        return parsed

    async def chunk(self, batch: Batch) -> Batch:
        """Cut the parsed documents. Existing chunks of a content hash are kept, except in a backfill."""
        with span("documents.chunk", documents=len(batch.tasks)), STEP_SECONDS.labels("chunk").time():
            bugs = _Bugs()
            tasks: list[IndexingTask] = []
            for window in windows_of_text(batch.tasks, WINDOW, TEXT):
                tasks += await asyncio.gather(*(self._chunk_one(task, batch, bugs) for task in window))
        return replace(batch, tasks=tuple(tasks))

    async def embed(self, batch: Batch) -> Batch:
        """Make the vectors of every chunk. A vector in the cache is never computed again, not even in a backfill."""
        with span("documents.embed", documents=len(batch.tasks)), STEP_SECONDS.labels("embed").time():
            tasks: list[IndexingTask] = []
            for window in windows_of_text(batch.tasks, 2 * WINDOW, TEXT):
                tasks += await self._embed_window(window, batch)
        return replace(batch, tasks=tuple(tasks))

    async def index(self, batch: Batch, *, find_suppressed: FindSuppressed) -> Report:
        """Plan and apply, window by window. A document that was overtaken is derived again from its source.

        The events that report a window are recorded in the transaction that applies it. The transaction of the last window moves
        the position, too. Raises Conflict when documents keep changing.
        """
        total = Report()
        remaining = list(windows_of_text(batch.tasks, WINDOW, TEXT)) or [()]
        with STEP_SECONDS.labels("index").time():
            for number, window in enumerate(remaining, 1):
                tasks: Sequence[IndexingTask] = window
                for _ in range(ATTEMPTS):
                    report, lost = await self._apply(batch, tasks, is_last=number == len(remaining))
                    count(report)
                    total += report
                    if not lost:
                        break
                    tasks = (await self._derive_again(batch, lost, find_suppressed)).tasks
                else:
                    raise Conflict(
                        f"{len(tasks)} documents changed {ATTEMPTS} times while they were indexed: run the batch again"
                    )
        return total

    # -- parse

    async def _parse_window(
        self, window: Sequence[IndexingTask], batch: Batch, find_suppressed: FindSuppressed, bugs: _Bugs
    ) -> list[IndexingTask]:
        # The revision is read before the source, so that a derivation loses against any apply that came in between.
        records = await self.ledger.recorded(self.spec.index_id, [task.document_id for task in window])
        tasks = [replace(reset(task), base_revision=records[task.document_id].revision) for task in window]
        with span("documents.admit", documents=len(tasks)):
            refused = await _refused(tasks, records, find_suppressed)
            ruled = await self._ruled(tasks)
            erased = await self._erased(tasks)
        slots = asyncio.Semaphore(AT_ONCE)

        async def one(task: IndexingTask) -> IndexingTask | None:
            record = records[task.document_id]
            if task.document_id in refused:  # of an erased one, the ledger must not learn the name again
                return None if record.reason == ERASED else suppressed(task)
            async with slots:
                with span("documents.read"):
                    # A recorded subject was suppressed since: its current labels decide whether the document is still about them.
                    reading = await self.reader.read(
                        task, record, reread=task.must_reread or not refused.isdisjoint(record.subjects)
                    )
                if reading is None:
                    return None
                if reading.source_object is None:
                    return reading.task
                if reading.task.subjects and await find_suppressed(task.tenant, reading.task.subjects):
                    return suppressed(reading.task)
                compartment = _compartment(reading.task, ruled.intersection(self._scopes(task)))
                people = erased[task.tenant]
                seen = replace(reading.task, erased_people=len(people.lengths))
                return await self._parse_one(seen, reading.source_object, batch, record, bugs, compartment, people)

        return [task for task in await asyncio.gather(*map(one, tasks)) if task is not None]

    def _scopes(self, task: IndexingTask) -> tuple[str, ...]:
        return self.ids.scopes(task.tenant, task.source, task.uri, task.document_id)

    async def _ruled(self, tasks: Sequence[IndexingTask]) -> set[str]:
        """Return the scopes of the tasks that access rules name."""
        ruled: set[str] = set()
        for tenant in sorted({task.tenant for task in tasks}):
            scopes = {scope for task in tasks if task.tenant == tenant for scope in self._scopes(task)}
            ruled |= await self.ledger.ruled(tenant, sorted(scopes))
        return ruled

    async def _erased(self, tasks: Sequence[IndexingTask]) -> dict[str, ErasedPeople]:
        """Return tenant → its erased people, with those that the tasks' documents may mention."""
        tenants = sorted({task.tenant for task in tasks})
        own = {tenant: [task.document_id for task in tasks if task.tenant == tenant] for tenant in tenants}
        return {tenant: await self.ledger.erased_people(tenant, own[tenant]) for tenant in tenants}

    async def _mentions(self, task: IndexingTask, parsed: ParsedDocument, erased: ErasedPeople) -> bool:
        """Return whether text, title or uri have the identifier of an erased person that the document may not mention."""
        if not erased.lengths:
            return False
        text = f"{task.title}\n{parsed.title}\n{task.uri}\n{parsed.text}"
        if len(text) > LONG:
            mentioned = await asyncio.to_thread(self.ids.people_in, task.tenant, text, erased.lengths)
        else:
            mentioned = self.ids.people_in(task.tenant, text, erased.lengths)
        return erased.refused(task.document_id, mentioned)

    async def _parse_one(
        self,
        task: IndexingTask,
        found: SourceObject,
        batch: Batch,
        record: DocumentRecord,
        bugs: _Bugs,
        compartment: str,
        erased: ErasedPeople,
    ) -> IndexingTask:
        version = version_of(task.content_hash, task.media_type)
        key = self.artifacts.key(self.spec.index_id, task.document_id, task.base_revision, version, PARSED)
        if not batch.is_backfill:
            for known in (*(each for each in record.artifacts if has_version(each, version, PARSED)), key):
                if before := await self._parsed_before(known):
                    return (
                        suppressed(task) if await self._mentions(task, before, erased) else _parsed(task, known, before)
                    )
        name = object_key(task.uri)[1].rsplit("/", 1)[-1]
        try:
            parsed = await self.parser.parse(
                found.content, name=name, media_type=found.state.media_type, compartment=compartment
            )
        except Rejected as error:
            return dead(task, error.reason)
        except TidemarkError:
            raise
        except Exception as error:
            return bugs.dead_task(task, error)
        if await self._mentions(task, parsed, erased):
            return suppressed(task)
        await self.artifacts.put_parsed(key, parsed)
        return _parsed(task, key, parsed)

    async def _parsed_before(self, key: str) -> ParsedDocument | None:
        try:
            return await self.artifacts.parsed(key) if await self.artifacts.exists(key) else None
        except Conflict:
            return None

    async def _require_few_dead(self, batch: Batch, *, seen: int) -> None:
        """Raise TooManyFailures when more than ``dead_limit`` documents and records of the batch, and most of the ``seen`` ones, are
        newly dead."""
        dying = {task.document_id: task.reason for task in batch.tasks if task.status is DocumentStatus.DEAD}
        letters = [letter.reason for letter in batch.dead_letters]
        if len(dying) + len(letters) <= self.dead_limit:
            return
        records = await self.ledger.recorded(self.spec.index_id, list(dying))
        reasons = [why for each, why in dying.items() if records[each].status is not DocumentStatus.DEAD] + letters
        if len(reasons) > max(self.dead_limit, DEAD_SHARE * (seen + len(letters))):
            common = ", ".join(f"{reason} {number}" for reason, number in Counter(reasons).most_common(3))
            raise TooManyFailures(
                f"{len(reasons)} documents of a batch of {seen + len(letters)} would become dead ({common}): remove the common"
                f" cause, or raise DEAD_LIMIT above {len(reasons)} if they are all broken"
            )

    # -- chunk and embed

    async def _chunk_one(self, task: IndexingTask, batch: Batch, bugs: _Bugs) -> IndexingTask:
        if task.status is not DocumentStatus.LIVE:
            return task
        if not task.parsed:
            return overtaken(task)
        key = beside(task.parsed, CHUNKS)
        if not batch.is_backfill and await self.artifacts.exists(key):
            return replace(task, chunked=key)
        try:
            parsed = await self.artifacts.parsed(task.parsed)
            chunks = await asyncio.to_thread(self._cut, parsed, task)
        except Conflict:
            return overtaken(task)
        except Rejected as error:
            return dead(task, error.reason)
        except TidemarkError:
            raise
        except Exception as error:
            return bugs.dead_task(task, error)
        await self.artifacts.put_chunks(key, chunks)
        return replace(task, chunked=key)

    def _cut(self, parsed: ParsedDocument, task: IndexingTask) -> tuple[Chunk, ...]:
        return chunk(
            parsed,
            document_id=task.document_id,
            tenant=task.tenant,
            ids=self.ids,
            tokenizer=self.tokenizer,
            settings=self.chunking,
        )

    async def _embed_window(self, window: Sequence[IndexingTask], batch: Batch) -> list[IndexingTask]:
        tasks = {task.document_id: task for task in window}
        chunks: dict[str, tuple[Chunk, ...]] = {}

        async def load(task: IndexingTask) -> None:
            if task.status is not DocumentStatus.LIVE or not task.chunked:
                return
            key = beside(task.chunked, VECTORS)
            tasks[task.document_id] = replace(task, embedded=key, fresh=0)
            if not batch.is_backfill and await self.artifacts.exists(key):
                return
            try:
                chunks[task.document_id] = await self.artifacts.chunks(task.chunked)
            except Conflict:
                tasks[task.document_id] = overtaken(task)

        await asyncio.gather(*map(load, window))
        for tenant in sorted({tasks[document_id].tenant for document_id in chunks}):
            own = {document_id: cut for document_id, cut in chunks.items() if tasks[document_id].tenant == tenant}
            tasks |= await self._embed_or_park(tenant, own, tasks)
        return list(tasks.values())

    async def _embed_or_park(
        self, tenant: str, chunks: Mapping[str, Sequence[Chunk]], tasks: Mapping[str, IndexingTask]
    ) -> dict[str, IndexingTask]:
        """Embed the documents. When the embedder refuses an input, halve the batch until the document of that input is found."""
        try:
            fresh = await self._embed_tenant(tenant, chunks, tasks)
        except ObjectUnavailable as error:
            if len(chunks) == 1:
                return {document_id: parked(tasks[document_id], error.reason) for document_id in chunks}
            ids = list(chunks)
            halves = ids[: len(ids) // 2], ids[len(ids) // 2 :]
            found = [await self._embed_or_park(tenant, {each: chunks[each] for each in half}, tasks) for half in halves]
            return found[0] | found[1]
        return {document_id: replace(tasks[document_id], fresh=number) for document_id, number in fresh.items()}

    async def _embed_tenant(
        self, tenant: str, chunks: Mapping[str, Sequence[Chunk]], tasks: Mapping[str, IndexingTask]
    ) -> dict[str, int]:
        """Embed the documents of one tenant together and store their artifacts. Return document id → chunks that cost an embedding."""
        together = [each for cut in chunks.values() for each in cut]
        embedded = await embed(
            together, embedder=self.embedder, sparse=self.sparse, cache=self.cache, ids=self.ids, tenant=tenant
        )
        CHUNKS_EMBEDDED.inc(len(embedded.fresh))
        CHUNKS_REUSED.inc(embedded.reused)
        TOKENS_EMBEDDED.inc(embedded.tokens)
        fresh = {}
        for document_id, cut in chunks.items():
            own = {each.chunk_id: embedded.embeddings[each.chunk_id] for each in cut}
            await self.artifacts.put_embeddings(tasks[document_id].embedded, own)
            keys = {self.ids.embedding_key(tenant, each.input) for each in cut}
            fresh[document_id] = len(keys & embedded.fresh.keys())
        return fresh

    # -- index

    async def _apply(
        self, batch: Batch, tasks: Sequence[IndexingTask], *, is_last: bool
    ) -> tuple[Report, list[IndexingTask]]:
        """Return the report of the applied tasks, and the tasks that were overtaken."""
        by_id = {task.document_id: task for task in tasks}
        with span("documents.plan", documents=len(tasks)):
            records = await self.ledger.recorded(self.spec.index_id, list(by_id))
            plans = await asyncio.gather(
                *(self._plan(task, records[task.document_id], batch.partition) for task in tasks)
            )
        planned = [plan for plan in plans if plan is not None]
        is_complete = is_last and len(planned) == len(tasks)

        def events(result: SwapResult) -> list[OutboxEvent]:
            letters = dead_letter_events(batch) if is_complete and not result.lost else []
            return outcome_events(summarize(result.accepted, by_id), batch) + letters

        outcome = await indexing.apply(
            self.spec.index_id,
            [plan.delta for plan in planned],
            {chunk_id: embedding for plan in planned for chunk_id, embedding in plan.embeddings.items()},
            ledger=self.ledger,
            vectors=self.vectors,
            fresh=self._vectors_to_cache(planned),
            events=events,
            done=batch.range if is_complete else None,
            settings=self.reader.sources.digests({task.source for task in tasks}),
        )
        applied = {delta.record.document_id: delta for delta in outcome.applied}
        await self._delete_old_artifacts(applied, tasks, records)
        held = {delta.record.document_id for delta in outcome.held}
        _report_held(outcome.held)
        report = replace(summarize(outcome.applied, by_id), held=len(held))
        return report, [task for task in tasks if task.document_id not in applied.keys() | held]

    def _vectors_to_cache(self, planned: Sequence[Planned]) -> FreshVectors:
        return {
            (self.embedder.fingerprint, plan.task.tenant, self.ids.embedding_key(plan.task.tenant, each.input)): (
                plan.task.document_id, plan.embeddings[each.chunk_id].dense,
            )
            for plan in planned
            if plan.delta.writes
            for each in plan.chunks
        }  # fmt: skip

    async def _plan(self, task: IndexingTask, record: DocumentRecord, partition: int) -> Planned | None:
        """Return None when the task was overtaken: the revision has moved, an artifact is gone with it, or an earlier step had other
        settings of the source."""
        if task.config_hash and task.config_hash != self._config_hash(task):
            return None
        task = replace(task, scopes=self._scopes(task))
        if task.base_revision != record.revision or (task.status is DocumentStatus.LIVE and not task.embedded):
            return None
        if task.status is DocumentStatus.PARKED and not task.embedded:
            return Planned(task, plan_parked(task, record, partition, self.parking, datetime.now(UTC)))
        if task.status not in {DocumentStatus.LIVE, DocumentStatus.PARKED}:
            return Planned(task, indexing.plan(indexing.desired(task, partition), record))
        try:
            parsed, chunks = await asyncio.gather(
                self.artifacts.parsed(task.parsed), self.artifacts.chunks(task.chunked)
            )
            delta = indexing.plan(indexing.desired(task, partition, parsed, chunks), record)
            embeddings = await self.artifacts.embeddings(task.embedded) if delta.writes else {}
        except Conflict:
            return None
        return Planned(task, delta, chunks, embeddings)

    def _config_hash(self, task: IndexingTask) -> str:
        source = self.reader.sources.by_name.get(task.source)
        return source.config_hash(task.uri) if source else ""

    async def _delete_old_artifacts(
        self, applied: Mapping[str, Delta], tasks: Iterable[IndexingTask], records: Mapping[str, DocumentRecord]
    ) -> None:
        """Delete the artifacts of older versions, and those of derivations that lost. No swap can list them any more."""
        lost = {task.document_id: task for task in tasks if task.document_id not in applied}
        current = await self.ledger.recorded(self.spec.index_id, list(lost)) if lost else {}
        old = [
            key
            for document_id, delta in applied.items()
            for key in records[document_id].artifacts
            if key not in delta.record.artifacts
        ]
        for document_id, task in lost.items():
            record = current[document_id]
            if record.revision > task.base_revision:
                old += [key for key in _own(task) if key not in record.artifacts]
        if old:
            await self.artifacts.delete(old)
        hidden = [delta.record for delta in applied.values() if delta.record.status is not DocumentStatus.LIVE]
        applied_records = (replace(record, revision=record.revision + 1) for record in hidden)
        await asyncio.gather(*(self.artifacts.delete_superseded(self.spec.index_id, each) for each in applied_records))

    async def _derive_again(self, batch: Batch, lost: Sequence[IndexingTask], find_suppressed: FindSuppressed) -> Batch:
        again = replace(batch, tasks=tuple(reset(task) for task in lost))
        return await self.embed(await self.chunk(await self.parse(again, find_suppressed=find_suppressed)))


@dataclass
class _Bugs:
    """A count of the documents that failed by a bug. A few are declared dead; too many fail the batch."""

    seen: int = 0

    def dead_task(self, task: IndexingTask, error: Exception) -> IndexingTask:
        """Return the dead task of a document that failed by a bug. Raises TooManyFailures for the document after ``MAX_BUGS``."""
        self.seen += 1
        # Log the type alone: a message may quote the document.
        _log.error("documents.bug", document_id=task.document_id, error=type(error).__name__)
        if self.seen > MAX_BUGS:
            raise TooManyFailures(
                f"more than {MAX_BUGS} documents of a batch failed by a bug: see documents.bug in the log"
            ) from error
        return dead(task, "bug")


def _parsed(task: IndexingTask, key: str, parsed: ParsedDocument) -> IndexingTask:
    return replace(task, parsed=key, media_type=parsed.media_type, characters=len(parsed.text))


def _report_held(held: Sequence[Delta]) -> None:
    """Log the deletions that wait for a confirmation, by source."""
    for source, number in Counter(delta.record.source for delta in held).items():
        DELETIONS_HELD.labels(source).inc(number)
        _log.error("deletions.held", source=source, documents=number, remedy=REMEDY)


def _own(task: IndexingTask) -> list[str]:
    """Return the artifacts that this derivation wrote. It may use others, which the record of its base revision lists."""
    keys = (task.parsed, task.chunked, task.embedded)
    return [key for key in keys if key and is_of_revision(key, task.base_revision)]


async def _refused(
    tasks: Sequence[IndexingTask], records: Mapping[str, DocumentRecord], find_suppressed: FindSuppressed
) -> set[str]:
    """Return the suppressed ones among the document ids and the recorded subject ids."""
    refused: set[str] = set()
    for tenant in sorted({task.tenant for task in tasks}):
        own = [task.document_id for task in tasks if task.tenant == tenant]
        subjects = sorted({subject for document_id in own for subject in records[document_id].subjects})
        refused |= await find_suppressed(tenant, [*own, *subjects])
    return refused


def _compartment(task: IndexingTask, ruled: set[str]) -> str:
    """Return a name that documents share only when the same people may read them and they come from the same source.

    ``ruled`` are the scopes of the document that access rules name.
    """
    parts = {"tenant": task.tenant, "source": task.source, "principals": task.principals, "rules": sorted(ruled)}
    return fingerprint(parts)
