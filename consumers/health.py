"""The health of the loops of this process: their states, their metrics, and the server of /healthz and /metrics."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import uvicorn
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from rag.telemetry import SOURCE_LAST_SUCCESS, SOURCE_UP


@dataclass
class Loop:
    """The state of one loop: ``starting`` until its first turn ends, then ``working``, or ``failing`` until a turn succeeds.

    ``name`` is the source's name, with a table or ``listing`` behind it. ``interval`` is the longest time in seconds that a turn and
    the pause before it take while all is well. ``since`` is when the state began, ``turned`` when the last turn ended, ``why`` the
    last error.
    """

    name: str
    interval: float = 60.0
    clock: Callable[[], float] = time.time  # seconds since 1970
    state: str = "starting"
    since: float = field(init=False)
    turned: float = field(init=False)
    why: str = ""

    def __post_init__(self) -> None:
        self.since = self.turned = self.clock()

    def succeed(self) -> None:
        """Record a turn without an error."""
        self.turned = self.clock()
        self._enter("working", "")
        SOURCE_UP.labels(self.name).set(1)
        SOURCE_LAST_SUCCESS.labels(self.name).set(self.clock())

    def fail(self, why: str) -> None:
        """Record a failed turn. ``why`` is shown to operators, so it must not hold content or secrets."""
        self.turned = self.clock()
        self._enter("failing", why)
        SOURCE_UP.labels(self.name).set(0)

    def is_unhealthy(self, after: float) -> bool:
        """Return whether the loop has failed, or hangs and is late with a turn, for more than ``after`` seconds.

        A short outage is waited for and does not count.
        """
        now = self.clock()
        has_failed = self.state == "failing" and now - self.since > after
        return has_failed or now - self.turned > self.interval + after

    def _enter(self, state: str, why: str) -> None:
        if state != self.state:
            self.state, self.since = state, self.clock()
        self.why = why


def health_app(loops: Sequence[Loop], unhealthy_after: float) -> Starlette:
    """Make the app. /healthz answers 503 when a loop is unhealthy, with the state of every loop in its body."""

    async def healthz(_: Request) -> JSONResponse:
        unhealthy = [loop.name for loop in loops if loop.is_unhealthy(unhealthy_after)]
        body = {
            "status": "unhealthy" if unhealthy else "ok",
            "unhealthy": unhealthy,
            "sources": {loop.name: _described(loop) for loop in loops},
        }
        return JSONResponse(body, status_code=503 if unhealthy else 200)

    async def metrics(_: Request) -> Response:
        return Response(generate_latest(), media_type=CONTENT_TYPE_LATEST)

    return Starlette(routes=[Route("/healthz", healthz), Route("/metrics", metrics)])


def _described(loop: Loop) -> dict[str, Any]:
    since = datetime.fromtimestamp(loop.since, UTC).isoformat(timespec="seconds")
    return {"state": loop.state, "since": since, "why": loop.why}


class _Server(uvicorn.Server):
    """A server that leaves signals to ``main``, which ends all loops at once."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


async def serve(app: Starlette, host: str, port: int) -> None:
    """Serve until cancelled."""
    await _Server(uvicorn.Config(app, host=host, port=port, log_config=None, access_log=False)).serve()
