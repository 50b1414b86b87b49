"""``python -m gateway``: serve the API and the metrics with the settings of the environment until a signal."""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import uvicorn

from gateway import metrics
from gateway.app import create_app
from gateway.connections import patient
from gateway.identity import Verifier
from gateway.issuer import IssuerKeys
from rag import settings as configuration
from rag import telemetry, wiring

GRACE = 10  # seconds that requests in flight have to end
ISSUER_TIMEOUT = 3.0


async def serve(settings: configuration.Settings) -> None:
    async with (
        wiring.services(settings, reads_only=True) as services,
        httpx.AsyncClient(timeout=ISSUER_TIMEOUT) as client,
    ):
        allow_http = settings.tidemark_environment == "development" or "OIDC_ISSUER" in settings.allow_insecure
        keys = IssuerKeys(settings.oidc_issuer, client, allow_http=allow_http)
        verifier = Verifier(
            keys,
            audience=settings.oidc_audience,
            tenant_claim=settings.oidc_tenant_claim,
            groups_claim=settings.oidc_groups_claim,
            types=settings.oidc_token_types,
        )
        app = create_app(services, verifier, redis_url=settings.redis_url.get_secret_value())
        api = uvicorn.Server(_config(app, settings, settings.gateway_host, settings.gateway_port))
        measured = _Follower(
            _config(metrics.create_app(services), settings, settings.metrics_host, settings.gateway_metrics_port)
        )
        async with asyncio.TaskGroup() as group:
            group.create_task(measured.serve())
            await api.serve()
            measured.should_exit = True


def _config(app: Callable[..., Any], settings: configuration.Settings, host: str, port: int) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        host=host,
        port=port,
        log_config=None,
        access_log=False,  # metrics count requests, spans time them, and query strings hold questions
        server_header=False,
        proxy_headers=bool(settings.gateway_trusted_proxies),
        forwarded_allow_ips=settings.gateway_trusted_proxies,
        http=patient(settings.gateway_patience_seconds),
        ws="none",
        timeout_graceful_shutdown=GRACE,
    )


class _Follower(uvicorn.Server):
    """A server that leaves signals to another one and ends with it."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


class _Forward(logging.Handler):
    """A handler that writes libraries' log lines as JSON like our own."""

    def emit(self, record: logging.LogRecord) -> None:
        log = telemetry.logger(record.name)
        log.log(record.levelno, record.getMessage(), exc_info=record.exc_info or None)


def main() -> None:
    settings = configuration.load()
    if not settings.oidc_issuer:
        raise SystemExit("OIDC_ISSUER is not set: name the issuer whose tokens are accepted")
    telemetry.configure("gateway", otlp_endpoint=settings.otel_exporter_otlp_endpoint, level=settings.log_level)
    logging.basicConfig(level=logging.WARNING, handlers=[_Forward()])
    # uvicorn stops at these signals and then raises them again, while `serve` still has connections to close
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: None)
    with asyncio.Runner(loop_factory=uvicorn.Config("gateway").get_loop_factory()) as runner:  # uvloop where it runs
        runner.run(serve(settings))
    telemetry.flush()


if __name__ == "__main__":
    main()
