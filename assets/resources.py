"""The resource of assets, sensors and schedules: a factory that opens the services on the current event loop."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager

from rag.settings import Settings, load
from rag.telemetry import configure, flush, samples
from rag.wiring import Services, services

OpenServices = Callable[[], AbstractAsyncContextManager[Services]]


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
