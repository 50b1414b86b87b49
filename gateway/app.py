"""The application: the routes and their middleware. Decisions are made elsewhere."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from fastapi import FastAPI

from gateway import access, answers, audit, auditing, docs, documents, erasures, health, holds, keys, problems, search
from gateway.identity import Verifier
from gateway.limits import RateLimit
from gateway.middleware import FORM_OVERHEAD, BoundedBody, Observed
from gateway.openapi import PROBLEMS
from governance.checkpoints import Checkpoints, anchor_forever
from governance.signing import Signer
from rag.errors import Unavailable
from rag.telemetry import logger

if TYPE_CHECKING:
    from rag.wiring import Services

GRACE = 5.0  # seconds that the last checkpoint may take


def create_app(services: Services, verifier: Verifier, *, redis_url: str | None = None) -> FastAPI:
    """Build the application. Without ``redis_url``, its limits are counted in this process alone."""
    settings = services.settings

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        await _prepare(services)
        anchoring = asyncio.create_task(
            anchor_forever(services.ledger, app.state.checkpoints, settings.audit_checkpoint_seconds)
        )
        yield
        await app.state.trail.close()
        anchoring.cancel()  # which anchors what was written last
        await asyncio.wait({anchoring}, timeout=GRACE)

    app = FastAPI(
        title="Tidemark",
        version="1",
        summary="Answers with evidence from the documents that the caller may see.",
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        openapi_url=None,
        # its spans would continue the caller's trace and hold query strings and addresses; gateway.middleware makes ours
        telemetry={
            "tracing": False,
            "metrics": False,
            "logs": False,
            "operation_spans": False,
            "auto_configure": False,
        },
        redirect_slashes=False,  # a redirect would lead to the host in the Host header, which the caller chooses
        responses=PROBLEMS,
    )
    app.state.services, app.state.verifier = services, verifier
    app.state.limits = RateLimit(settings.rate_limit, redis_url)
    app.state.failed_logins = RateLimit(settings.failed_login_limit, redis_url, counted="refused tokens")
    app.state.signer = Signer.load(settings.required_signing_key, settings.signing_public_keys)
    app.state.checkpoints = Checkpoints(services.objects, settings.audit_folder, app.state.signer)
    problems.install(app)
    auditing.install(app)
    for router in (
        search.router,
        answers.router,
        documents.router,
        access.router,
        holds.router,
        erasures.router,
        audit.router,
        keys.router,
        health.router,
    ):
        app.include_router(router)
    docs.install(app, issuer=verifier.keys, client_id=settings.oidc_docs_client_id)
    app.add_middleware(BoundedBody, bounds={documents.PATH: settings.upload_bytes + FORM_OVERHEAD})
    app.add_middleware(Observed, https=settings.gateway_url.startswith("https://"))
    return app


async def _prepare(services: Services) -> None:
    """Create the index of this image's pipeline, so that the first question finds an empty index rather than none.

    A gateway with a read-only key cannot create it. Then it is not ready until a writer has.
    """
    try:
        await services.pipeline.prepare()
    except Unavailable as error:
        logger(__name__).warning("not_prepared", why=str(error))
