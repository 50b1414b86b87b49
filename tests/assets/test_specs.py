"""A snapshot of the asset graph: a renamed asset, a lost edge or a changed partition shows in the diff of ``specs.json``."""

from __future__ import annotations

import importlib
import json
from functools import cache
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from assets.policy import OWNERS, explain, govern
from deploy.local.dagster.instance import LOCATIONS
from tests.assets.settings import SETTINGS

SNAPSHOT = Path(__file__).parent / "specs.json"
SNOWFLAKE = pytest.param("snowflake_assets", marks=pytest.mark.heavy)  # its SDK takes seconds to import
each_location = pytest.mark.parametrize("location", ["assets", SNOWFLAKE])


@cache
def described(name: str) -> dict[str, Any]:
    """The parts of a code location that people see. ``name`` is that of the location in Dagster's workspace."""
    location = importlib.import_module(LOCATIONS[name]).definitions(SETTINGS)
    specs = sorted((spec for each in location.assets or [] for spec in _specs(each)), key=lambda spec: spec.key)
    checks = [spec for each in location.asset_checks or [] for spec in each.check_specs]  # type: ignore[union-attr]
    repository = location.get_repository_def()
    return {
        "assets": {spec.key.to_user_string(): _asset(spec) for spec in specs},
        "checks": {spec.key.to_user_string(): _check(spec) for spec in sorted(checks, key=lambda spec: spec.key)},
        "jobs": {job.name: job.description for job in repository.get_all_jobs() if not job.name.startswith("__")},
        "sensors": {each.name: each.description for each in repository.sensor_defs},
        "schedules": {each.name: [each.cron_schedule, each.description] for each in repository.schedule_defs},
        "resources": {
            name: (each.description or "").splitlines()[0]
            for name, each in repository.get_top_level_resources().items()
        },
    }


def _specs(asset: Any) -> list[dg.AssetSpec]:
    return [asset] if isinstance(asset, dg.AssetSpec) else list(asset.specs)


def _asset(spec: dg.AssetSpec) -> dict[str, Any]:
    return {
        "deps": sorted(dep.asset_key.to_user_string() for dep in spec.deps),
        "group": spec.group_name,
        "owners": [*spec.owners],
        "kinds": sorted(spec.kinds),
        "partitions": _partitions(spec.partitions_def),
        "description": spec.description,
    }


def _check(spec: dg.AssetCheckSpec) -> dict[str, Any]:
    return {"partitions": _partitions(spec.partitions_def), "blocking": spec.blocking, "description": spec.description}


def _partitions(definition: dg.PartitionsDefinition | None) -> str | None:
    return " ".join(definition.get_partition_keys()) if definition else None


@each_location
def test_the_asset_graph_is_the_recorded_one(location: str, request: pytest.FixtureRequest) -> None:
    recorded = json.loads(SNAPSHOT.read_text())
    graph = described(location)
    if request.config.getoption("--snapshot", default=False):
        recorded[location] = graph
        SNAPSHOT.write_text(json.dumps(recorded, indent=2, ensure_ascii=False) + "\n")
    assert recorded[location] == graph, "run pytest tests/assets/test_specs.py --snapshot and read the diff"


@pytest.mark.heavy
def test_the_graph_leads_from_every_source_to_the_index() -> None:
    assets = {key: spec for location in LOCATIONS for key, spec in described(location)["assets"].items()}
    upstream, waiting = set[str](), ["vector_index"]
    while waiting:
        key = waiting.pop()
        upstream.add(key)
        waiting += assets[key]["deps"]
    assert {key for key, spec in assets.items() if spec["group"] in ("sources", "snowflake")} <= upstream
    assert "kafka/documents.changed.v1" in upstream


@each_location
def test_everything_in_the_ui_has_a_description(location: str) -> None:
    graph = described(location)
    for kind in ("jobs", "sensors", "resources"):
        assert all(graph[kind].values()), graph[kind]
    assert all(description for _, description in graph["schedules"].values())


def test_an_asset_that_the_ui_could_not_explain_is_refused() -> None:
    with pytest.raises(dg.DagsterInvalidDefinitionError, match="a has no description and no kinds"):
        govern([dg.AssetSpec("a", group_name="index")])
    check = dg.AssetCheckSpec("c", asset="a")
    with pytest.raises(dg.DagsterInvalidDefinitionError, match="a:c has no description"):
        explain([dg.multi_asset_check(specs=[check], name="c", can_subset=True)(lambda: None)])
    (spec,) = govern([dg.AssetSpec("a", group_name="index", kinds={"python"}, description="An asset.")])
    assert tuple(spec.owners) == OWNERS
