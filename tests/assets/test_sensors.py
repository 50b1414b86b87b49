from __future__ import annotations

from collections.abc import Iterator

import dagster as dg
import pytest
from dagster import DagsterRunStatus

from assets.definitions import definitions
from assets.partitions import EVENTS, RANGE_TAGS
from assets.sensors import INDEX_TAG, TAG, Attempts, Due, due_ranges, in_flight, requests
from assets.sensors import decide as decide_on
from rag.ports import TopicState
from tests.assets.settings import SETTINGS

NOW = 1_800_000_000.0
RANGES = {0: (0, 0), 1: (0, 5), 2: (40, 50)}
STATE = TopicState("documents.changed.v1", "epoch-1", RANGES)


def decide(instance: dg.DagsterInstance, state: TopicState, positions: dict[int, int], now: float) -> dg.SensorResult:
    return decide_on(instance, "i", state, positions, in_flight(instance), now)


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.ephemeral() as ephemeral:
        yield ephemeral


def a_run(instance: dg.DagsterInstance, status: DagsterRunStatus, *due: Due) -> None:
    (request,) = requests(dict.fromkeys(due, Attempts()), "i", "epoch-1")
    run = instance.create_run_for_job(
        definitions(SETTINGS).resolve_job_def("index_documents"),
        run_config=request.run_config,
        tags=dict(request.tags),
        status=status,
    )
    if status is DagsterRunStatus.FAILURE:
        instance.report_run_failed(run)


def keys(result: dg.SensorResult) -> list[str]:
    return [str(each.run_key) for each in result.run_requests or []]


def test_ranges_start_at_the_position_or_at_the_first_event_that_the_log_holds() -> None:
    assert due_ranges(STATE, {1: 3, 2: 10}) == [Due(1, 3, 5), Due(2, 40, 50)]


def test_a_partition_that_was_never_read_starts_at_the_first_event_in_the_log() -> None:
    assert due_ranges(STATE, {}) == [Due(1, 0, 5), Due(2, 40, 50)]


def test_a_range_is_bounded() -> None:
    state = TopicState("t", "e", {0: (0, 10 * EVENTS)})
    assert due_ranges(state, {}) == [Due(0, 0, EVENTS)]


def test_a_run_takes_neighbours_with_epoch_and_attempt_in_its_key(instance: dg.DagsterInstance) -> None:
    result = decide(instance, STATE, {1: 3, 2: 45}, NOW)
    assert keys(result) == ["i epoch-1 1: 3-5, 2: 45-50 after none"]
    (request,) = result.run_requests or []
    assert [request.partition_key, *(request.tags[tag] for tag in RANGE_TAGS)] == [None, "1", "2"]
    assert request.run_config["ops"]["parsed_documents"]["config"]["offsets"] == {"1": [3, 5], "2": [45, 50]}


@pytest.mark.parametrize(
    ("partitions", "groups"),
    [
        ([0, 1, 2], ["0: 0-9, 1: 0-9", "2: 0-9"]),  # two at most
        ([0, 2, 3], ["0: 0-9", "2: 0-9, 3: 0-9"]),  # a range has no gaps
        ([5], ["5: 0-9"]),
        ([], []),
    ],
)
def test_only_neighbours_share_a_run_and_no_more_than_set(partitions: list[int], groups: list[str]) -> None:
    ready = {Due(partition, 0, 9): Attempts() for partition in partitions}
    assert [each.tags[TAG] for each in requests(ready, "i", "e", most=2)] == groups


@pytest.mark.parametrize("partitions", [[5], [2, 3]])
def test_a_run_has_two_readable_tags_beside_those_of_dagster(partitions: list[int]) -> None:
    (request,) = requests({Due(partition, 0, 9): Attempts() for partition in partitions}, "i", "e")
    assert [tag for tag in request.tags if not tag.startswith("dagster/")] == [TAG, INDEX_TAG]


