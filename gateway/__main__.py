"""``python -m gateway``: serve the API with the settings of the environment until told to stop."""

from __future__ import annotations

import asyncio
import logging
import signal

import httpx
import uvicorn

from gateway.app import create_app
from gateway.connections import patient
from gateway.identity import Verifier
from gateway.issuer import IssuerKeys
from gateway.limits import RateLimit
from rag import settings as configuration
from rag import telemetry, wiring

GRACE = 10  # seconds that requests in flight have to end
ISSUER_TIMEOUT = 3.0


async def serve(settings: configuration.Settings) -> None:
    async with wiring.services(settings) as services, httpx.AsyncClient(timeout=ISSUER_TIMEOUT) as client:
        allow_http = settings.tidemark_environment == "development" or "OIDC_ISSUER" in settings.allow_insecure
        keys = IssuerKeys(settings.oidc_issuer, client, allow_http=allow_http)
        verifier = Verifier(
            keys,
            audience=settings.oidc_audience,
            tenant_claim=settings.oidc_tenant_claim,
            groups_claim=settings.oidc_groups_claim,
            types=settings.oidc_token_types,
        )
        limits = RateLimit(settings.rate_limit, settings.redis_url.get_secret_value())
        app = create_app(services, verifier, limits)
        # no access log: metrics count requests, spans time them, and query strings hold what people look for
        config = uvicorn.Config(
            app,
            host=settings.gateway_host,
            port=settings.gateway_port,
            log_config=None,
            access_log=False,
            server_header=False,
            http=patient(settings.gateway_patience_seconds),
            ws="none",
            timeout_graceful_shutdown=GRACE,
        )
        await uvicorn.Server(config).serve()


class _Forward(logging.Handler):
    """Libraries' log lines as JSON like our own."""

    def emit(self, record: logging.LogRecord) -> None:
        log = telemetry.logger(record.name)
        log.log(record.levelno, record.getMessage(), exc_info=record.exc_info or None)


def main() -> None:
    settings = configuration.load()
    if not settings.oidc_issuer:
        raise SystemExit("OIDC_ISSUER is not set: name the issuer whose tokens are accepted")
    telemetry.configure("gateway", otlp_endpoint=settings.otel_exporter_otlp_endpoint, level=settings.log_level)
    logging.basicConfig(level=logging.WARNING, handlers=[_Forward()])
    # uvicorn stops at these signals and then raises them again: what is below it still has connections to close
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: None)
    asyncio.run(serve(settings))
    telemetry.flush()


if __name__ == "__main__":
    main()
