"""The Snowflake code location on the real stack: what a table holds, whether it is indexed, and its rows announced again."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import dagster as dg
import pytest

from assets.resources import services_factory
from assets.snowflake_definitions import definitions, snowflake
from rag.settings import Settings, load
from tests.live.world import World, eventually


@pytest.fixture(scope="module")
def world(stack: Mapping[str, str]) -> World:
    made = World(stack)
    for number in range(3):
        made.sql(
            "insert into customers (id, name, notes, updated_at) values (%s, %s, %s, '2026-02-01 09:00:00+00:00')",
            f"77{number}", f"Harbour {number}", f"Harbour number {number} orders tide gauges.",
        )  # fmt: skip
    return made


@pytest.fixture
def settings(world: World) -> Settings:
    return load(Path(world.inbox).parent)


def materialized(settings: Settings, name: str, config: dict[str, object] | None = None) -> dg.ExecuteInProcessResult:
    assets = [asset for asset in definitions(settings).assets or [] if isinstance(asset, dg.AssetsDefinition)]
    result = dg.materialize(
        assets,
        selection=[dg.AssetKey(["snowflake", name])],
        resources={"tidemark": services_factory(settings), "snowflake": snowflake(settings)},
        run_config={"ops": {f"snowflake__{name}": {"config": config}}} if config else None,
    )
    assert result.success
    return result


def test_every_mapped_table_has_its_assets(settings: Settings) -> None:
    keys = {key.to_user_string() for asset in definitions(settings).assets or [] for key in asset.keys}  # type: ignore[union-attr]
    assert keys == {
        "snowflake/customers", "snowflake/customers_announced", "snowflake/tickets", "snowflake/tickets_announced",
    }  # fmt: skip


def test_the_table_says_what_it_holds_and_whether_all_of_it_is_indexed(world: World, settings: Settings) -> None:
    rows = world.sql("select count(*) from customers")[0][0]

    def observed() -> tuple[int, bool]:
        result = materialized(settings, "customers")
        (check,) = result.get_asset_check_evaluations()
        metadata = result.asset_materializations_for_node("snowflake__customers")[0].metadata
        return int(metadata["rows"].value), check.passed  # type: ignore[arg-type]

    assert eventually(observed, lambda seen: seen[1], "all rows are indexed") == (rows, True)


def test_the_sampler_announces_rows_again(world: World, settings: Settings) -> None:
    result = materialized(settings, "customers_announced", {"rows": 2})
    metadata = result.asset_materializations_for_node("snowflake__customers_announced")[0].metadata
    assert metadata["announced"].value == 2
    announced = [event for event in world.events("documents.changed.v1") if event["origin"] == "sampler"]
    assert len(announced) == 2
    assert all("/rows/customers/" in event["uri"] for event in announced)
