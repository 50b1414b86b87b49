"""The topics: the events of each, their key and their retention.

Every topic deletes as well as compacts, except the one that must outlive every backup. Compaction alone does not bound the life
of a record: Kafka rolls a segment only when a record arrives. In a quiet partition, the active segment would stay, and with it
the events of an erased document. `retention.ms` applies to quiet partitions too, so an erasure certificate may state that bound.
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
"""Partitions of the topics keyed by document, which are also Dagster's partitions. The number is fixed for the life of a topic,
because another number would move keys and so break the order of a document's events. Eight keep eight cores of a stream lane busy."""


@dataclass(frozen=True, slots=True)
class Setting:
    """One topic configuration and the reason for its value."""

    value: str
    reason: str


@dataclass(frozen=True, slots=True)
class Topic:
    """One topic. `key` is the name of the event's field whose UTF-8 bytes are the key of the record."""

    name: str
    event: type[events.Event]
    key: str
    partitions: int
    settings: dict[str, Setting]

    @property
    def subject(self) -> str:
        """Return the registry's subject of the values (TopicNameStrategy)."""
        return f"{self.name}-value"

    @property
    def retention_ms(self) -> int | None:
        """Return the longest life of a record in milliseconds, or None if the record stays until its key is deleted."""
        return int(self.settings["retention.ms"].value) if "delete" in self.settings["cleanup.policy"].value else None

    @property
    def compaction_ms(self) -> int:
        """Return the longest life of a superseded record in milliseconds, in a partition that keeps receiving records.

        The time that the cleaner takes comes on top.
        """
        return int(self.settings["max.compaction.lag.ms"].value)

    def key_of(self, event: events.Event) -> bytes:
        """Return the key under which `event` is published on this topic."""
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
            "while records keep arriving, a record that a tombstone or a newer record supersedes is purged within about a day",
        ),
        "delete.retention.ms": Setting(
            str(DAY), "a tombstone outlives the records that it deletes, for readers up to a day behind"
        ),
    }


def topics(document_partitions: int = DOCUMENT_PARTITIONS) -> dict[str, Topic]:
    """Return the table of topics by name, with this installation's number of partitions for the topics keyed by document."""
    rows = (
        Topic(
            CHANGED,
            events.DocumentChanged,
            "document_id",
            document_partitions,
            _compacted(
                14, "a lane may be stopped for two weeks of holidays; reconciliation finds older changes at the source"
            ),
        ),
        Topic(
            INDEXED,
            events.DocumentIndexed,
            "document_id",
            document_partitions,
            _compacted(7, "only notifies caches and watchers; the ledger keeps the state"),
        ),
        Topic(
            DEAD,
            events.DocumentDead,
            "document_id",
            1,
            _compacted(30, "an operator has a month to look into it; the catalog keeps showing the failure"),
        ),
        Topic(
            ERASURES_REQUESTED,
            events.ErasureRequested,
            "erasure_id",
            1,
            _compacted(90, "the law allows one month, extendable by two, and no request may expire before its answer"),
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
