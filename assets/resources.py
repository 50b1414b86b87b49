"""The resource of assets, sensors and schedules: a factory that opens the services on the current event loop."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager

import dagster as dg

from rag.errors import LostEvents, Unavailable
from rag.settings import Settings, load
from rag.telemetry import configure, flush, samples
from rag.wiring import Services, services

OpenServices = Callable[[], AbstractAsyncContextManager[Services]]
RunContext = dg.AssetExecutionContext | dg.AssetCheckExecutionContext | dg.OpExecutionContext

RETRIES = 6  # of a step, in place
FIRST_WAIT, LONGEST_WAIT = (
    2.0,
    60.0,
)  # seconds before a retry; all waits add up to two minutes, longer than a broker's restart


def services_factory(settings: Settings | None = None) -> OpenServices:
    """Make the factory for ``settings``. The default settings are the environment's, read at the first use and not at import."""

    @asynccontextmanager
    async def open_services() -> AsyncIterator[Services]:
        chosen = settings or load()
        configure("dagster", otlp_endpoint=chosen.otel_exporter_otlp_endpoint, level=chosen.log_level)
        before = samples()
        async with services(chosen) as opened:
            try:
                yield opened
            finally:
                # A run's process ends with the run, so its measurements are kept in the ledger.
                grown = {key: value - before.get(key, 0.0) for key, value in samples().items()}
                await opened.ledger.add({key: value for key, value in grown.items() if value > 0})
                flush()

    return open_services


def services_resource(settings: Settings | None = None) -> dg.ResourceDefinition:
    """Return the factory as the resource ``tidemark``."""
    return dg.ResourceDefinition.hardcoded_resource(
        services_factory(settings),
        description="Opens Kafka, ledger, vector index, object stores and pipeline, as the settings describe them.",
    )


@asynccontextmanager
async def open_for_run(context: RunContext, tidemark: OpenServices) -> AsyncIterator[Services]:
    """Open the services for one step. The step is attempted again in its run when a dependency is unavailable.

    Any other error fails the step at once, and so do lost events: another attempt would read the same range.
    """
    try:
        async with tidemark() as opened:
            yield opened
    except LostEvents:
        raise
    except Unavailable as error:
        wait = error.retry_after or min(FIRST_WAIT * 2.0**context.retry_number, LONGEST_WAIT)
        context.log.warning(f"a dependency is unavailable, next attempt in {wait:.0f} s: {error}")
        raise dg.RetryRequested(max_retries=RETRIES, seconds_to_wait=wait) from error
