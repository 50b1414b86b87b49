"""What assets, sensors and schedules are handed: a way to open the services on the current event loop."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager

from rag.settings import Settings, load
from rag.telemetry import configure, counted, flush
from rag.wiring import Services, services

Open = Callable[[], AbstractAsyncContextManager[Services]]


def opener(settings: Settings | None = None) -> Open:
    """Services of ``settings`` (default: the environment's, read at the first use, not at import)."""

    @asynccontextmanager
    async def opened() -> AsyncIterator[Services]:
        chosen = settings or load()
        configure("dagster", otlp_endpoint=chosen.otel_exporter_otlp_endpoint, level=chosen.log_level)
        before = counted()
        async with services(chosen) as made:
            try:
                yield made
            finally:
                # A run's process ends with the run: what it measured lives on in the ledger.
                grown = {key: value - before.get(key, 0.0) for key, value in counted().items()}
                await made.ledger.add({key: value for key, value in grown.items() if value > 0})
                flush()

    return opened
