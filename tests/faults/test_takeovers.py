"""Takeovers that random schedules seldom hit: a worker that was stopped goes on after others have acted."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest

from tests.fakes.world import SOURCE
from tests.faults.points import Fault, Kind
from tests.faults.schedules import content_of
from tests.faults.station import CALLERS, DOCUMENTS, Station


@pytest.fixture
def station() -> Iterator[Station]:
    made = Station()
    for document in DOCUMENTS:
        made.put(document, content_of("m"), {})
    made.announce_all()
    for partition in (0, 1):
        made.run_lane(partition, None)
    yield made
    made.close()


def search_and_repair(station: Station) -> None:
    for caller in CALLERS:
        station.search(caller)
    station.repair()


def test_a_worker_whose_points_were_swept_before_its_swap_derives_again(station: Station) -> None:
    document = DOCUMENTS[0]
    station.put(document, content_of("mt"), {})
    station.announce_all()
    station.run_lane(document.partition, Fault("ledger.swap", 1, Kind.STOP_BEFORE))
    station.sweep(None)
    station.resume(0)
    search_and_repair(station)


def test_a_backfill_that_was_stopped_before_its_swap_loses_to_a_change(station: Station) -> None:
    document = DOCUMENTS[0]
    station.backfill(document.partition, Fault("ledger.swap", 1, Kind.STOP_BEFORE))
    station.put(document, content_of("tp"), {})
    station.announce_all()
    station.run_lane(document.partition, None)
    station.resume(0)
    search_and_repair(station)


def test_a_delete_that_is_executed_late_hits_no_text_that_came_back(station: Station) -> None:
    document = DOCUMENTS[0]
    for text, fault in (("t", Fault("vectors.delete", 1, Kind.LATE)), ("m", None)):
        station.put(document, content_of(text), {})
        station.announce_all()
        station.run_lane(document.partition, fault)
    station.execute_late(0)
    search_and_repair(station)


def test_a_worker_with_older_rules_does_not_undo_a_tightened_one(station: Station) -> None:
    document = DOCUMENTS[0]
    station.put(document, content_of("mt"), {})
    station.announce_all()
    station.run_lane(document.partition, Fault("ledger.swap", 1, Kind.STOP_BEFORE))
    station.rule(replace(SOURCE, principals=("group:finance",)))
    station.announce_all()
    station.run_lane(document.partition, None)
    station.resume(0)
    search_and_repair(station)


def test_a_worker_with_older_rules_indexes_no_new_document(station: Station) -> None:
    document = DOCUMENTS[0]
    station.put(document, content_of("mt"), {})
    station.announce_all()
    station.run_lane(document.partition, Fault("objects.get", 1, Kind.STOP_AFTER))
    station.rule(replace(SOURCE, principals=("group:finance",)))
    station.resume(0)
    search_and_repair(station)
