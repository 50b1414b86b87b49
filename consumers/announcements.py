"""The changes that this process announced and that the ledger does not show as applied yet."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace

from rag.ports import TopicState

SLICE = 1000  # events published together
Signature = tuple[bool, str | None]
"""(whether the change is a deletion, change token). Two differences with equal signatures are the same change."""


@dataclass(frozen=True, slots=True)
class _Announcement:
    """An announced change. A ``signature`` of None stands for any change. ``log`` is the state of the topic after the announcement,
    or None while that state is unknown."""

    at: float
    signature: Signature | None
    log: TopicState | None


@dataclass(slots=True)
class Announcements:
    """The announced changes of one source. A change is not announced again while its event waits in the log.

    An event that the log lost is announced again at once. An event that was read and not applied is announced again after
    ``again_after`` seconds.
    """

    again_after: float
    clock: Callable[[], float] = time.monotonic
    _entries: dict[str, _Announcement] = field(default_factory=dict)

    def note(self, uris: Iterable[str]) -> None:
        """Record changes that a stream has announced."""
        now = self.clock()
        self._entries |= {uri: _Announcement(now, None, None) for uri in uris}

    def note_differences(self, differences: Mapping[str, Signature], log: TopicState) -> None:
        """Record announced differences. ``log`` is the state of the topic after the announcement."""
        now = self.clock()
        self._entries |= {uri: _Announcement(now, signature, log) for uri, signature in differences.items()}

    def due(
        self, differences: Mapping[str, Signature], log: TopicState, positions: Mapping[int, int], listed_at: float
    ) -> set[str]:
        """Return the differences to announce, and forget the entries that are applied.

        ``log`` and ``positions`` were read before the ledger was compared, so that an event before a position shows in the ledger.
        ``listed_at`` is the time (of ``clock``) when the comparison began.
        """
        self._entries = {
            uri: entry if entry.log else replace(entry, log=log)
            for uri, entry in self._entries.items()
            if uri in differences or entry.at >= listed_at
        }
        return {uri for uri, signature in differences.items() if self._is_due(uri, signature, log, positions)}

    def _is_due(self, uri: str, signature: Signature, log: TopicState, positions: Mapping[int, int]) -> bool:
        entry = self._entries.get(uri)
        if entry is None or entry.log is None or _is_lost(entry.log, log, positions):
            return True
        if _is_waiting(entry.log, log, positions):
            return False
        return entry.signature != signature or self.clock() - entry.at >= self.again_after


def _is_lost(announced: TopicState, log: TopicState, positions: Mapping[int, int]) -> bool:
    """Return whether the log may have lost the event: it was recreated, lost its tail, or purged events that were not read."""
    if announced.epoch != log.epoch:
        return True
    return any(
        log.bounds[partition][1] < end or positions.get(partition, first) < log.bounds[partition][0]
        for partition, (first, end) in announced.bounds.items()
    )


def _is_waiting(announced: TopicState, log: TopicState, positions: Mapping[int, int]) -> bool:
    """Return whether a partition has unread events from before the end of the announcement. One of them may be the event."""
    return any(
        positions.get(partition, log.bounds[partition][0]) < end for partition, (_, end) in announced.bounds.items()
    )
