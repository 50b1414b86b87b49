"""Searches over HTTP as callers send them: with a token, a filter and a ledger read."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

import httpx
import psutil

from evals.metrics import percentile
from evals.process_cpu import Cpu, cpu, spent
from rag.adapters.issuer import fetch_token
from rag.errors import Unavailable
from rag.settings import Settings

CALLERS = 8
WARM_UP = 50  # searches that are not measured: pools and caches are cold


@dataclass(frozen=True, slots=True)
class Searching:
    """Searches of ``callers`` at once, each of whom sends one after the other. ``cpu`` is process → seconds of CPU for one search."""

    callers: int
    n: int
    p50: float
    p95: float
    per_second: float
    cpu: Cpu


@asynccontextmanager
async def caller(settings: Settings) -> AsyncIterator[httpx.AsyncClient]:
    """Open a client with a token of the demo account, for as many callers as a bench has."""
    token = fetch_token(settings.oidc_issuer, settings.oidc_client_id, settings.oidc_client_secret)
    async with httpx.AsyncClient(
        base_url=settings.gateway_url,
        headers={"Authorization": f"Bearer {token}"},
        timeout=60,
        limits=httpx.Limits(max_connections=4 * CALLERS),
    ) as client:
        yield client


async def search(
    client: httpx.AsyncClient,
    questions: Sequence[str],
    callers: int,
    settings: Settings,
    own: Mapping[str, psutil.Process] | None = None,
) -> Searching:
    """Ask every question once. Raises Unavailable when a search finds nothing, because it would not measure a search."""
    seconds: list[float] = []
    waiting = iter(questions)

    async def call() -> None:
        for question in waiting:
            began = time.perf_counter()
            response = await client.post("/v1/search", json={"query": question, "top_k": 8})
            if not response.raise_for_status().json()["hits"]:
                raise Unavailable(f"a search for {question!r} found nothing: the index is not the one that was loaded")
            seconds.append(time.perf_counter() - began)

    before, began = cpu(settings, own), time.perf_counter()
    await asyncio.gather(*(call() for _ in range(callers)))
    elapsed = time.perf_counter() - began
    each = {name: used / len(questions) for name, used in spent(before, cpu(settings, own)).items()}
    return Searching(
        callers, len(questions), percentile(seconds, 0.5), percentile(seconds, 0.95), len(questions) / elapsed, each
    )
