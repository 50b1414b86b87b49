"""The application: it checks keys and sizes, and wraps each answer in Qdrant's envelope."""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

from pydantic_core import to_json
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from deploy.local.qdrant.errors import Refused
from deploy.local.qdrant.registry import Registry
from deploy.local.qdrant.routes import READ, ROUTES, WRITE, Act

BODY_LIMIT = 32 * 2**20  # Qdrant's default
FLUSH_SECONDS = 5
OPEN_PATHS = {"/", "/healthz", "/livez", "/readyz"}
PARAMETERS: dict[str, Callable[[str], bool]] = {
    # One node that always waits satisfies every consistency, ordering and wait that Qdrant knows.
    "timeout": lambda value: value.isdigit() and int(value) > 0,
    "consistency": lambda value: value.isdigit() or value in {"majority", "quorum", "all"},
    "wait": lambda value: value in {"true", "false"},
    "ordering": lambda value: value in {"weak", "medium", "strong"},
}


@dataclass(frozen=True)
class Keys:
    """The key that may do everything, and the key that may only read; an empty key opens nothing."""

    write: str
    read: str = ""

    def may_write(self, given: str) -> bool:
        """Return whether the key may write. Raises Refused for any other key than these two."""
        if _is(given, self.write):
            return True
        if _is(given, self.read):
            return False
        raise Refused("Invalid API key or JWT", 401)


def application(registry: Registry, keys: Keys) -> Starlette:
    @contextlib.asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        opening = asyncio.gather(
            *(one.run(one.open) for one in registry.names.collections.values()), return_exceptions=True
        )
        flushing = asyncio.create_task(_flush(registry))
        yield
        flushing.cancel()
        await opening
        await asyncio.gather(*(one.run(one.close) for one in registry.names.collections.values()))

    def door(act: Act, allowed: set[str]) -> Callable[[Request], Awaitable[Response]]:
        async def enter(request: Request) -> Response:
            started = time.perf_counter()
            try:
                may_write = keys.may_write(_given_key(request))
                if allowed == WRITE and not may_write:
                    raise Refused("Forbidden: Global write access is required", 403)
                limit = _parameters(request, allowed)
                request.state.body = await _body(request)
                result = await asyncio.wait_for(asyncio.shield(act(registry, request)), limit)
            except Refused as refused:
                return _answer(started, {"status": {"error": str(refused)}}, refused.status)
            except TimeoutError:
                return _answer(started, {"status": {"error": f"Timeout: no result within {limit} seconds"}}, 408)
            return _answer(started, {"result": result, "status": "ok"}, 200)

        return enter

    async def unknown(registry: Registry, request: Request) -> Any:
        raise Refused(f"{request.method} {request.url.path} is not served by this local server", 404)

    routes = [
        Route("/", _version),
        Route("/healthz", _alive),
        Route("/livez", _alive),
        Route("/readyz", _ready(registry)),
        *(Route(path, door(act, allowed), methods=[method]) for method, path, act, allowed in ROUTES),
        Route("/{path:path}", door(unknown, READ | WRITE), methods=["GET", "POST", "PUT", "PATCH", "DELETE"]),
    ]
    return Starlette(routes=routes, lifespan=lifespan)


async def _flush(registry: Registry) -> None:
    while True:
        await asyncio.sleep(FLUSH_SECONDS)
        for collection in registry.names.collections.values():
            with contextlib.suppress(Refused):  # deleted meanwhile, or logged already
                await collection.run(collection.flush)


def _is(given: str, key: str) -> bool:
    return bool(key) and hmac.compare_digest(given.encode(), key.encode())


def _given_key(request: Request) -> str:
    if b"%2f" in request.scope["raw_path"].lower():
        raise Refused("Wrong input: a slash within a name")  # the router would read the rest as a route
    given = request.headers.get("api-key")
    if given is None:
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        given = token if scheme.lower() == "bearer" else None
    if given is None:
        raise Refused("Must provide an API key or an Authorization bearer token", 401)
    return given


def _parameters(request: Request, allowed: set[str]) -> int | None:
    seen: dict[str, str] = {}
    for name, value in request.query_params.multi_items():
        if name not in allowed or name in seen or not PARAMETERS[name](value):
            raise Refused(f"query parameter {name}={value!r} is not understood here")
        seen[name] = value
    return int(seen["timeout"]) if "timeout" in seen else None


async def _body(request: Request) -> bytes:
    chunks, size = [], 0
    async for chunk in request.stream():
        size += len(chunk)
        if size > BODY_LIMIT:
            raise Refused(f"JSON payload has exceeded limit ({BODY_LIMIT} bytes): send smaller batches")
        chunks.append(chunk)
    return b"".join(chunks)


def _answer(started: float, content: dict[str, Any], status: int) -> Response:
    body = to_json({**content, "time": round(time.perf_counter() - started, 6)})
    return Response(body, status, media_type="application/json")


async def _version(_: Request) -> Response:
    """Return the version of the API, which clients compare with their own, and a title that names this server."""
    body = {"title": "tidemark local vectors: Qdrant REST API over qdrant-edge-py", "version": version("qdrant-client")}
    return Response(to_json(body), media_type="application/json")


async def _alive(_: Request) -> Response:
    return PlainTextResponse("healthz check passed")


def _ready(registry: Registry) -> Callable[[Request], Awaitable[Response]]:
    async def ready(_: Request) -> Response:
        waiting = [name for name, one in registry.names.collections.items() if not one.ready]
        if waiting:
            return PlainTextResponse(f"{len(waiting)} collections are being opened", 503)
        return PlainTextResponse("all shards are ready")

    return ready
