from __future__ import annotations

from collections.abc import Iterator

import dagster as dg
import pytest
from dagster import DagsterRunStatus

from assets.definitions import defs
from assets.sensors import _SEEN, BULK, MOST_EVENTS, Attempts, Due, Seen, due_ranges, request
from assets.sensors import decide as decide_on
from rag.ports import TopicState

NOW = 1_800_000_000.0
RANGES = {0: (0, 0), 1: (0, 5), 2: (40, 50)}
STATE = TopicState("documents.changed.v1", "epoch-1", RANGES)


def decide(
    instance: dg.DagsterInstance, state: TopicState, positions: dict[int, int], now: float, seen: Seen | None = None
) -> dg.SensorResult:
    return decide_on(instance, state, positions, now, seen or Seen())


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.ephemeral() as made:
        yield made


def a_run(instance: dg.DagsterInstance, due: Due, status: DagsterRunStatus, attempt: int = 0) -> None:
    made = request(due, "epoch-1", Attempts(attempt))
    run = instance.create_run_for_job(
        defs.resolve_job_def("index_documents"), run_config=made.run_config, tags=dict(made.tags), status=status
    )
    if status is DagsterRunStatus.FAILURE:
        instance.report_run_failed(run)


def keys(result: dg.SensorResult) -> list[str]:
    return [str(each.run_key) for each in result.run_requests or []]


def test_ranges_start_at_the_position_and_lost_events_are_counted() -> None:
    assert due_ranges(STATE, {1: 3, 2: 10}) == [Due(1, 3, 5), Due(2, 40, 50, lost=30)]


def test_a_partition_never_read_starts_at_what_the_log_still_holds() -> None:
    assert due_ranges(STATE, {}) == [Due(1, 0, 5), Due(2, 40, 50)]


def test_a_range_is_bounded() -> None:
    state = TopicState("t", "e", {0: (0, 10 * MOST_EVENTS)})
    assert due_ranges(state, {}) == [Due(0, 0, MOST_EVENTS)]


def test_one_run_per_partition_with_epoch_and_attempt_in_its_key(instance: dg.DagsterInstance) -> None:
    result = decide(instance, STATE, {1: 3, 2: 45}, NOW)
    assert keys(result) == ["epoch-1:1:3-5:0", "epoch-1:2:45-50:0"]
    assert [each.partition_key for each in result.run_requests or []] == ["1", "2"]


@pytest.mark.parametrize("status", [DagsterRunStatus.NOT_STARTED, DagsterRunStatus.STARTED, DagsterRunStatus.CANCELING])
def test_no_second_request_while_one_is_in_flight(instance: dg.DagsterInstance, status: DagsterRunStatus) -> None:
    a_run(instance, Due(1, 0, 3), status)
    assert keys(decide(instance, STATE, {1: 3, 2: 50}, NOW)) == []


def test_a_failed_range_waits_and_is_asked_for_under_a_new_key(instance: dg.DagsterInstance) -> None:
    a_run(instance, Due(1, 3, 5), DagsterRunStatus.FAILURE)
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


def test_a_large_load_that_still_grows_waits_for_one_tick_only(instance: dg.DagsterInstance) -> None:
    def tick(end: int, cursor: str | None) -> dg.SensorResult:
        seen = _SEEN.validate_json(cursor) if cursor else Seen()
        return decide(instance, TopicState("t", "e", {0: (0, end)}), {}, NOW, seen)

    first = tick(BULK, None)
    assert keys(first) == []
    assert "more coming" in str(first.skip_reason)
    assert keys(tick(BULK, first.cursor)) == ["e:0:0-16:0"]
    assert keys(tick(3 * BULK, first.cursor)) == ["e:0:0-48:0"]


def test_a_small_change_is_never_made_to_wait(instance: dg.DagsterInstance) -> None:
    assert keys(decide(instance, TopicState("t", "e", {0: (0, BULK - 1)}), {}, NOW)) == ["e:0:0-15:0"]
