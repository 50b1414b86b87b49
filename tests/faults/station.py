"""A world of two tenants whose workers meet faults, with the model of the right answer beside it."""

from __future__ import annotations

import asyncio
import uuid
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from copy import deepcopy
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import cache
from types import SimpleNamespace
from typing import Any

import pytest

from consumers.erasures import eraser, turn
from governance.access import filter_for
from governance.signing import Signer
from rag.adapters.memory.events import MemoryEventLog, partition_of
from rag.adapters.memory.models import HashEmbedder
from rag.adapters.memory.objects import MemoryObjects
from rag.errors import Conflict, OutdatedSettings, Rejected, Unavailable
from rag.ids import erasure_id
from rag.ingest import indexing
from rag.ingest.artifacts import shard_of
from rag.ingest.change_events import ObjectChange, publish_changes
from rag.ingest.chunking import ChunkSettings, chunk
from rag.ingest.parking import ParkingPolicy
from rag.ingest.parsing import parse
from rag.ingest.repair import ABANDONED_SECONDS, repair_documents, repair_points
from rag.labels import SUBJECTS_LABEL, TITLE_LABEL, decode_label, split_label
from rag.models import AccessFilter, AccessRule, Effect, Erased, Erasure, ParsedDocument, Provenance
from rag.ports import Delta, OutboxEvent, SwapResult
from rag.sources import Source, Sources
from schemas.topics import CHANGED, DEAD, INDEXED, TOPICS
from tests.fakes.crashes import Crash
from tests.fakes.world import IDS, SOURCE, SPEC, World
from tests.faults.comparison import assert_equal
from tests.faults.model import Announced, Document, Model, Place, State, View, place
from tests.faults.points import CURRENT, Fault, FaultPoints, Process

TOPIC_TABLE = {**TOPICS, CHANGED: replace(TOPICS[CHANGED], partitions=2)}
RIVAL = Source("rival", "rival", "s3://rival", ("group:staff",))
PERSON = "ann@example.com"
CALLERS = (("acme", "staff"), ("acme", "finance"), ("acme", "guests"), ("rival", "staff"))
GARBAGE = "no document"
SIGNER = Signer.load("")
QUESTION = "ropes storm gangway soup captain"
REPORTED_AS = {"suppressed": ("deleted",), "parked": ("live", "deleted")}  # status → states of its event
ENDS = (Unavailable, Conflict)  # a worker that meets a fault ends like this, and its range is run again


@cache
def parsed(content: bytes, name: str, media_type: str | None) -> ParsedDocument | Rejected:
    """Parse with the real parsers, once for each content: a parser is a pure function."""
    try:
        return parse(content, name, media_type)
    except Rejected as error:
        return error


class Parsing:
    async def parse(
        self, content: bytes, *, name: str, media_type: str | None = None, compartment: str = ""
    ) -> ParsedDocument:
        result = parsed(content, name, media_type)
        if isinstance(result, Rejected):
            raise result
        return result


class InlineLoop(asyncio.SelectorEventLoop):
    """Event loop that runs a thread's work at once, so that every schedule has one order of events."""

    def run_in_executor(self, executor: Any, func: Callable[..., Any], *args: Any) -> asyncio.Future[Any]:  # type: ignore[override]
        future = self.create_future()
        try:
            future.set_result(func(*args))
        except Exception as error:
            future.set_exception(error)
        return future


@dataclass
class TwoTenants(World):
    rival: Source = RIVAL

    @property
    def sources(self) -> Sources:
        return Sources({"s3": self.source, "rival": self.rival})


def a_world(objects: MemoryObjects | None = None) -> TwoTenants:
    world = TwoTenants(
        objects=objects or MemoryObjects("s3://docs", "s3://rival"),
        log=MemoryEventLog(TOPIC_TABLE),
        embedder=HashEmbedder(SPEC.dimensions),
    )
    world.parking = ParkingPolicy(first_wait=0.0, longest_wait=0.0)
    world.parsing = Parsing()  # type: ignore[assignment]
    return world


def a_document(source: Source, key: str) -> Document:
    uri = f"{source.base_uri}/{key}"
    document_id = IDS.document_id(source.tenant, source.name, uri)
    scopes = IDS.scopes(source.tenant, source.name, uri, document_id)
    return Document(source.name, source.tenant, uri, document_id, partition_of(document_id.encode(), 2), scopes)


