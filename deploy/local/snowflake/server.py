"""The local stack's warehouse: fakesnow (Snowflake's protocol and SQL over DuckDB), with databases that outlive it.

Each database is one DuckDB file in the data directory. A commit is in its write-ahead log before it is acknowledged. The server accepts
any user and password, but only from this machine. Stages live as long as the process.

    python -m deploy.local.snowflake --port 9180 --data .stack/warehouse
"""

from __future__ import annotations

import gzip
import json
import logging
import re
import signal
import sys
import zlib
from collections import OrderedDict
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import pyarrow as pa  # type: ignore[import-untyped]
import uvicorn
from fakesnow import info_schema
from fakesnow.instance import GLOBAL_DATABASE_NAME, FakeSnow
from fakesnow.transforms import show
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Mount, Route
from starlette.types import ASGIApp, Receive, Scope, Send

from deploy.local.local_server import arguments, is_loopback_authority, place
from deploy.local.snowflake.connection import DATABASE, SCHEMA

server: Any = import_module("fakesnow.server")  # the package also has a function of this name
arrow: Any = import_module("fakesnow.arrow")
_fakesnow_timestamps = arrow.timestamp_to_sf_struct
IDENTIFIER = re.compile(r"[A-Za-z_][A-Za-z0-9_$]{0,254}")
RESULTS_KEPT = 200


class _Results(OrderedDict[str, tuple[Any, ...]]):
    """The newest results. fakesnow keeps every result for ever, and a table that is polled each second would fill the memory."""

    def __setitem__(self, key: str, value: tuple[Any, ...]) -> None:
        super().__setitem__(key, value)
        while len(self) > RESULTS_KEPT:
            self.popitem(last=False)


def _timestamps(column: Any) -> pa.Array:
    """Convert as fakesnow does, but keep NULL. Without the mask, a NULL timestamp reaches clients as 1 January 1970."""
    column = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    converted = _fakesnow_timestamps(column)
    fields = [field.with_nullable(True) for field in converted.type]
    return pa.StructArray.from_arrays(converted.flatten(), fields=fields, mask=column.is_null())


def open_databases(data: Path) -> FakeSnow:
    """Return fakesnow over the files in `data`, with every existing database attached.

    Its global catalog (text lengths, comments) becomes a file too, so that `DESCRIBE` returns the same after a restart.
    """
    snow = FakeSnow(db_path=data)
    snow.results_cache = _Results()
    snow.duck_conn.execute(f"DETACH {GLOBAL_DATABASE_NAME}")
    snow.duck_conn.execute(f"ATTACH '{_quoted(data / 'catalog.duckdb')}' AS {GLOBAL_DATABASE_NAME}")
    snow.duck_conn.execute(info_schema.fs_global_creation_sql())
    snow.duck_conn.execute(show.fs_global_creation_sql())
    for file in sorted(data.glob("*.db")):
        snow.connect(database=file.stem).close()
    snow.connect(database=DATABASE, schema=SCHEMA).close()
    return snow


def create_app(data: Path) -> Starlette:
    snow = open_databases(data)
    server.shared_fs = snow
    arrow.timestamp_to_sf_struct = _timestamps

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        yield
        snow.duck_conn.close()

    routes = [
        Route("/healthz", partial(_health, snow)),
        Route("/session/v1/login-request", _login, methods=["POST"]),
        Mount("/", server.app),
    ]
    return Starlette(routes=routes, middleware=[Middleware(_LoopbackOnly)], lifespan=lifespan)


def _health(snow: FakeSnow, _: Request) -> Response:
    snow.duck_conn.cursor().execute("select 1").fetchall()
    return PlainTextResponse("ok\n")


async def _login(request: Request) -> Response:
    """Check a login before fakesnow, which puts its names unchecked into file names and SQL and lets clients choose the directory."""
    for parameter in ("databaseName", "schemaName"):
        name = request.query_params.get(parameter)
        if name and not IDENTIFIER.fullmatch(name):
            return _refuse(f"{parameter} {name!r} is not a plain identifier")
    try:
        parameters = json.loads(_inflate(request, await request.body()))["data"]["SESSION_PARAMETERS"]
        if "FAKESNOW_DB_PATH" in parameters:
            return _refuse("FAKESNOW_DB_PATH is the server's to choose: use --data")
    except (ValueError, KeyError, TypeError, OSError, EOFError, zlib.error):
        return _refuse("the login request is not one a Snowflake client sends")
    answer: Response = await server.login_request(request)
    return answer


def _inflate(request: Request, body: bytes) -> bytes:
    return gzip.decompress(body) if request.headers.get("content-encoding") == "gzip" else body


def _refuse(reason: str) -> Response:
    return JSONResponse({"data": None, "code": "390100", "message": reason, "success": False})


class _LoopbackOnly:
    """Middleware that refuses web pages: a foreign origin, or a foreign name that was rebound to this address."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            headers = dict(scope["headers"])
            origin = headers.get(b"origin", b"http://localhost").decode("latin-1").partition("://")[2]
            if not all(map(is_loopback_authority, (headers.get(b"host", b"").decode("latin-1"), origin))):
                await PlainTextResponse("this server answers programs on this machine only\n", 403)(
                    scope, receive, send
                )
                return
        await self.app(scope, receive, send)


def _quoted(path: Path) -> str:
    return str(path).replace("'", "''")


def main(argv: Sequence[str] | None = None) -> None:
    here = place(arguments("snowflake", "fakesnow with databases that persist").parse_args(argv))
    app = create_app(here.data)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))  # uvicorn stops serving, then raises the signal again
    server.logger.setLevel(logging.ERROR)  # at info it logs every failed statement with its values
    print(f"Warehouse on http://{here.host}:{here.port}, databases in {here.data}", flush=True)
    uvicorn.run(app, host=here.host, port=here.port, access_log=False, log_level="warning")
