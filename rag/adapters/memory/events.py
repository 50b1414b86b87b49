"""Event log in memory. Records pass through the real codec, and keys are on the partitions that Kafka would choose."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from itertools import count
from typing import Any

from rag.errors import LostEvents, Unavailable
from rag.ports import Record, Starts, TopicState
from schemas.codec import Codec, Malformed
from schemas.registry import MemoryRegistry
from schemas.topics import TOPICS, Topic

UINT32 = 0xFFFFFFFF


@dataclass
class _Stored:
    offset: int
    key: bytes
    value: bytes | None
    headers: dict[str, str]


@dataclass
class _Partition:
    records: list[_Stored] = field(default_factory=list)
    low: int = 0
    end: int = 0


class MemoryEventLog:
    """EventLog of `rag.ports`. Actions of brokers and operators (compact, truncate, join) have methods of their own."""

    def __init__(self, table: Mapping[str, Topic] = TOPICS) -> None:
        self._table = table
        self._codec = Codec(MemoryRegistry(), table)
        self._topic_ids = count(1)
        self._topics: dict[str, tuple[str, list[_Partition]]] = {}
        self._members: dict[str, int] = {}
        self._subscriptions: dict[str, list[MemorySubscription]] = {}
        self.mirrored: dict[tuple[str, str, int], int] = {}
        for name in table:
            self.recreate(name)

    async def publish(
        self, topic: str, events: Sequence[tuple[str, Any]], *, headers: Mapping[str, str] | None = None
    ) -> None:
        encoded = [(key, None if value is None else self._codec.encode(topic, value)) for key, value in events]
        for key, value in events:
            if value is not None and key.encode() != self._codec.key(topic, value):
                raise ValueError(f"an event of {topic} was given another key than the one in its value")
        for key, data in encoded:
            self.append(topic, key.encode(), data, headers=headers)

    async def describe(self, topic: str) -> TopicState:
        topic_id, partitions = self._topic(topic)
        bounds = {number: (partition.low, partition.end) for number, partition in enumerate(partitions)}
        return TopicState(topic, f"memory:{topic_id}:{len(partitions)}", bounds)

    async def read(self, topic: str, partition: int, start: int, end: int, *, limit: int | None = None) -> list[Record]:
        if start >= end or limit == 0:
            return []
        log = self._partition(topic, partition)
        if not log.low <= start <= log.end:
            raise LostEvents(
                f"{topic}[{partition}] holds offsets {log.low} to {log.end} and {start} is due: "
                "reconcile against the sources"
            )
        if log.end < end:
            raise Unavailable(
                f"{topic}[{partition}] ends at offset {log.end}, before the promised {end}: read it again"
            )
        return [self._record(topic, partition, s) for s in log.records if start <= s.offset < end][:limit]

    async def mirror(self, group: str, topic: str, positions: Mapping[int, int]) -> bool:
        for partition in positions:
            self._partition(topic, partition)
        if positions and await self.members(group):
            return False
        self.mirrored |= {(group, topic, partition): offset for partition, offset in positions.items()}
        return True

    async def members(self, group: str) -> int:
        return self._members.get(group, 0) + len(self._subscriptions.get(group, ()))

    @asynccontextmanager
    async def subscribe(self, group: str, topic: str, starts: Starts) -> AsyncIterator[MemorySubscription]:
        group_members = self._subscriptions.setdefault(group, [])
        member = MemorySubscription(self, topic, starts, group_members)
        group_members.append(member)
        try:
            yield member
        finally:
            group_members.remove(member)

    # -- actions of a broker, its operators and other clients ------------------------------------------------------------

    def append(
        self, topic: str, key: bytes, value: bytes | None, *, headers: Mapping[str, str] | None = None
    ) -> tuple[int, int]:
        """Append any bytes, as another client may write them. Return partition and offset."""
        _, partitions = self._topic(topic)
        number = partition_of(key, len(partitions))
        log = partitions[number]
        log.records.append(_Stored(log.end, key, value, dict(headers or {})))
        log.end += 1
        return number, log.end - 1

    def compact(self, topic: str) -> None:
        """Keep the newest record of each key."""
        for log in self._topic(topic)[1]:
            newest = {stored.key: stored.offset for stored in log.records}
            log.records = [stored for stored in log.records if newest[stored.key] == stored.offset]

    def truncate(self, topic: str, partition: int, low: int) -> None:
        """Delete all records before `low`, as retention does."""
        log = self._partition(topic, partition)
        log.low = low
        log.records = [stored for stored in log.records if stored.offset >= low]

    def recreate(self, topic: str) -> None:
        self._topics[topic] = (str(next(self._topic_ids)), [_Partition() for _ in range(self._table[topic].partitions)])

    def join(self, group: str) -> None:
        self._members[group] = self._members.get(group, 0) + 1

    def leave(self, group: str) -> None:
        self._members[group] -= 1

    def _topic(self, name: str) -> tuple[str, list[_Partition]]:
        if name not in self._topics:
            raise Unavailable(f"topic {name!r} does not exist, only {', '.join(self._topics)}")
        return self._topics[name]

    def _partition(self, topic: str, number: int) -> _Partition:
        partitions = self._topic(topic)[1]
        if not 0 <= number < len(partitions):
            raise Unavailable(f"{topic} has {len(partitions)} partitions, and none with the number {number}")
        return partitions[number]

    def _record(self, topic: str, partition: int, stored: _Stored) -> Record:
        key, value, error = "", None, ""
        try:
            key = stored.key.decode()
            value = self._codec.decode(topic, stored.value)
        except UnicodeDecodeError:
            error = f"the key of a record of {topic} is not UTF-8"
        except Malformed as malformed:
            error = str(malformed)
        size = len(stored.key) + len(stored.value or b"")
        return Record(topic, partition, stored.offset, key, value, dict(stored.headers), error, size)


class MemorySubscription:
    """Subscription of ``rag.ports``. The members of a group divide the partitions in the order in which they joined."""

    def __init__(self, log: MemoryEventLog, topic: str, starts: Starts, group: list[MemorySubscription]) -> None:
        self._log, self._topic, self._starts, self._group = log, topic, starts, group
        self._next: dict[int, int] = {}
        self._paused: set[int] = set()
        self.committed: dict[int, int] = {}

    @property
    def partitions(self) -> frozenset[int]:
        return frozenset(self._next)

    async def poll(self, wait: float) -> list[Record]:
        await self._rebalance()
        deadline = asyncio.get_running_loop().time() + wait
        while not (records := await self._arrived()):
            if asyncio.get_running_loop().time() >= deadline:
                return []
            await asyncio.sleep(min(0.005, wait))
        return records

    async def pause(self, partitions: frozenset[int]) -> None:
        self._paused |= partitions

    async def resume(self, partitions: frozenset[int]) -> None:
        self._paused -= partitions

    async def commit(self, positions: Mapping[int, int]) -> None:
        self.committed |= positions

    async def _rebalance(self) -> None:
        bounds = (await self._log.describe(self._topic)).bounds
        mine = frozenset(each for each in bounds if each % len(self._group) == self._group.index(self))
        if mine != self.partitions:
            self._next = dict(await self._starts(mine))

    async def _arrived(self) -> list[Record]:
        bounds = (await self._log.describe(self._topic)).bounds
        records: list[Record] = []
        for partition in sorted(self.partitions - self._paused):
            end = bounds[partition][1]
            records += await self._log.read(self._topic, partition, self._next[partition], end)
            self._next[partition] = end
        return records


def partition_of(key: bytes, partitions: int) -> int:
    """Return the partition that Kafka's clients choose: 32-bit murmur2, sign bit cleared (org.apache.kafka.common.utils.Utils)."""
    multiplier = 0x5BD1E995
    value = (0x9747B28C ^ len(key)) & UINT32
    aligned = len(key) - len(key) % 4
    for start in range(0, aligned, 4):
        word = int.from_bytes(key[start : start + 4], "little") * multiplier & UINT32
        word = (word ^ word >> 24) * multiplier & UINT32
        value = value * multiplier & UINT32 ^ word
    if aligned < len(key):
        value = (value ^ int.from_bytes(key[aligned:], "little")) * multiplier & UINT32
    value = (value ^ value >> 13) * multiplier & UINT32
    return ((value ^ value >> 15) & 0x7FFFFFFF) % partitions
