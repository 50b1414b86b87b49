"""The stream lane and erasures in Dagster's UI: materializations without a run, reported to the webserver.

The webserver's API for external assets takes JSON. Importing Dagster into a consumer would cost seconds and a hundred megabytes.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import httpx

from rag.telemetry import DEGRADED, logger

_log = logger(__name__)
SECONDS = 2.0  # that a report may take


class DagsterReports:
    """Reports of assets that Dagster did not run itself. A webserver that does not answer costs the report and nothing else."""

    def __init__(self, client: httpx.AsyncClient) -> None:
        self._client = client

    @classmethod
    @asynccontextmanager
    async def open(cls, url: str) -> AsyncIterator[DagsterReports]:
        async with httpx.AsyncClient(base_url=url, timeout=SECONDS) as client:
            yield cls(client)

    async def materialized(self, asset: str, metadata: Mapping[str, Any], *, partition: int | None = None) -> None:
        chosen = {} if partition is None else {"partition": str(partition)}
        await self._post(f"/report_asset_materialization/{asset}", {**chosen, "metadata": dict(metadata)})

    async def _post(self, path: str, body: Mapping[str, Any]) -> None:
        try:
            (await self._client.post(path, json=body)).raise_for_status()
        except httpx.HTTPError as error:
            DEGRADED.labels("dagster").inc()
            _log.warning("dagster.report_failed", path=path, why=type(error).__name__)
