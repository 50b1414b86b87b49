"""The group ``qdrant``: searches against the real Qdrant of QDRANT_TEST_URL, with a gateway and a lane of their own.

Only the collection of the run is written, and it is deleted at the end. A collection of the same name is never touched.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import AsyncExitStack
from dataclasses import replace

import httpx

from evals.figures import Figure
from evals.generated_texts import questions, texts
from evals.lane_workers import STACK, lane_workers
from evals.loading import load
from evals.local_stack import temporary_stack
from evals.options import Options, Say
from evals.own_process import free_port, own_process
from evals.searching import CALLERS, WARM_UP, caller, search
from evals.speed import searching_figures
from rag.errors import Unavailable
from rag.settings import Settings
from rag.settings import load as load_settings
from rag.wiring import services

URL, KEY, READ_ONLY_KEY = "QDRANT_TEST_URL", "QDRANT_TEST_API_KEY", "QDRANT_TEST_READ_ONLY_API_KEY"
PER_SECOND = 400.0  # searches of eight callers that are the aim here
DIMENSIONS = 383  # of the hash embedder, which no index of a deployment has: the collection is this bench's own


async def real_qdrant(options: Options, say: Say) -> list[Figure]:
    """Measure searches of documents that a lane has written to the real Qdrant."""
    environment = _environment()
    async with temporary_stack(keep=options.keep, only=STACK, settings={"EMBEDDER": "hash"}) as folder:
        settings = _settings(load_settings(folder), environment)
        async with AsyncExitStack() as running:
            opened = await running.enter_async_context(services(settings))
            if await opened.vectors.exists(opened.spec.index_id):
                raise Unavailable(
                    f"collection {opened.spec.collection} exists in {settings.qdrant_url}: delete it first"
                )
            running.push_async_callback(_delete, settings, opened.spec.collection)
            lanes = await running.enter_async_context(lane_workers(1, folder, opened, environment))
            say(f"loading {options.documents} documents into {settings.qdrant_url}")
            await load(texts(options.documents), "qdrant", opened, own=lanes)
            ready = f"{settings.gateway_url}/readyz"
            gateway = await running.enter_async_context(
                own_process(folder, "gateway", ready=ready, settings=environment)
            )
            own = {**lanes, "gateway": gateway}
            asked = questions(WARM_UP + 2 * options.searches)
            client = await running.enter_async_context(caller(settings))
            await search(client, asked[:WARM_UP], 1, settings, own)
            say(f"{options.searches} searches of one caller, then of {CALLERS}")
            one = await search(client, asked[WARM_UP : WARM_UP + options.searches], 1, settings, own)
            many = await search(client, asked[WARM_UP + options.searches :], CALLERS, settings, own)
    return [_named(each) for each in searching_figures(one, many, PER_SECOND)]


def _environment() -> dict[str, str]:
    port, metrics = free_port(), free_port()
    return {
        "EMBEDDER": "hash",
        "EMBEDDER_DIMENSIONS": str(DIMENSIONS),
        "QDRANT_URL": os.environ[URL],
        "QDRANT_API_KEY": os.environ.get(KEY, ""),
        "QDRANT_READ_ONLY_API_KEY": os.environ.get(READ_ONLY_KEY) or os.environ.get(KEY, ""),
        "GATEWAY_PORT": str(port),
        "GATEWAY_URL": f"http://127.0.0.1:{port}",
        "GATEWAY_METRICS_PORT": str(metrics),
    }


def _settings(stack: Settings, environment: Mapping[str, str]) -> Settings:
    """Return the settings of the stack with those of the environment in their place."""
    given = {name.lower(): value for name, value in environment.items()}
    return Settings.model_validate({**stack.model_dump(), **given})


async def _delete(settings: Settings, collection: str) -> None:
    key = settings.qdrant_api_key.get_secret_value() if settings.qdrant_api_key else ""
    async with httpx.AsyncClient(base_url=settings.qdrant_url, headers={"api-key": key}, timeout=60) as client:
        (await client.delete(f"/collections/{collection}")).raise_for_status()


def _named(figure: Figure) -> Figure:
    return replace(figure, name=f"real Qdrant: {figure.name}")
