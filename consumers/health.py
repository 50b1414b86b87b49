"""The server of /healthz and /metrics."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import uvicorn
from prometheus_client import make_asgi_app
from starlette.applications import Starlette
from starlette.responses import JSONResponse
from starlette.routing import Mount, Route


class _Server(uvicorn.Server):
    """Leaves signals to ``main``, which ends all loops at once."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


async def serve(host: str, port: int) -> None:
    """/healthz and /metrics."""
    app = Starlette(
        routes=[Route("/healthz", lambda _: JSONResponse({"status": "ok"})), Mount("/metrics", make_asgi_app())]
    )
    await _Server(uvicorn.Config(app, host=host, port=port, log_config=None, access_log=False)).serve()
