"""Whether this process lives, whether it can answer, and what it and the Dagster runs have measured."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable
from typing import TYPE_CHECKING, Annotated, Any

from fastapi import APIRouter, Depends, Request
from fastapi.responses import JSONResponse, Response
from prometheus_client import CONTENT_TYPE_LATEST, REGISTRY, CollectorRegistry, generate_latest
from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from gateway.dependencies import Backend
from gateway.messages import DependencyMessage, ReadyMessage
from rag.errors import TidemarkError, Unavailable
from rag.telemetry import logger
from schemas.topics import CHANGED

if TYPE_CHECKING:
    from rag.wiring import Services

TIMEOUT = 3.0  # seconds a dependency has to answer
Totals = dict[tuple[str, tuple[tuple[str, str], ...]], float]
router = APIRouter(tags=["operation"])


@router.get("/healthz")
async def healthz() -> dict[str, str]:
    """This process lives."""
    return {"status": "ok"}


async def _issuer(request: Request) -> Callable[[], Awaitable[Any]]:
    return lambda: request.app.state.verifier.keys.candidates(None, "RS256")


@router.get("/readyz", responses={503: {"model": ReadyMessage}})
async def readyz(services: Backend, issuer: Annotated[Any, Depends(_issuer)]) -> Response:
    """Whether questions can be answered, and what is missing. Cache, events and objects are not needed for that."""
    checks = {"issuer": (issuer, True)} | _checks(services)
    found = await asyncio.gather(*(_look(name, look, required) for name, (look, required) in checks.items()))
    dependencies = dict(zip(checks, found, strict=True))
    ready = all(each.ok for each in found if each.required)
    message = ReadyMessage(ready=ready, dependencies=dependencies)
    return JSONResponse(message.model_dump(), 200 if ready else 503)


@router.get("/metrics")
async def metrics(services: Backend) -> Response:
    """Prometheus text: of this process, plus what finished runs left in the ledger."""
    try:
        totals = await services.ledger.totals()
    except Unavailable as error:
        logger(__name__).warning("totals_skipped", why=str(error))
        totals = {}
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Merged(totals))
    return Response(generate_latest(registry), media_type=CONTENT_TYPE_LATEST)


def _checks(services: Services) -> dict[str, tuple[Callable[[], Awaitable[Any]], bool]]:
    index_id, bucket = services.spec.index_id, services.settings.internal_bucket
    return {
        "ledger": (lambda: services.ledger.index_revision(index_id, "readyz"), True),
        "vectors": (lambda: services.vectors.count(index_id), True),
        "cache": (lambda: services.cache.get("readyz"), False),
        "events": (lambda: services.events.describe(CHANGED), False),
        "objects": (lambda: services.objects.head(f"s3://{bucket}/readyz"), False),
    }


async def _look(name: str, look: Callable[[], Awaitable[Any]], required: bool) -> DependencyMessage:
    """``why`` is for anybody who can reach the page: the log has the rest."""
    started, why = time.perf_counter(), ""
    try:
        async with asyncio.timeout(TIMEOUT):
            await look()
    except TimeoutError:
        why = f"no answer within {TIMEOUT:g} s"
    except TidemarkError as error:
        why = "does not answer"
        logger(__name__).warning("not_ready", dependency=name, why=str(error))
    except Exception as error:
        why = "answers unexpectedly"
        logger(__name__).error("not_ready", dependency=name, exc_info=error)
    return DependencyMessage(ok=not why, required=required, seconds=round(time.perf_counter() - started, 4), why=why)


class _Merged(Collector):
    """This process's families with ``totals`` (sample name, labels → value) added to their samples."""

    def __init__(self, totals: Totals) -> None:
        self._totals = dict(totals)

    def collect(self) -> Iterable[Metric]:
        for family in REGISTRY.collect():
            yield self._added(family) if family.type in {"counter", "histogram"} else family

    def _added(self, family: Metric) -> Metric:
        """Cumulative buckets add up; totals of names that no family declares are nobody's and are left out."""
        merged = Metric(family.name, family.documentation, family.type, family.unit)
        values = {(sample.name, tuple(sorted(sample.labels.items()))): sample.value for sample in family.samples}
        suffixes = ("_total",) if family.type == "counter" else ("_bucket", "_count", "_sum")
        names = {family.name + suffix for suffix in suffixes}
        for key, value in self._totals.items():
            if key[0] in names:
                values[key] = values.get(key, 0.0) + value
        for (name, labels), value in values.items():
            merged.add_sample(name, dict(labels), value)
        return merged
