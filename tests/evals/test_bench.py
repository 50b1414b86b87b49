"""The bench without its groups: the choice, the order, failures, the table and the JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from evals import bench, bench_report
from evals.bench import Bench, chosen, run, write_json
from evals.figures import Aim, Figure
from evals.groups import GROUPS, Group
from evals.options import SMALL, Options, sizes
from rag.errors import Rejected, Unavailable


async def fine(options: Options, say: object) -> list[Figure]:
    return [
        Figure("quick enough", 5.0, "ms", Aim("<=", 10.0), 3, "where [the] rest goes"),
        Figure("too slow", 20.0, "ms", Aim("<=", 10.0)),
    ]


async def failing(options: Options, say: object) -> list[Figure]:
    raise Unavailable("the [server] is gone")


@pytest.fixture
def groups(monkeypatch: pytest.MonkeyPatch) -> Mapping[str, Group]:
    table = {
        "first": Group("one", failing),
        "second": Group("two", fine),
        "third": Group("three", failing, lambda: "no server here"),
    }
    monkeypatch.setattr(bench, "GROUPS", table)
    return table


async def _run(*names: str, options: Options = SMALL) -> tuple[Bench, list[Bench]]:
    so_far: list[Bench] = []
    return await run(names, options, lambda text: None, so_far.append), so_far


def _printed(found: Bench) -> str:
    out = StringIO()
    bench_report.show(found, Console(file=out, width=200))
    return out.getvalue()


def test_groups_run_in_the_order_of_the_table_and_unknown_ones_are_refused() -> None:
    assert chosen([]) == list(GROUPS)
    assert chosen(["speed", "embeddings"]) == ["embeddings", "speed"]
    with pytest.raises(Rejected, match="'sped' is not one of embeddings"):
        chosen(["sped"])


async def test_a_failing_group_is_reported_and_the_others_still_run(groups: Mapping[str, Group]) -> None:
    found, so_far = await _run()
    assert [(each.group, bool(each.failure), bool(each.skipped), len(each.figures)) for each in found.results] == [
        ("first", True, False, 0), ("second", False, False, 2), ("third", False, True, 0),
    ]  # fmt: skip
    assert [len(each.results) for each in so_far] == [1, 2, 3]
    assert not found.is_right


async def test_a_slow_figure_does_not_fail_the_bench(groups: Mapping[str, Group]) -> None:
    assert (await _run("second", "third"))[0].is_right


async def test_the_table_shows_each_figure_beside_its_aim(groups: Mapping[str, Group]) -> None:
    text = _printed((await _run())[0])
    for expected in ("quick enough", "5 ms", "<= 10", "0.50", "reached", "2.00", "NOT REACHED", "where [the] rest goes",
                     "1 of 2 aims reached", "FAILED first: Unavailable: the [server] is gone", "SKIPPED third: no server here",
                     "small pass", "cores", "load"):  # fmt: skip
        assert expected in text


async def test_a_full_pass_has_no_word_of_a_small_one(groups: Mapping[str, Group]) -> None:
    assert "small pass" not in _printed((await _run("second", options=Options()))[0])


async def test_the_json_has_the_sizes_the_machine_and_every_figure(groups: Mapping[str, Group], tmp_path: Path) -> None:
    found, _ = await _run()
    write_json(found, tmp_path / "folder" / "bench.json")
    written = json.loads((tmp_path / "folder" / "bench.json").read_text())
    assert written["options"]["is_small"] is True
    assert written["machine"]["cores"] > 0
    assert [each["group"] for each in written["results"]] == ["first", "second", "third"]
    quick, slow = written["results"][1]["figures"]
    assert (quick["value"], quick["aim"], quick["is_reached"]) == (5.0, {"sign": "<=", "limit": 10.0}, True)
    assert (slow["is_reached"], slow["share_of_aim"]) == (False, 2.0)


def test_given_sizes_replace_those_of_the_pass() -> None:
    assert sizes(small=True, keep=False, events=7, chunks=None).events == 7
    assert sizes(small=True, keep=True, events=None).chunks == SMALL.chunks
    assert sizes(small=False, keep=False).events == 1_000_000


def test_numbers_keep_three_digits_or_all_of_a_whole_number() -> None:
    assert [bench_report.number(each) for each in (0.0, 3.0, 1_000_000.0, 0.6543, 12.345, 257.4)] == [
        "0", "3", "1,000,000", "0.654", "12.3", "257",
    ]  # fmt: skip
