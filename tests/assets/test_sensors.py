from __future__ import annotations

from collections.abc import Iterator

import dagster as dg
import pytest
from dagster import DagsterRunStatus
from prometheus_client import REGISTRY

from assets.definitions import defs
from assets.partitions import EVENTS
from assets.sensors import RANGE_TAGS, Attempts, Due, _alarm, due_ranges, in_flight, requests
from assets.sensors import decide as decide_on
from rag.ports import TopicState

NOW = 1_800_000_000.0
RANGES = {0: (0, 0), 1: (0, 5), 2: (40, 50)}
STATE = TopicState("documents.changed.v1", "epoch-1", RANGES)


def decide(instance: dg.DagsterInstance, state: TopicState, positions: dict[int, int], now: float) -> dg.SensorResult:
    return decide_on(instance, state, positions, in_flight(instance), now)


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.ephemeral() as made:
        yield made


def a_run(instance: dg.DagsterInstance, status: DagsterRunStatus, *due: Due) -> None:
    (made,) = requests(dict.fromkeys(due, Attempts()), "epoch-1")
    run = instance.create_run_for_job(
        defs.resolve_job_def("index_documents"), run_config=made.run_config, tags=dict(made.tags), status=status
    )
    if status is DagsterRunStatus.FAILURE:
        instance.report_run_failed(run)


def keys(result: dg.SensorResult) -> list[str]:
    return [str(each.run_key) for each in result.run_requests or []]


def test_ranges_start_at_the_position_or_at_the_first_event_that_is_held() -> None:
    assert due_ranges(STATE, {1: 3, 2: 10}) == [Due(1, 3, 5), Due(2, 40, 50)]


def test_lost_events_are_counted_once_whichever_end_of_the_log_they_are_missing_from() -> None:
    before = REGISTRY.get_sample_value("tidemark_events_lost_total") or 0.0
    _alarm(STATE, {0: 7, 1: 3, 2: 10})
    assert REGISTRY.get_sample_value("tidemark_events_lost_total") == before + 7 + 30


def test_a_partition_never_read_starts_at_what_the_log_still_holds() -> None:
    assert due_ranges(STATE, {}) == [Due(1, 0, 5), Due(2, 40, 50)]


def test_a_range_is_bounded() -> None:
    state = TopicState("t", "e", {0: (0, 10 * EVENTS)})
    assert due_ranges(state, {}) == [Due(0, 0, EVENTS)]


def test_a_run_takes_neighbours_with_epoch_and_attempt_in_its_key(instance: dg.DagsterInstance) -> None:
    result = decide(instance, STATE, {1: 3, 2: 45}, NOW)
    assert keys(result) == ["epoch-1:1:3-5,2:45-50:0"]
    (asked,) = result.run_requests or []
    assert [asked.partition_key, *(asked.tags[tag] for tag in RANGE_TAGS)] == [None, "1", "2"]
    assert asked.run_config["ops"]["parsed_documents"]["config"]["offsets"] == {"1": [3, 5], "2": [45, 50]}


@pytest.mark.parametrize(
    ("partitions", "groups"),
    [
        ([0, 1, 2], ["e:0:0-9,1:0-9:0", "e:2:0-9:0"]),  # two at most
        ([0, 2, 3], ["e:0:0-9:0", "e:2:0-9,3:0-9:0"]),  # a range has no gaps
        ([5], ["e:5:0-9:0"]),
        ([], []),
    ],
)
def test_only_neighbours_share_a_run_and_no_more_than_set(partitions: list[int], groups: list[str]) -> None:
    made = requests({Due(partition, 0, 9): Attempts() for partition in partitions}, "e", most=2)
    assert [each.run_key for each in made] == groups
    assert all(each.partition_key or len(each.tags) == 4 for each in made)


def test_a_partition_that_failed_runs_alone() -> None:
    ready = {
        Due(0, 0, 9): Attempts(),
        Due(1, 0, 9): Attempts(2, NOW),
        Due(2, 0, 9): Attempts(),
        Due(3, 0, 9): Attempts(),
    }
    assert [each.run_key for each in requests(ready, "e", most=4)] == ["e:0:0-9:0", "e:1:0-9:2", "e:2:0-9,3:0-9:0"]


@pytest.mark.parametrize("status", [DagsterRunStatus.NOT_STARTED, DagsterRunStatus.STARTED, DagsterRunStatus.CANCELING])
def test_no_second_request_while_one_is_in_flight(instance: dg.DagsterInstance, status: DagsterRunStatus) -> None:
    a_run(instance, status, Due(1, 0, 3), Due(2, 0, 50))
    assert keys(decide(instance, STATE, {1: 3, 2: 50}, NOW)) == []


def test_a_failed_range_waits_and_is_asked_for_under_a_new_key(instance: dg.DagsterInstance) -> None:
    a_run(instance, DagsterRunStatus.FAILURE, Due(1, 3, 5), Due(2, 45, 50))
    (record,) = instance.get_run_records()
    assert record.end_time is not None
    soon = decide(instance, STATE, {1: 3, 2: 50}, record.end_time + 1)
    assert keys(soon) == []
    assert "attempt 2" in str(soon.skip_reason)
    assert keys(decide(instance, STATE, {1: 3, 2: 50}, record.end_time + 11)) == ["epoch-1:1:3-5:1"]


def test_the_wait_between_attempts_doubles_up_to_a_bound() -> None:
    waits = [Attempts(failed, NOW).wait(NOW) for failed in (0, 1, 2, 3, 50)]
    assert waits == [0, 10, 20, 40, 600]


def test_nothing_due_is_said(instance: dg.DagsterInstance) -> None:
    assert decide(instance, STATE, {1: 5, 2: 50}, NOW).skip_reason is not None
