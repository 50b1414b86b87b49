"""The Snowflake code location on the real stack: observed tables, the check of their rows, and rows announced again."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from pathlib import Path

import dagster as dg
import pytest

from assets.resources import services_factory
from assets.snowflake_definitions import definitions, mapped_tables, snowflake
from assets.snowflake_tables import Observed, observe
from rag.settings import Settings, load
from tests.live.world import World, eventually


@pytest.fixture(scope="module")
def world(stack: Mapping[str, str]) -> World:
    world = World(stack)
    for number in range(3):
        world.sql(
            "insert into customers (id, name, notes, updated_at) values (%s, %s, %s, '2026-02-01 09:00:00+00:00')",
            f"77{number}", f"Harbour {number}", f"Harbour number {number} orders tide gauges.",
        )  # fmt: skip
    return world


@pytest.fixture
def settings(world: World) -> Settings:
    return load(Path(world.inbox).parent)


async def look(settings: Settings, table: str) -> Observed:
    (mapped,) = [each for each in mapped_tables(settings) if each.table.name == table]
    async with services_factory(settings)() as services:
        return await observe(mapped, snowflake(settings), services)


def test_every_mapped_table_is_an_asset(settings: Settings) -> None:
    keys = {spec.key.to_user_string() for spec in definitions(settings).resolve_all_asset_specs()}
    assert keys == {"snowflake/customers", "snowflake/tickets"}


def test_the_table_is_observed_with_its_rows_and_a_check_that_all_of_them_are_indexed(
    world: World, settings: Settings
) -> None:
    rows = world.sql("select count(*) from customers")[0][0]

    def observed() -> tuple[int, bool]:
        seen = asyncio.run(look(settings, "CUSTOMERS"))
        return int(seen.metadata["rows"]), seen.evaluation.passed

    assert eventually(observed, lambda seen: seen[1], "all rows are indexed") == (rows, True)


def test_the_sensor_reports_the_tables_and_the_check_runs_by_itself(settings: Settings) -> None:
    location = definitions(settings)
    with dg.DagsterInstance.ephemeral() as instance:
        context = dg.build_sensor_context(instance, resources=location.resources)
        tick = location.resolve_sensor_def("observed_tables").evaluate_tick(context)
        assert {each.asset_key.to_user_string() for each in tick.asset_events} == {
            "snowflake/customers", "snowflake/tickets",
        }  # fmt: skip
        checks = location.resolve_implicit_global_asset_job_def().execute_in_process(instance=instance)
        assert {each.check_name for each in checks.get_asset_check_evaluations()} == {"rows_are_indexed"}


def test_rows_are_announced_again(world: World, settings: Settings) -> None:
    job = definitions(settings).resolve_job_def("announce_rows_again")
    config = {"ops": {"announce_rows": {"config": {"table": "CUSTOMERS", "rows": 2}}}}
    assert job.execute_in_process(run_config=config).output_for_node("announce_rows") == 2
    announced = [event for event in world.events("documents.changed.v1") if event["origin"] == "sampler"]
    assert len(announced) == 2
    assert all("/rows/customers/" in event["uri"] for event in announced)