def test_a_partition_that_failed_runs_alone() -> None:
    ready = {
        Due(0, 0, 9): Attempts(),
        Due(1, 0, 9): Attempts(2, NOW, "run-7"),
        Due(2, 0, 9): Attempts(),
        Due(3, 0, 9): Attempts(),
    }
    assert [each.run_key for each in requests(ready, "i", "e", most=4)] == [
        "i e 0: 0-9 after none",
        "i e 1: 0-9 after run-7",
        "i e 2: 0-9, 3: 0-9 after none",
    ]


@pytest.mark.parametrize("status", [DagsterRunStatus.NOT_STARTED, DagsterRunStatus.STARTED, DagsterRunStatus.CANCELING])
def test_no_second_request_while_one_is_in_flight(instance: dg.DagsterInstance, status: DagsterRunStatus) -> None:
    a_run(instance, status, Due(1, 0, 3), Due(2, 0, 50))
    assert keys(decide(instance, STATE, {1: 3, 2: 50}, NOW)) == []


def test_a_failed_range_waits_and_is_requested_under_a_new_key(instance: dg.DagsterInstance) -> None:
    a_run(instance, DagsterRunStatus.FAILURE, Due(1, 3, 5), Due(2, 45, 50))
    (record,) = instance.get_run_records()
    assert record.end_time is not None
    soon = decide(instance, STATE, {1: 3, 2: 50}, record.end_time + 1)
    assert keys(soon) == []
    assert "attempt 2" in str(soon.skip_reason)
    assert keys(decide(instance, STATE, {1: 3, 2: 50}, record.end_time + 11)) == [
        f"i epoch-1 1: 3-5 after {record.dagster_run.run_id}"
    ]


def test_the_wait_grows_with_each_failed_attempt_at_a_range(instance: dg.DagsterInstance) -> None:
    for _ in range(3):
        a_run(instance, DagsterRunStatus.FAILURE, Due(1, 3, 5))
    ended = max(record.end_time or 0.0 for record in instance.get_run_records())
    assert "attempt 4 in 40 s" in str(decide(instance, STATE, {1: 3, 2: 50}, ended).skip_reason)


def test_failures_of_another_epoch_or_start_do_not_count(instance: dg.DagsterInstance) -> None:
    a_run(instance, DagsterRunStatus.FAILURE, Due(1, 2, 5))
    assert keys(decide(instance, STATE, {1: 3, 2: 50}, NOW - 1e9)) == ["i epoch-1 1: 3-5 after none"]
    renamed = TopicState(STATE.topic, "epoch-2", STATE.bounds)
    assert keys(decide(instance, renamed, {1: 2, 2: 50}, NOW - 1e9)) == ["i epoch-2 1: 2-5 after none"]


def test_waiting_events_show_as_an_update_of_the_topic(instance: dg.DagsterInstance) -> None:
    (event,) = decide(instance, STATE, {1: 3, 2: 50}, NOW).asset_events
    assert (event.asset_key.path[-1], event.partition) == (STATE.topic, "1")
    assert {name: value.value for name, value in event.metadata.items()} == {
        "next offset": 3,
        "end offset": 5,
        "waiting": 2,
    }


def test_the_wait_between_attempts_doubles_up_to_a_bound() -> None:
    waits = [Attempts(failed, NOW).wait(NOW) for failed in (0, 1, 2, 3, 50)]
    assert waits == [0, 10, 20, 40, 600]


def test_a_tick_with_nothing_due_gives_its_reason(instance: dg.DagsterInstance) -> None:
    assert decide(instance, STATE, {1: 5, 2: 50}, NOW).skip_reason is not None


def test_a_run_of_another_index_over_the_same_range_blocks_nothing(instance: dg.DagsterInstance) -> None:
    """During a change of images two indexes follow the same topic. Equal ranges once stayed stuck for ever."""
    a_run(instance, DagsterRunStatus.STARTED, Due(1, 3, 5))
    a_run(instance, DagsterRunStatus.FAILURE, Due(2, 45, 50))
    other = decide_on(instance, "another", STATE, {1: 3, 2: 45}, in_flight(instance), NOW)
    assert keys(other) == ["another epoch-1 1: 3-5, 2: 45-50 after none"]
