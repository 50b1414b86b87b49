"""External assets show an update when their values changed, and an observation otherwise."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any

import dagster as dg

from assets.sources import changes_since, observed_sources
from tests.assets.settings import SETTINGS
from tests.fakes.world import SPEC, World

KEY = dg.AssetKey(["sources", "s3"])


def test_the_first_look_and_each_change_are_updates_and_the_rest_observations() -> None:
    events, cursor = changes_since(None, {KEY: {"live": 3}})
    assert [type(each) for each in events] == [dg.AssetMaterialization]
    events, cursor = changes_since(cursor, {KEY: {"live": 3}})
    assert [type(each) for each in events] == [dg.AssetObservation]
    events, _ = changes_since(cursor, {KEY: {"live": 4}})
    assert [type(each) for each in events] == [dg.AssetMaterialization]
    assert events[0].metadata["live"].value == 4


def test_the_sensor_counts_the_documents_of_each_source_that_is_not_a_warehouse() -> None:
    world = World()

    async def index() -> None:
        await world.put("a.md")
        await world.put("b.md")
        await world.run_lane()

    asyncio.run(index())

    @asynccontextmanager
    async def tidemark() -> AsyncIterator[Any]:
        yield SimpleNamespace(spec=SPEC, ledger=world.ledger, settings=SETTINGS)

    context = dg.build_sensor_context(resources={"tidemark": tidemark})
    result: Any = observed_sources(context)
    counts = {each.asset_key.path[-1]: each.metadata for each in result.asset_events}
    assert set(counts) == {"s3", "folder", "uploads"}
    assert counts["s3"]["live"].value == 2
    assert not result.run_requests
