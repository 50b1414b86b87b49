"""The current state of source objects, with the title, principals and subjects from their labels. Events are only hints."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from rag.errors import ObjectUnavailable, Rejected
from rag.ids import Ids
from rag.ingest.roots import Roots
from rag.ingest.tasks import dead, deleted, parked, retired
from rag.labels import SUBJECTS_LABEL, TITLE_LABEL, decode_label, split_label
from rag.models import DocumentRecord, DocumentStatus, IndexingTask, ObjectState, SourceObject
from rag.ports import ObjectStore
from rag.sources import Source, Sources


@dataclass(frozen=True, slots=True)
class Reading:
    """Task with the current state of its object. ``source_object`` is the content to parse: None for a deleted or unreadable object."""

    task: IndexingTask
    source_object: SourceObject | None = None


@dataclass(frozen=True, slots=True)
class Reader:
    """Reader of the configured sources' objects, of up to ``max_bytes`` each."""

    ids: Ids
    sources: Sources
    objects: ObjectStore
    roots: Roots
    max_bytes: int = 100 * 2**20

    async def read(self, task: IndexingTask, recorded: DocumentRecord, *, reread: bool = False) -> Reading | None:
        """Read the object. Return None when the ledger holds its current state, unless ``reread`` or a backfill needs the content anyway.

        An absent object becomes DELETED, an unusable one DEAD, and one that its container refuses PARKED. Raises Unavailable when the
        source does not answer, denies access or is not the one that was watched: that never counts as a deletion.
        """
        seen = replace(task, principals=recorded.principals)
        if not self.sources.contains(task.source, task.tenant, task.uri):
            is_gone = recorded.status is DocumentStatus.DELETED
            return None if is_gone else Reading(retired(seen))
        try:
            source = self.sources.owner(task.source, task.tenant, task.uri)
            seen = replace(seen, config_hash=source.config_hash(task.uri))
            may_be_settled = recorded.revision and not (reread or task.cause.is_backfill)
            if may_be_settled and _is_settled(recorded, await self.objects.head(task.uri), source):
                return None
            current = await self.objects.get(task.uri, limit=self.max_bytes)
        except Rejected as error:
            return Reading(dead(await self._with_refused_version(seen), error.reason))
        except ObjectUnavailable as error:
            return await self._parked(seen, recorded, source, error.reason)
        if current is None:
            await self.roots.prove(source)
            return Reading(deleted(seen))
        await self.roots.learn(source)
        labelled = self._with_labels(seen, current, source)
        return Reading(labelled, current if labelled.status is DocumentStatus.LIVE else None)

    async def _with_refused_version(self, task: IndexingTask) -> IndexingTask:
        """Return the task with the version of an object that is too large, so that the object is not tried again before it changes.

        An object that has changed since is left to its own event.
        """
        try:
            source = self.sources.owner(task.source, task.tenant, task.uri)
            state = await self.objects.head(task.uri)
        except Rejected:
            return task
        if state is None or state.size <= self.max_bytes:
            return task
        principals = _principals(source, task.uri, state.labels)
        return replace(task, version=state.version, change_token=state.change_token, principals=principals)

    async def _parked(
        self, task: IndexingTask, recorded: DocumentRecord, source: Source, reason: str
    ) -> Reading | None:
        """Return the parked task, with the object's state where the container shows it. Return None when the ledger already holds that
        state, because an archived object may be read long before it was archived."""
        try:
            state = await self.objects.head(task.uri)
        except (Rejected, ObjectUnavailable):
            state = None
        if state is None:
            return Reading(parked(task, reason))
        if recorded.status is DocumentStatus.LIVE and _is_settled(recorded, state, source):
            return None
        principals = _principals(source, task.uri, state.labels)
        seen = replace(task, version=state.version, change_token=state.change_token, principals=principals)
        return Reading(parked(seen, reason))

    def _with_labels(self, task: IndexingTask, current: SourceObject, source: Source) -> IndexingTask:
        """Return the task with the object's state and labels. A bad label makes the document dead and leaves the batch alone."""
        state = current.state
        seen = replace(
            task,
            version=state.version,
            change_token=state.change_token,
            content_hash=self.ids.content_hash(task.tenant, current.content),
            media_type=state.media_type or "",
            principals=_principals(source, task.uri, state.labels),
        )
        try:
            source.access(task.uri, state.labels)
            title = decode_label(state.labels.get(TITLE_LABEL, ""))
            subjects = split_label(state.labels.get(SUBJECTS_LABEL, ""))
        except Rejected as error:
            return dead(seen, error.reason)
        pseudonyms = {self.ids.subject_id(task.tenant, each) for each in subjects}
        return replace(seen, title=title, subjects=tuple(sorted(pseudonyms)))


def _is_settled(recorded: DocumentRecord, state: ObjectState | None, source: Source) -> bool:
    """Return whether the ledger holds the object's current state, derived with the source's present settings, and the principals that
    its labels now give."""
    if state is None:
        return recorded.status is DocumentStatus.DELETED
    if recorded.config_hash != source.config_hash(recorded.uri):
        return False
    known = recorded.status in {DocumentStatus.LIVE, DocumentStatus.DEAD} and state.version == recorded.version
    return known and _principals(source, recorded.uri, state.labels) == recorded.principals


def _principals(source: Source, uri: str, labels: Mapping[str, str]) -> tuple[str, ...]:
    """Return the principals that may see the document.

    A bad principals label grants access to no one, because the intended label may have been stricter than the source's rules.
    """
    try:
        return source.access(uri, labels).principals
    except Rejected:
        return ()
