"""The plan of a parked document: its older version is served for a stated time, and its tries become rarer."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

from rag.ingest.parking import ParkingPolicy, plan_parked
from rag.models import Cause, DocumentRecord, DocumentStatus, IndexingTask, Placement

NOW = datetime(2026, 11, 26, tzinfo=UTC)
POLICY = ParkingPolicy(first_wait=60, longest_wait=600, stale_seconds=3600)
TASK = IndexingTask("d", "acme", "s3", "s3://docs/a.md", 4, Cause("t", "e", 3, 9), DocumentStatus.PARKED, reason="archived",
                    version="v2", change_token="t2", principals=("group:staff",))  # fmt: skip
SERVED = DocumentRecord("d", 4, DocumentStatus.LIVE, "acme", "s3", "s3://docs/a.md", 3, "v1", "t1", "hash", ("group:staff",),
                        chunks={"c": Placement("p", "h", 0, 0, 5)}, artifacts=("key",), cause=Cause("t", "e", 3, 2))  # fmt: skip


def test_the_older_version_is_served_with_its_own_provenance() -> None:
    delta = plan_parked(TASK, SERVED, 3, POLICY, NOW)
    record = delta.record
    assert (record.status, record.reason, record.version, record.cause) == ("parked", "archived", "v1", SERVED.cause)
    assert (record.chunks, record.artifacts, delta.retired, delta.is_visible) == (SERVED.chunks, ("key",), (), True)
    assert record.change_token == "t2"  # a listing does not announce the same version again


def test_the_waits_double_up_to_the_longest() -> None:
    waits, record, now = [], DocumentRecord("d", 4), NOW
    for _ in range(6):
        record = plan_parked(TASK, record, 3, POLICY, now).record
        assert record.parking
        waits.append((record.parking.next_try - now).total_seconds())
        now = record.parking.next_try
    assert waits == [60, 120, 240, 480, 600, 600]
    assert record.parking
    assert (record.parking.attempts, record.parking.since) == (6, NOW)


def test_a_try_is_due_when_the_time_of_the_older_version_is_over_and_withdraws_it() -> None:
    record, now, tries = SERVED, NOW, 0
    while record.chunks:
        delta = plan_parked(replace(TASK, base_revision=record.revision), record, 3, POLICY, now)
        record, tries = replace(delta.record, revision=record.revision + 1), tries + 1
        assert record.parking
        if record.chunks:
            now = record.parking.next_try
    assert now == NOW + timedelta(hours=1)
    assert (delta.retired, record.artifacts, record.status) == (("p",), (), "parked")


def test_no_one_sees_an_older_version_whose_object_names_other_principals() -> None:
    delta = plan_parked(replace(TASK, principals=("group:board",)), SERVED, 3, POLICY, NOW)
    assert (delta.record.chunks, delta.retired, delta.record.principals) == ({}, ("p",), ("group:board",))


def test_a_policy_without_stale_time_withdraws_at_once() -> None:
    assert plan_parked(TASK, SERVED, 3, replace(POLICY, stale_seconds=0), NOW).retired == ("p",)
