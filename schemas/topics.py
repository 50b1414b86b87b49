"""The topics: what flows where, under which key, and for how long.

Every topic deletes as well as compacts, except the one that must outlive every backup. Compaction alone bounds nothing: Kafka
rolls a segment only when a record arrives, so in a quiet partition the active segment, and an erased document's events in
it, would stay. `retention.ms` holds in quiet partitions too. That is the bound which an erasure certificate may state.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from schemas import events

CHANGED: Final = "documents.changed.v1"
INDEXED: Final = "documents.indexed.v1"
DEAD: Final = "documents.dead.v1"
ERASURES_REQUESTED: Final = "erasures.requested.v1"
ERASURES_COMPLETED: Final = "erasures.completed.v1"

MINUTE: Final = 60_000
HOUR: Final = 60 * MINUTE
DAY: Final = 24 * HOUR

DOCUMENT_PARTITIONS: Final = 8
"""Partitions of the topics keyed by document, which are also Dagster's partitions: fixed for the life of a topic, because more
would move keys and so break the order of a document's events. Eight keep eight cores of stream lane busy."""


@dataclass(frozen=True, slots=True)
class Setting:
    """One topic configuration and the reason for its value."""

    value: str
    reason: str


@dataclass(frozen=True, slots=True)
class Topic:
    """One topic. `key` names the field of the event whose UTF-8 bytes are the key of the record."""

    name: str
    event: type[events.Event]
    key: str
    partitions: int
    settings: dict[str, Setting]

    @property
    def subject(self) -> str:
        """The registry's subject of the values (TopicNameStrategy)."""
        return f"{self.name}-value"

    @property
    def retention_ms(self) -> int | None:
        """The longest that a record stays, in milliseconds; None when it stays until its key is deleted."""
        return int(self.settings["retention.ms"].value) if "delete" in self.settings["cleanup.policy"].value else None

    @property
    def compaction_ms(self) -> int:
        """In a partition that keeps receiving records: after this long a superseded record may no longer be there, but
        for the time that the cleaner takes."""
        return int(self.settings["max.compaction.lag.ms"].value)

    def key_of(self, event: events.Event) -> bytes:
        """The key under which `event` is published here."""
        return str(getattr(event, self.key)).encode()


def _compacted(retention_days: int | None, retention_reason: str) -> dict[str, Setting]:
    policy = (
        Setting("compact", "kept until its key is deleted")
        if retention_days is None
        else Setting(
            "compact,delete", "the newest record of a key is enough, and retention bounds the purge in quiet partitions"
        )
    )
    retention = -1 if retention_days is None else retention_days * DAY
    return {
        "cleanup.policy": policy,
        "retention.ms": Setting(str(retention), retention_reason),
        "segment.ms": Setting(str(6 * HOUR), "only rolled segments are compacted or deleted: four a day are few files"),
        "min.compaction.lag.ms": Setting(
            str(HOUR), "a reader less than an hour behind sees every record, not only the newest"
        ),
        "max.compaction.lag.ms": Setting(
            str(DAY),
            "while records keep arriving, what a tombstone or a newer record supersedes is purged within about a day",
        ),
        "delete.retention.ms": Setting(
            str(DAY), "a tombstone outlives what it deletes, for readers up to a day behind"
        ),
    }


def topics(document_partitions: int = DOCUMENT_PARTITIONS) -> dict[str, Topic]:
    """The table by name, with the partitions that this installation set for the topics keyed by document."""
    rows = (
        Topic(
            CHANGED,
            events.DocumentChanged,
            "document_id",
            document_partitions,
            _compacted(
                14, "a lane may stand still over two weeks of holidays; what is older a reconcile finds at the source"
            ),
        ),
        Topic(
            INDEXED,
            events.DocumentIndexed,
            "document_id",
            document_partitions,
            _compacted(7, "a notice to caches and watchers; the ledger keeps the facts"),
        ),
        Topic(
            DEAD,
            events.DocumentDead,
            "document_id",
            1,
            _compacted(30, "a month for somebody to look; the catalog keeps showing the failure"),
        ),
        Topic(
            ERASURES_REQUESTED,
            events.ErasureRequested,
            "erasure_id",
            1,
            _compacted(90, "the law gives one month, extendable by two, so no request may expire unanswered"),
        ),
        Topic(
            ERASURES_COMPLETED,
            events.ErasureCompleted,
            "erasure_id",
            1,
            _compacted(None, "the pointer to the certificate outlives every backup that could bring the data back"),
        ),
    )
    return {topic.name: topic for topic in rows}


TOPICS: Final = topics()
BY_EVENT: Final = {topic.event: topic for topic in TOPICS.values()}
