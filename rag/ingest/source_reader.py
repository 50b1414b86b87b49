"""Source objects as they are now, whatever an event said of them, with what their labels say."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from rag.errors import Rejected
from rag.ids import Ids
from rag.ingest.tasks import dead
from rag.models import DocumentStatus, ObjectState, Recorded, SourceObject, Work
from rag.ports import ObjectStore
from rag.sources import PRINCIPALS_LABEL, SUBJECTS_LABEL, TITLE_LABEL, Source, Sources, split_label


@dataclass(frozen=True, slots=True)
class Reading:
    """The work as its source has it now. ``found`` is what remains to be parsed: nothing of a deleted or unreadable object."""

    work: Work
    found: SourceObject | None = None


@dataclass(frozen=True, slots=True)
class Reader:
    """Objects of the configured sources, up to ``max_bytes`` each."""

    ids: Ids
    sources: Sources
    objects: ObjectStore
    max_bytes: int = 100 * 2**20

    async def read(self, work: Work, recorded: Recorded, *, force: bool = False) -> Reading | None:
        """None when the ledger has the object as it is, unless ``force``. Absent objects become DELETED, unreadable ones DEAD.

        Raises Unavailable when the source cannot be asked or denies access, which is never a delete.
        """
        seen = replace(work, principals=recorded.principals)
        try:
            source = self.sources.owner(work.source, work.tenant, work.uri)
            is_known = recorded.revision and not force  # else its content is needed anyway, and tells its state
            if is_known and _is_settled(recorded, await self.objects.head(work.uri), source):
                return None
            found = await self.objects.get(work.uri, limit=self.max_bytes)
        except Rejected as error:
            return Reading(dead(await self._refused(seen), error.reason))
        if found is None:
            return Reading(replace(seen, status=DocumentStatus.DELETED, version="", stamp="", content_hash=""))
        labelled = self._labelled(seen, found, source)
        return Reading(labelled, found if labelled.status is DocumentStatus.LIVE else None)

    async def _refused(self, work: Work) -> Work:
        """With the version that is too large: it is not tried again before it changes. What has changed since is left to its event."""
        try:
            source = self.sources.owner(work.source, work.tenant, work.uri)
            state = await self.objects.head(work.uri)
        except Rejected:
            return work
        if state is None or state.size <= self.max_bytes:
            return work
        principals = _principals(source, work.uri, state.labels)
        return replace(work, version=state.version, stamp=state.stamp, principals=principals)

    def _labelled(self, work: Work, found: SourceObject, source: Source) -> Work:
        """What the object says of itself. A label that is no plain text makes the document dead, not the batch."""
        state = found.state
        seen = replace(
            work,
            status=DocumentStatus.LIVE,
            version=state.version,
            stamp=state.stamp,
            content_hash=self.ids.content_hash(work.tenant, found.content),
            media_type=state.media_type or "",
            principals=_principals(source, work.uri, state.labels),
        )
        if not all(label.isprintable() for label in state.labels.values()):
            return dead(seen, "bad_label")
        subjects = {
            self.ids.subject_id(work.tenant, each) for each in split_label(state.labels.get(SUBJECTS_LABEL, ""))
        }
        return replace(
            seen,
            title=state.labels.get(TITLE_LABEL, ""),
            subjects=tuple(sorted(subjects)),
        )


def _is_settled(recorded: Recorded, state: ObjectState | None, source: Source) -> bool:
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
