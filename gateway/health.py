"""The health of this process: whether it lives, and whether it can answer."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Annotated, Any

from fastapi import APIRouter, Depends, Request
from fastapi.responses import JSONResponse, Response

from gateway.dependencies import Backend
from gateway.messages import DependencyMessage, ReadyMessage
from rag.errors import LostIndex, TidemarkError
from rag.ingest.pipeline import REBUILD_REMEDY
from rag.ingest.repair import require_rebuilt
from rag.telemetry import logger
from schemas.topics import CHANGED

if TYPE_CHECKING:
    from rag.wiring import Services

TIMEOUT = 3.0  # seconds a dependency has to answer
router = APIRouter(tags=["operation"])


@router.get("/healthz")
async def healthz() -> dict[str, str]:
    """Answer as long as this process lives."""
    return {"status": "ok"}


async def _issuer(request: Request) -> Callable[[], Awaitable[Any]]:
    return lambda: request.app.state.verifier.keys.candidates(None, "RS256")


@router.get("/readyz", responses={503: {"model": ReadyMessage}})
async def readyz(services: Backend, issuer: Annotated[Any, Depends(_issuer)]) -> Response:
    """Report whether questions can be answered, and each dependency. Cache, events and objects are not required for that."""
    checks = {"issuer": (issuer, True)} | _checks(services)
    found = await asyncio.gather(*(_look(name, look, required) for name, (look, required) in checks.items()))
    dependencies = dict(zip(checks, found, strict=True))
    ready = all(each.ok for each in found if each.required)
    message = ReadyMessage(ready=ready, dependencies=dependencies)
    return JSONResponse(message.model_dump(), 200 if ready else 503)


def _checks(services: Services) -> dict[str, tuple[Callable[[], Awaitable[Any]], bool]]:
    index_id, bucket = services.spec.index_id, services.settings.internal_bucket
    return {
        "ledger": (lambda: services.ledger.index_revision(index_id, "readyz"), True),
        "vectors": (lambda: services.vectors.count(index_id), True),
        "index": (lambda: require_rebuilt(services.pipeline, services.ledger), True),
        "cache": (lambda: services.cache.get("readyz"), False),
        "events": (lambda: services.events.describe(CHANGED), False),
        "objects": (lambda: services.objects.head(f"s3://{bucket}/readyz"), False),
    }


async def _look(name: str, look: Callable[[], Awaitable[Any]], required: bool) -> DependencyMessage:
    """Try one dependency. ``why`` is for anybody who can reach the page; the log has the details."""
    started, why = time.perf_counter(), ""
    try:
        async with asyncio.timeout(TIMEOUT):
            await look()
    except TimeoutError:
        why = f"no answer within {TIMEOUT:g} s"
    except LostIndex as error:
        why = f"lost, or not yet rebuilt: {REBUILD_REMEDY}"
        logger(__name__).error("not_ready", dependency=name, why=str(error))
    except TidemarkError as error:
        why = "does not answer"
        logger(__name__).warning("not_ready", dependency=name, why=str(error))
    except Exception as error:
        why = "answers unexpectedly"
        logger(__name__).error("not_ready", dependency=name, exc_info=error)
    return DependencyMessage(ok=not why, required=required, seconds=round(time.perf_counter() - started, 4), why=why)