DOCUMENTS = (
    a_document(SOURCE, "a.md"),
    a_document(SOURCE, "b.md"),
    a_document(SOURCE, "finance/c.md"),
    a_document(RIVAL, "a.md"),
)


@cache
def expected_chunks(document: Document, content: bytes) -> tuple[str, Mapping[str, Place]]:
    """Return the parsed title and chunk id → place of the document's chunks. An unreadable content has none."""
    result = parsed(content, document.uri.rsplit("/", 1)[-1], None)
    if len(content) > 10_000 or isinstance(result, Rejected):
        return "", {}
    cut = chunk(
        result, document_id=document.document_id, tenant=document.tenant, ids=IDS, tokenizer=HashEmbedder(64),
        settings=ChunkSettings(),
    )  # fmt: skip
    return result.title, {each.chunk_id: place(each) for each in cut}


@dataclass
class Backup:
    """A copy of the stores, each of which can be restored alone."""

    ledger: dict[str, Any]
    points: dict[str, Any]
    artifacts: dict[str, Any]
    answers: dict[str, Any]
    applied: dict[tuple[str, int], tuple[int, str]]
    floors: dict[tuple[str, int], int]


class Station:
    """The world, its workers, and the model. Every method returns when no worker can go on without another one."""

    def __init__(self) -> None:
        self.loop = InlineLoop()
        self.patches = pytest.MonkeyPatch()
        ids = iter(range(1, 1_000_000))
        self.patches.setattr(indexing, "point_id", lambda: str(uuid.UUID(int=next(ids))))
        self.model = Model()
        self.world = a_world()
        self.pending: list[tuple[Document, bool]] = []  # notifications that are not announced yet
        self.stopped: list[Process] = []
        self.backup: Backup | None = None
        self.erasures: list[Erasure] = []  # as they were accepted
        self.later = datetime.now(UTC)  # the time of the worker of erasures
        self.is_degraded = False  # a store was lost or restored, and nothing has repaired the index yet
        self.wasted: list[str] = []
        self._watch_swaps()
        self._watch_log()
        self._watch_reads()
        self.faults = FaultPoints(self.world)
        self._wait(self.world.pipeline.prepare())
        self._declare()

    def close(self) -> None:
        for process in self.stopped:
            self._kill(process)
        self.loop.close()
        self.patches.undo()

    # -- the sources

    def put(self, document: Document, content: bytes, labels: Mapping[str, str]) -> None:
        self._wait(self.world.objects.put(document.uri, content, labels=labels))
        self._changed(document)

    def relabel(self, document: Document, labels: Mapping[str, str]) -> None:
        if found := self.world.objects._objects.get(document.uri):
            self.put(document, found.content, labels)

    def delete(self, document: Document) -> None:
        self._wait(self.world.objects.delete([document.uri]))
        self._changed(document, is_deletion=True)

    def move(self, document: Document, to: Document) -> None:
        found = self.world.objects._objects.get(document.uri)
        if found and document != to:
            self.put(to, found.content, found.state.labels)
            self.delete(document)

    def rule(self, source: Source) -> None:
        """Change the source's rules, as a deployment does: it declares them, and announces the documents of the source. A worker that
        was stopped keeps the old rules."""
        self.world.source = source
        self._declare()
        for document in DOCUMENTS:
            if document.source == source.name and self.model.states[document.document_id]:
                self._changed(document)

    def _declare(self) -> None:
        sources = self.world.sources
        self._wait(self.world.ledger.declare_settings(sources.digests(sources.by_name)))

    def refuse(self, document: Document) -> None:
        """Let the store refuse to read the object, as an archived one."""
        self.world.objects.unreadable[document.uri] = "archived"
        self.model.refuse(document.document_id, self._positions())

    def stop_refusing(self) -> None:
        self.world.objects.unreadable.clear()
        self.model.refused.clear()

    def suppress(self, document: Document, ids: Sequence[str]) -> None:
        self._wait(self.world.ledger.suppress(document.tenant, ids, reason="erasure"))
        self.model.suppressed |= {(document.tenant, each) for each in ids}
        for each in DOCUMENTS:
            if each.tenant == document.tenant and self.model.states[each.document_id]:
                self.pending.append((each, False))

    def erase(self, document: Document) -> None:
        """Accept the erasure of a document, as an officer's request does."""
        now = datetime.now(UTC)
        erased = Erased(document.document_id, document.source, document.uri)
        erasure = Erasure(erasure_id(), document.tenant, "document", "asked", "officer", (erased,), now, now, now)
        self.erasures.append(erasure)
        self._accept(erasure)

    def _accept(self, erasure: Erasure) -> None:
        tombstones = [OutboxEvent(CHANGED, each, None) for each in erasure.document_ids]
        self._wait(self.world.ledger.accept(erasure, tombstones))
        self.model.suppressed |= {(erasure.tenant, each) for each in erasure.document_ids}

    def decide(self, document: Document, level: int, principal: str, effect: Effect | None) -> None:
        """Grant or revoke the scope of this level of the document (0 its source, -1 itself), or withdraw such a rule."""
        scope = document.scopes[level]
        if effect is None:
            self.model.rules.pop((scope, principal), None)
            self._wait(self.world.ledger.withdraw(document.tenant, IDS.rule_id(document.tenant, scope, principal)))
        else:
            self.model.rules[scope, principal] = effect
            self._record_rule(document, scope, principal, effect)

    def _record_rule(self, document: Document, scope: str, principal: str, effect: Effect) -> None:
        rule_id = IDS.rule_id(document.tenant, scope, principal)
        rule = AccessRule(rule_id, document.tenant, scope, principal, effect, document.source)
        self._wait(self.world.ledger.decide(rule))

    def _decide_again(self) -> None:
        """Withdraw the rules of the ledger, and decide those of the model."""
        for tenant in {document.tenant for document in DOCUMENTS}:
            for rule in self._wait(self.world.ledger.access_rules(tenant)):
                self._wait(self.world.ledger.withdraw(tenant, rule.rule_id))
        for (scope, principal), effect in self.model.rules.items():
            document = next(each for each in DOCUMENTS if scope in each.scopes)
            self._record_rule(document, scope, principal, effect)

    def _changed(self, document: Document, *, is_deletion: bool = False) -> None:
        state = self._state(document)
        self.model.states[document.document_id].append(state)
        self.pending.append((document, is_deletion))

    def _state(self, document: Document) -> State:
        found = self.world.objects._objects.get(document.uri)
        now = self.model.tick()
        if found is None:
            return State(now)
        labels = found.state.labels
        source = self.world.sources.named(document.source)
        try:
            principals = source.access(document.uri, labels).principals
            label = decode_label(labels.get(TITLE_LABEL, ""))
            people = split_label(labels.get(SUBJECTS_LABEL, ""))
        except Rejected:
            return State(now, found.state.version)
        title, chunks = expected_chunks(document, found.content)
        subjects = tuple(sorted(IDS.subject_id(document.tenant, each) for each in people))
        return State(now, found.state.version, label or title, principals, subjects, chunks)

    # -- the log

    def announce(self, document: Document) -> None:
        """Announce the pending notifications of one document, before those of the others."""
        own = [each for each in self.pending if each[0] == document]
        self.pending = [each for each in self.pending if each[0] != document]
        for each in own:
            self._announce(*each)

    def announce_all(self) -> None:
        while self.pending:
            self._announce(*self.pending.pop(0))

    def announce_again(self, document: Document) -> None:
        if self.model.states[document.document_id]:
            self._announce(document, False)

    def _announce(self, document: Document, is_deletion: bool) -> None:
        source = self.world.sources.named(document.source)
        change = ObjectChange(document.uri, datetime.now(UTC), "notification", is_deletion=is_deletion)
        self._wait(publish_changes([change], source, IDS, self.world.log))

    def tombstone(self, document: Document) -> None:
        self.world.log.append(CHANGED, document.document_id.encode(), None)

    def spoil(self, _: Document) -> None:
        """Append a record that no codec can read. Its key is new, so that a compaction keeps it."""
        self.world.log.append(CHANGED, f"{GARBAGE} {self.model.tick()}".encode(), b"\x00garbage")

    def compact(self, _: Document) -> None:
        self.world.log.compact(CHANGED)

    def recreate_topic(self, _: Document) -> None:
        """Lose the topic with its waiting events. The reconcile that follows announces every document again."""
        self.world.log.recreate(CHANGED)
        self.pending += [(each, False) for each in DOCUMENTS if self.model.states[each.document_id]]

    # -- the workers

    def run_lane(self, partition: int, fault: Fault | None) -> None:
        """Run the lane on the partition, or on the other one if nothing waits."""
        due = sorted(self._wait(self.world.due()), key=lambda each: each.partition != partition)
        if due:
            self._start(f"lane {due[0].partition}", self.world.lane.run(due[0]), fault)

    def backfill(self, partition: int, fault: Fault | None) -> None:
        async def work() -> None:
            await self.world.lane.derive(await self.world.pipeline.live_batch(partition))

        self._start(f"backfill {partition}", work(), fault)

    def work_on_erasures(self, fault: Fault | None) -> None:
        """Take the next step of every erasure, whose waits are over."""
        self.later += timedelta(days=30)
        later = self.later
        self._start("erasures", turn(eraser(self._office(), SIGNER), self._office(), clock=lambda: later), fault)

    def _office(self) -> Any:
        """The fields of ``rag.wiring.Services`` that the worker of erasures uses."""
        world = self.world
        return SimpleNamespace(
            settings=SimpleNamespace(erasure_settle_seconds=0, read_only_sources=()), ids=IDS, spec=SPEC, sources=world.sources,
            objects=world.objects, events=world.log,
            ledger=world.ledger, vectors=world.vectors, cache=world.cache, pipeline=world.pipeline,
        )  # fmt: skip

    def retry_parked(self, fault: Fault | None) -> None:
        self._start("retry", self.world.lane.retry_parked(), fault)

    def publish(self, fault: Fault | None) -> None:
        self._start("publish", self.world.lane.publish(), fault)

    def sweep(self, fault: Fault | None) -> None:
        self._start("sweep", self._sweep(), fault)

    def _sweep(self) -> Awaitable[int]:
        return indexing.sweep(SPEC.index_id, ledger=self.world.ledger, vectors=self.world.vectors, older_than=0)

    def compare_stores(self, fault: Fault | None, *, abandoned_seconds: float = ABANDONED_SECONDS) -> None:
        """Compare ledger, vector index and artifacts as maintenance does, and repair the differences."""

        async def work() -> None:
            for shard in sorted({shard_of(document.document_id) for document in DOCUMENTS}):
                await repair_documents(self.world.lane, shard, abandoned_seconds=abandoned_seconds)
            await repair_points(self.world.lane)

        self._start("comparison", work(), fault)

    def resume(self, number: int) -> None:
        if self.stopped:
            process = self.stopped.pop(number % len(self.stopped))
            process.resume()
            self._drive(process)

    def execute_late(self, number: int) -> None:
        if self.faults.late:
            _, request = self.faults.late.pop(number % len(self.faults.late))
            with suppress(OutdatedSettings):
                self._wait(request())

    def _start(self, name: str, work: Awaitable[Any], fault: Fault | None) -> None:
        process = Process(name, fault)

        async def live() -> None:
            CURRENT.set(process)
            await work

        process.task = self.loop.create_task(live())
        self._drive(process)

    def _drive(self, process: Process) -> None:
        """Let the process run until it ends or stops."""
        task = process.task
        assert task

        async def until_it_stops() -> None:
            stop = asyncio.ensure_future(process.stopped.wait())
            await asyncio.wait({task, stop}, return_when=asyncio.FIRST_COMPLETED)
            stop.cancel()

        self._wait(until_it_stops())
        if not task.done():
            self.stopped.append(process)
            return
        error = task.exception()
        if error and not (process.has_met_fault and isinstance(error, (Crash, *ENDS))):
            raise error

    def _kill(self, process: Process) -> None:
        process.kill()
        assert process.task
        self._wait(asyncio.wait({process.task}))
        process.task.exception()

    def _end_workers(self) -> None:
        while self.stopped:
            self._kill(self.stopped.pop())

    # -- the stores

    def back_up(self) -> None:
        world = self.world
        self.backup = Backup(
            {name: deepcopy(value) for name, value in vars(world.ledger).items() if _is_data(value)},
            dict(world.vectors._points[SPEC.index_id]),
            dict(world.artifacts._objects),
            dict(world.cache._entries),
            dict(self.model.applied),
            dict(self.model.floors),
        )

    def restore(self, store: str) -> None:
        """Restore one store alone. Nothing else goes back in time."""
        if not self.backup:
            return
        self.is_degraded = True
        if store == "vectors":
            self.world.vectors._points[SPEC.index_id] = dict(self.backup.points)
        elif store == "artifacts":
            self.world.artifacts._objects = dict(self.backup.artifacts)
        elif store == "cache":
            self.world.cache._entries = dict(self.backup.answers)
        else:
            self._restore_ledger(self.backup)

    def _restore_ledger(self, backup: Backup) -> None:
        """Restore the database, after the workers ended and with them their sessions. Suppressions, rules and erasures are requested again,
        and the consumers, which start again, declare their settings."""
        self._end_workers()
        self.faults.late = [each for each in self.faults.late if not each[0].startswith("ledger.")]
        vars(self.world.ledger).update(deepcopy(backup.ledger))
        self.model.applied, self.model.floors = dict(backup.applied), dict(backup.floors)
        for tenant, each in self.model.suppressed:
            self._wait(self.world.ledger.suppress(tenant, [each], reason="erasure"))
        self._decide_again()
        for erasure in self.erasures:
            self._accept(erasure)
        self._declare()

    def lose(self, store: str) -> None:
        self.is_degraded = True
        if store == "vectors":
            self.world.vectors._points[SPEC.index_id] = {}
        elif store == "artifacts":
            self.world.artifacts._objects = {}
        else:
            self.world.cache._entries.clear()

    # -- the readers

    def search(self, caller: tuple[str, str], fault: Fault | None = None) -> None:
        self._start(f"search {caller}", self._search(caller), fault)

    def ask(self, caller: tuple[str, str], fault: Fault | None = None) -> None:
        self._start(f"ask {caller}", self._ask(caller), fault)

    async def _search(self, caller: tuple[str, str]) -> None:
        access = filter_for(tenant=caller[0], subject="someone", groups=[caller[1]])
        hits = (await self.world.answering.search(QUESTION, access, top_k=50)).hits
        process = CURRENT.get()
        assert process
        view = process.view or self._view()
        found: dict[str, list[str]] = {document.document_id: [] for document in DOCUMENTS}
        for hit in hits:
            view.check_hit(hit, _document(hit.provenance.document_id), access)
            found[hit.provenance.document_id].append(hit.chunk.chunk_id)
        for document in DOCUMENTS:
            chunk_ids = found[document.document_id]
            assert len(set(chunk_ids)) == len(chunk_ids), f"a chunk of {document.key} is doubled"
            if self.is_degraded or process.has_met_fault:
                continue
            due = view.due_chunks(document, access)
            missing = sorted(due[each] for each in due.keys() - set(chunk_ids))
            assert not missing, f"{document.key} is settled, and {caller} did not find {missing}"

    async def _ask(self, caller: tuple[str, str]) -> None:
        access = filter_for(tenant=caller[0], subject="someone", groups=[caller[1]])
        answered = await self.world.answering.answer(QUESTION, access, top_k=20)
        process = CURRENT.get()
        assert process
        view = process.view or self._view()
        for citation in answered.answer.citations:
            view.check_citation(citation, _document(citation.document_id), access)

    def _view(self) -> View:
        return self.model.view(self._positions())

    def _positions(self) -> dict[tuple[str, int], int]:
        return {
            (epoch, partition): offset
            for (_, topic, epoch, partition), offset in self.world.ledger._positions.items()
            if topic == CHANGED
        }

    # -- the end

    def repair(self) -> None:
        """Let everything that waits happen, repair the index, and compare it with a clean build."""
        self.stop_refusing()
        self.announce_all()
        while self.stopped:
            self.resume(0)
        while self.faults.late:
            self.execute_late(0)
        while due := self._wait(self.world.due()):
            self._start("lane", self.world.lane.run(due[0]), None)
        self.retry_parked(None)
        self.publish(None)
        self.sweep(None)
        self.compare_stores(None, abandoned_seconds=0)
        while self._wait(self._open_erasures()):
            self.work_on_erasures(None)
        self.is_degraded = False
        self._wait(self._assert_equals_clean_build())
        self._wait(self._assert_published())
        self._wait(self._assert_erased())
        for caller in CALLERS:
            self.search(caller)

    async def _assert_equals_clean_build(self) -> None:
        world = self.world
        clean = a_world(world.objects)
        clean.source = world.source
        for tenant, each in self.model.suppressed:
            await clean.ledger.suppress(tenant, [each], reason="erasure")
        for document in DOCUMENTS:
            if self.model.states[document.document_id]:
                source = world.sources.named(document.source)
                await publish_changes(
                    [ObjectChange(document.uri, datetime.now(UTC), "listing")], source, IDS, clean.log
                )
        await clean.run_lane()
        for erasure in self.erasures:
            await clean.ledger.forget(erasure.tenant, erasure.document_ids)
        await assert_equal(world, clean)

    async def _open_erasures(self) -> list[Erasure]:
        """Return the erasures that have another step. Raises AssertionError for one that does not come to its end."""
        due = await self.world.ledger.due_erasures(datetime.max.replace(tzinfo=UTC), limit=1000)
        assert all(erasure.attempts < 5 for erasure in due), f"an erasure does not end: {due[0].history}"
        return due

    async def _assert_erased(self) -> None:
        """No store holds anything of an erased document, but for objects that were put at the source again."""
        worker = eraser(self._office(), SIGNER)
        for erasure in self.erasures:
            recorded = await self.world.ledger.erasure(erasure.tenant, erasure.erasure_id)
            assert recorded, "an erasure is lost"
            assert recorded.certificate, f"no certificate: {recorded.history}"
            for store in worker.stores:
                left = await store.remains(recorded.tenant, recorded.documents)
                assert not left, f"{store.name} still holds something of {left}"

    async def _assert_published(self) -> None:
        """Every applied revision has its event, with the state that the revision has."""
        events = {(e.document_id, e.revision, e.state.value) for e in await self.world.published(INDEXED)}
        for (document_id, revision), (_, status) in self.model.applied.items():
            assert any((document_id, revision, state) in events for state in REPORTED_AS.get(status, (status,))), (
                f"revision {revision} ({status}) was never published"
            )
        letters = {(each.partition, each.offset) for each in await self.world.published(DEAD)}
        for event in self.model.announced:
            is_read = self._positions().get((event.epoch, event.partition), 0) > event.offset
            if event.document_id.startswith(GARBAGE) and is_read:
                assert (event.partition, event.offset) in letters, f"record {event.offset} has no dead letter"
        assert not self.world.ledger._outbox, "the outbox still has events"

    # -- within

    def _watch_swaps(self) -> None:
        """Record when each revision was applied, and count the points that were written without need."""
        ledger = self.world.ledger
        swap = ledger.swap

        async def watched(index_id: str, deltas: Sequence[Delta], **options: Any) -> SwapResult:
            before = await ledger.recorded(index_id, [delta.record.document_id for delta in deltas])
            result = await swap(index_id, deltas, **options)
            for delta in result.accepted:
                record = delta.record
                self.model.apply(before[record.document_id], record)
                old = Counter(each.payload_hash for each in before[record.document_id].chunks.values())
                needed = Counter(each.payload_hash for each in record.chunks.values()) - old
                is_backfill = record.cause is not None and record.cause.is_backfill
                if not is_backfill and len(delta.writes) > needed.total():
                    self.wasted.append(
                        f"{len(delta.writes)} points of {record.uri} for {needed.total()} changed chunks"
                    )
            assert not self.wasted, f"more was written than changed: {self.wasted}"
            return result

        ledger.swap = watched  # type: ignore[method-assign]

    def _watch_log(self) -> None:
        """Record when each change event was appended."""
        log = self.world.log
        append = log.append

        def watched(topic: str, key: bytes, value: bytes | None, **options: Any) -> tuple[int, int]:
            partition, offset = append(topic, key, value, **options)
            if topic == CHANGED:
                epoch = f"memory:{log._topics[topic][0]}:{len(log._topics[topic][1])}"
                document_id = key.decode()
                is_binding = document_id not in self.model.refused
                event = Announced(epoch, partition, offset, document_id, self.model.tick(), is_binding)
                self.model.announced.append(event)
            return partition, offset

        log.append = watched  # type: ignore[method-assign]

    def _watch_reads(self) -> None:
        """Keep the right answer as of each ledger read with the process that reads."""
        ledger = self.world.ledger
        visible = ledger.visible

        async def watched(index_id: str, point_ids: Sequence[str], access: AccessFilter) -> dict[str, Provenance]:
            result = await visible(index_id, point_ids, access)
            if process := CURRENT.get():
                process.view = self._view()
            return result

        ledger.visible = watched  # type: ignore[method-assign]

    def _wait(self, work: Awaitable[Any]) -> Any:
        return self.loop.run_until_complete(work)


def _document(document_id: str) -> Document:
    return next(each for each in DOCUMENTS if each.document_id == document_id)


def _is_data(value: Any) -> bool:
    return isinstance(value, (dict, list, set))
