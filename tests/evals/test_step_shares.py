from __future__ import annotations

from evals.step_shares import REST, parse, shares

PAGE = """
# TYPE tidemark_step_seconds histogram
tidemark_step_seconds_sum{step="parse"} 6.0
tidemark_step_seconds_sum{step="embed"} 2.0
# TYPE tidemark_stream_batch_seconds histogram
tidemark_stream_batch_seconds_sum 10.0
"""


def test_the_rest_of_a_batch_is_what_no_step_takes() -> None:
    assert parse(PAGE) == {"parse": 6.0, "embed": 2.0, REST: 2.0}


def test_shares_are_of_the_time_between_two_readings() -> None:
    assert shares({"parse": 5.0, "embed": 0.0}, {"parse": 6.0, "embed": 3.0}) == "embed 75%, parse 25%"
    assert shares({}, {"parse": 0.0}) == "parse 0%"
