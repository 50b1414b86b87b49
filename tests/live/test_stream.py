"""The stream lane on the real stack: it takes changes without runs, and the Dagster lane takes over when it ends."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import psutil
import pytest

from deploy.local.processes import STREAM
from deploy.local.stack import ROOT, read_stack
from deploy.local.supervision import Supervisor
from tests.live.world import World, eventually

TEXT = "# Buoys\n\nThe buoy of bay seven is painted {colour}.\n"
_MATERIALIZATIONS = """
    query { assetOrError(assetKey: {path: ["vector_index"]}) { ... on Asset {
        assetMaterializations(limit: 20) { runId partition metadataEntries { label
            ... on IntMetadataEntry { intValue } ... on TextMetadataEntry { text } } } } } }
"""


@pytest.fixture(scope="module")
def world(stack: Mapping[str, str]) -> World:
    return World(stack)


@pytest.fixture(scope="module")
def supervisor(world: World) -> Iterator[Supervisor]:
    """The supervisor of the stack, with the stream lane started for this module."""
    local = read_stack(world.inbox.parent)
    assert local is not None
    _up(local.folder, "stream")
    yield Supervisor(local)
    _up(local.folder, "dagster")


def _up(folder: Path, lane: str) -> None:
    command = [sys.executable, "-m", "deploy.local", "up", "--dir", str(folder), "--lane", lane]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True, timeout=300)


def found(world: World, colour: str) -> list[dict[str, Any]]:
    return [hit for hit in world.search(f"buoy bay seven {colour}") if colour in hit["text"]]


def put(world: World, colour: str) -> dict[str, Any]:
    """Put the document with a new colour, and return the first hit that shows it."""
    world.put("buoys.md", TEXT.format(colour=colour))
    return eventually(lambda: found(world, colour), bool, f"the {colour} buoy is found")[0]


def test_an_edit_is_found_without_a_run(world: World, supervisor: Supervisor) -> None:
    first, second = put(world, "crimson"), put(world, "turquoise")
    assert all(hit["run_id"].startswith("stream") for hit in (first, second))
    assert found(world, "crimson") == []
    assert second["offset"] > first["offset"]


def test_dagster_shows_the_micro_batches_as_materializations_without_a_run(
    world: World, supervisor: Supervisor
) -> None:
    hit = put(world, "violet")

    def reported() -> list[dict[str, Any]]:
        shown = world.graphql(_MATERIALIZATIONS)["assetOrError"]["assetMaterializations"]
        values = [{"run": each["runId"], **{m["label"]: m.get("intValue", m.get("text")) for m in each["metadataEntries"]}}
                  for each in shown if each["partition"] == str(hit["partition"])]  # fmt: skip
        return [each for each in values if each.get("end offset") == hit["offset"] + 1]

    (seen,) = eventually(reported, lambda each: len(each) == 1, "the micro-batch is reported")
    assert (seen["run"], seen["documents"], seen["checks"]) == ("", 1, "4 of 4 passed")


def test_a_killed_lane_starts_again_and_loses_nothing(world: World, supervisor: Supervisor) -> None:
    process = psutil.Process(supervisor.states()[STREAM].pid or 0)
    process.kill()
    world.put("buoys.md", TEXT.format(colour="amber"))
    eventually(lambda: found(world, "amber"), bool, "the amber buoy is found")
    assert found(world, "violet") == []


def test_the_dagster_lane_takes_over_when_the_stream_lane_ends(world: World, supervisor: Supervisor) -> None:
    supervisor.stop(STREAM)
    hit = put(world, "emerald")
    assert hit["run_id"]
    assert not hit["run_id"].startswith("stream")
