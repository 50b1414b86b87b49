"""The right answer: the states that each source object has had, and the states that a search may show at a given time.

Time is a counter. A search may show a state of a document only if the state was current at the source at some time

* after the last change event of the document that is below the ledger's position, and
* after the transaction that applied the revision before the one that is shown, because a revision is read from the source
  after its predecessor was applied. A revision that shows the same version again has the bound of its predecessor, because a
  repair and a parked document are not read.

An event that waited while its object was refused sets no bound: the older version is served then. Access rules decide as of the
ledger read. A suppressed document is never shown, from the moment of its suppression.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field

from rag.models import AccessFilter, Chunk, Citation, DocumentRecord, Effect, Hit

Place = tuple[str, int, int, tuple[str, ...]]  # text, start, end, section


@dataclass(frozen=True)
class Document:
    source: str
    tenant: str
    uri: str
    document_id: str
    partition: int
    scopes: tuple[str, ...]

    @property
    def key(self) -> str:
        return self.uri.removeprefix("s3://")


@dataclass(frozen=True)
class State:
    """One state of a source object. ``chunks`` is empty for an absent or unreadable object."""

    since: int
    version: str = ""
    title: str = ""
    principals: tuple[str, ...] = ()
    subjects: tuple[str, ...] = ()
    chunks: Mapping[str, Place] = field(default_factory=dict)


def place(chunk: Chunk) -> Place:
    return chunk.text, chunk.start, chunk.end, chunk.section


@dataclass
class Announced:
    epoch: str
    partition: int
    offset: int
    document_id: str
    at: int
    is_binding: bool = True  # False when its object was refused while the event waited


@dataclass
class Model:
    """The history of every source object, of the announced events, and of the applied revisions."""

    time: int = 0
    states: dict[str, list[State]] = field(default_factory=lambda: defaultdict(list))
    announced: list[Announced] = field(default_factory=list)
    applied: dict[tuple[str, int], tuple[int, str]] = field(default_factory=dict)  # revision → time, status
    floors: dict[tuple[str, int], int] = field(default_factory=dict)  # revision → its state was current after this time
    suppressed: set[tuple[str, str]] = field(default_factory=set)
    rules: dict[tuple[str, str], Effect] = field(default_factory=dict)  # by scope and principal
    refused: set[str] = field(default_factory=set)  # documents whose objects cannot be read now

    def tick(self) -> int:
        self.time += 1
        return self.time

    def apply(self, old: DocumentRecord, new: DocumentRecord) -> None:
        """Record that the revision after ``old`` was applied."""
        document_id, revision = new.document_id, old.revision + 1
        is_same = (old.version, old.principals, old.title) == (new.version, new.principals, new.title)
        before = self.floors if is_same else {key: time for key, (time, _) in self.applied.items()}
        self.floors[document_id, revision] = before.get((document_id, old.revision), 0)
        self.applied[document_id, revision] = self.tick(), new.status.value

    def refuse(self, document_id: str, positions: Mapping[tuple[str, int], int]) -> None:
        """Record that the object cannot be read: events that wait, and those that come, set no bound."""
        self.refused.add(document_id)
        for event in self.announced:
            is_waiting = event.offset >= positions.get((event.epoch, event.partition), 0)
            event.is_binding &= event.document_id != document_id or not is_waiting

    def view(self, positions: Mapping[tuple[str, int], int]) -> View:
        """Return the right answer as of now. ``positions``: (epoch, partition) → next offset."""
        settled: dict[str, int] = defaultdict(int)
        for event in self.announced:
            if event.is_binding and event.offset < positions.get((event.epoch, event.partition), 0):
                settled[event.document_id] = max(settled[event.document_id], event.at)
        states = {document_id: tuple(each) for document_id, each in self.states.items()}
        return View(self.time, states, settled, dict(self.floors), frozenset(self.suppressed), dict(self.rules))


@dataclass(frozen=True)
class View:
    """The right answer at the time of a ledger read."""

    time: int
    states: Mapping[str, tuple[State, ...]]
    settled: Mapping[str, int]
    floors: Mapping[tuple[str, int], int]
    suppressed: frozenset[tuple[str, str]]
    rules: Mapping[tuple[str, str], Effect]

    def check_hit(self, hit: Hit, document: Document, access: AccessFilter) -> None:
        """Raises AssertionError unless the hit shows one state that may be shown to the caller."""
        assert document.tenant == access.tenant, f"{document.key} was shown to another tenant"
        shown, chunk = hit.provenance, hit.chunk
        current = self._current(document, shown.revision)
        same = [
            s for s in current if s.version == shown.source_version and s.chunks.get(chunk.chunk_id) == place(chunk)
        ]
        assert same, (
            f"{document.key} shows a chunk of version {shown.source_version} (revision {shown.revision}): {place(chunk)}, "
            f"and only these states may be shown: {[(s.since, s.version, sorted(s.chunks.values())) for s in current]}"
        )
        titled = [state for state in same if state.title == shown.title]
        assert titled, f"{document.key} is shown with the title {shown.title!r} of another version"
        allowed = [state for state in titled if self._is_allowed(document, state, access)]
        assert allowed, f"{document.key} was shown to {access.principals}, and only {titled[-1].principals} may see it"
        visible = [state for state in allowed if not self._is_suppressed(document, state)]
        assert visible, f"{document.key} is suppressed and was shown"

    def check_citation(self, citation: Citation, document: Document, access: AccessFilter) -> None:
        """Raises AssertionError unless the quote belongs to a version that the caller may see."""
        assert document.tenant == access.tenant, f"{document.key} was cited to another tenant"
        quoted = [
            state
            for state in self._current(document, 0)
            if state.version == citation.source_version
            and any(citation.quote in text for text, *_ in state.chunks.values())
            and not self._is_suppressed(document, state)
            and self._is_allowed(document, state, access)
        ]
        assert quoted, f"an answer cites {document.key}, version {citation.source_version}: {citation.quote!r}"

    def due_chunks(self, document: Document, access: AccessFilter) -> Mapping[str, Place]:
        """Return the chunks that a search must find, because the document has not changed since its last settled event."""
        states = self.states.get(document.document_id)
        if not states or states[-1].since > self.settled.get(document.document_id, 0):
            return {}
        state = states[-1]
        is_allowed = document.tenant == access.tenant and self._is_allowed(document, state, access)
        return state.chunks if is_allowed and not self._is_suppressed(document, state) else {}

    def _current(self, document: Document, revision: int) -> list[State]:
        """Return the states that were current after the last settled event and after the revision before ``revision``."""
        states = self.states[document.document_id]
        floor = max(self.settled.get(document.document_id, 0), self.floors.get((document.document_id, revision), 0))
        ends = [state.since for state in states[1:]] + [self.time + 1]
        return [state for state, end in zip(states, ends, strict=True) if end > floor]

    def _is_allowed(self, document: Document, state: State, access: AccessFilter) -> bool:
        effects = {
            effect
            for (scope, principal), effect in self.rules.items()
            if scope in document.scopes and principal in access.principals
        }
        is_named = Effect.GRANT in effects or not set(state.principals).isdisjoint(access.principals)
        return is_named and Effect.REVOKE not in effects

    def _is_suppressed(self, document: Document, state: State) -> bool:
        return any((document.tenant, each) in self.suppressed for each in (document.document_id, *state.subjects))
