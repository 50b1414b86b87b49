"""Source objects as they are now, whatever an event said of them, with what their labels say."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from rag.errors import Rejected
from rag.ids import Ids
from rag.ingest.tasks import afresh, dead, deleted
from rag.models import DocumentRecord, DocumentStatus, IndexingTask, ObjectState, SourceObject
from rag.ports import ObjectStore
from rag.sources import PRINCIPALS_LABEL, SUBJECTS_LABEL, TITLE_LABEL, Source, Sources, split_label


@dataclass(frozen=True, slots=True)
class Reading:
    """The task as its source has it now. ``found`` is what remains to be parsed: nothing of a deleted or unreadable object."""

    task: IndexingTask
    found: SourceObject | None = None


@dataclass(frozen=True, slots=True)
class Reader:
    """Objects of the configured sources, up to ``max_bytes`` each."""

    ids: Ids
    sources: Sources
    objects: ObjectStore
    max_bytes: int = 100 * 2**20

    async def read(self, task: IndexingTask, recorded: DocumentRecord, *, reread: bool = False) -> Reading | None:
        """Read the object. Return None when the ledger has it as it is, unless ``reread`` or a backfill asks for its content anyway.

        An absent object becomes DELETED, an unreadable one DEAD. Raises Unavailable when the source does not answer or denies
        access, which is never a deletion.
        """
        seen = replace(task, principals=recorded.principals)
        try:
            source = self.sources.owner(task.source, task.tenant, task.uri)
            may_be_settled = recorded.revision and not (reread or task.cause.is_backfill)
            if may_be_settled and _is_settled(recorded, await self.objects.head(task.uri), source):
                return None
            found = await self.objects.get(task.uri, limit=self.max_bytes)
        except Rejected as error:
            return Reading(dead(await self._refused(seen), error.reason))
        if found is None:
            return Reading(deleted(seen))
        labelled = self._labelled(seen, found, source)
        return Reading(labelled, found if labelled.status is DocumentStatus.LIVE else None)

    async def _refused(self, task: IndexingTask) -> IndexingTask:
        """With the version that is too large: it is not tried again before it changes. What has changed since is left to its event."""
        try:
            source = self.sources.owner(task.source, task.tenant, task.uri)
            state = await self.objects.head(task.uri)
        except Rejected:
            return task
        if state is None or state.size <= self.max_bytes:
            return task
        principals = _principals(source, task.uri, state.labels)
        return replace(task, version=state.version, change_token=state.change_token, principals=principals)

    def _labelled(self, task: IndexingTask, found: SourceObject, source: Source) -> IndexingTask:
        """What the object says of itself. A label that is no plain text makes the document dead, not the batch."""
        state = found.state
        seen = replace(
            afresh(task),
            version=state.version,
            change_token=state.change_token,
            content_hash=self.ids.content_hash(task.tenant, found.content),
            media_type=state.media_type or "",
            principals=_principals(source, task.uri, state.labels),
        )
        if not all(label.isprintable() for label in state.labels.values()):
            return dead(seen, "bad_label")
        subjects = {
            self.ids.subject_id(task.tenant, each) for each in split_label(state.labels.get(SUBJECTS_LABEL, ""))
        }
        return replace(
            seen,
            title=state.labels.get(TITLE_LABEL, ""),
            subjects=tuple(sorted(subjects)),
        )


def _is_settled(recorded: DocumentRecord, state: ObjectState | None, source: Source) -> bool:
    """Whether the ledger has the object as it is now, and as its source's settings and labels would have it seen."""
    if state is None:
        return recorded.status is DocumentStatus.DELETED
    known = recorded.status in {DocumentStatus.LIVE, DocumentStatus.DEAD} and state.version == recorded.version
    return known and _principals(source, recorded.uri, state.labels) == recorded.principals


def _principals(source: Source, uri: str, labels: Mapping[str, str]) -> tuple[str, ...]:
    """Who may see the document. A label that is no plain text lets nobody: what it meant to say may be stricter than the rules."""
    if not labels.get(PRINCIPALS_LABEL, "").isprintable():
        return ()
    return source.access(uri, labels).principals
