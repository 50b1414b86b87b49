"""A real server on a local port, and clients that misbehave on raw sockets."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
import uvicorn

from gateway.connections import MAX_HEAD, MIN_RATE, patient

PATIENCE = 0.3
GOOD = b"GET /healthz HTTP/1.1\r\nHost: gateway.test\r\n\r\n"
Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]


@asynccontextmanager
async def serving(app: Any) -> AsyncIterator[int]:
    config = uvicorn.Config(
        app, host="127.0.0.1", port=0, log_config=None, lifespan="off", http=patient(PATIENCE), ws="none"
    )
    server = uvicorn.Server(config)
    task = asyncio.create_task(server.serve())
    while not server.started:  # noqa: ASYNC110  (uvicorn offers nothing to wait for)
        await asyncio.sleep(0.005)
    try:
        yield server.servers[0].sockets[0].getsockname()[1]
    finally:
        server.should_exit = server.force_exit = True
        await task


@pytest.fixture
async def port(world: Any) -> AsyncIterator[int]:
    async with serving(world.app) as number:
        yield number


class Client:
    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    def send(self, data: bytes) -> None:
        self.writer.write(data)

    async def rest(self) -> bytes:
        """Return everything until the server closes the connection; fails when it does not."""
        async with asyncio.timeout(10):
            received = bytearray()
            try:
                while piece := await self.reader.read(65536):
                    received += piece
            except ConnectionError:
                pass  # closed while this side was still sending
            return bytes(received)

    async def response(self) -> tuple[int, bytes]:
        async with asyncio.timeout(10):
            head = await self.reader.readuntil(b"\r\n\r\n")
            length = next(
                int(line.split(b":")[1]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length")
            )
            return int(head.split()[1]), await self.reader.readexactly(length)


@asynccontextmanager
async def client(port: int) -> AsyncIterator[Client]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        yield Client(reader, writer)
    finally:
        writer.close()


def status_of(answer: bytes) -> int:
    assert b"content-type: application/problem+json" in answer
    assert json.loads(answer.partition(b"\r\n\r\n")[2])["status"] == int(answer.split()[1])
    return int(answer.split()[1])


async def test_good_requests_share_a_connection(port: int) -> None:
    async with client(port) as one:
        for _ in range(3):
            one.send(GOOD)
            assert (await one.response())[0] == 200
        one.send(GOOD + GOOD)
        assert [(await one.response())[0], (await one.response())[0]] == [200, 200]


@pytest.mark.parametrize(
    "head",
    [
        b"GET /healthz HTTP/1.1\r\nHost: a\r\nX: " + b"x" * 65 * 1024 + b"\r\n\r\n",
        b"GET /healthz HTTP/1.1\r\nHost: a\r\nX: " + b"x" * 65 * 1024,
        b"GET /" + b"x" * 65 * 1024,
        b"GET /healthz HTTP/1.1\r\n" + b"X: y\r\n" * 11_000 + b"\r\n",
    ],
    ids=["one header", "an unfinished header", "a path", "many headers"],
)
@pytest.mark.parametrize("before", [b"", GOOD], ids=["first", "second"])
async def test_a_head_of_65_kilobytes_is_refused(port: int, head: bytes, before: bytes) -> None:
    async with client(port) as one:
        if before:
            one.send(before)
            assert (await one.response())[0] == 200
        one.send(head)
        assert status_of(await one.rest()) == 431


async def test_an_endless_header_is_cut_off_early(port: int) -> None:
    async with client(port) as one:
        one.send(b"GET / HTTP/1.1\r\nX: ")
        sent = 0

        async def fill() -> None:
            nonlocal sent
            while sent < 64 * 2**20:
                one.send(b"x" * 65536)
                sent += 65536
                await one.writer.drain()

        with pytest.raises(ConnectionError):
            await fill()
        assert sent < 16 * 2**20  # most of it in the buffers of the kernel


async def test_a_head_just_below_the_bound_is_served(port: int) -> None:
    async with client(port) as one:
        one.send(b"GET /healthz HTTP/1.1\r\nHost: a\r\nX: " + b"x" * (MAX_HEAD - 100))
        await one.writer.drain()
        one.send(b"\r\n\r\n")
        assert (await one.response())[0] == 200


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"", None),
        (b"\r\n", 408),
        (b"GET /healthz HT", 408),
        (b"GET /healthz HTTP/1.1\r\nHost: a\r\n", 408),
        (b"POST /v1/search HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\n{", 408),
        (b"POST /v1/documents HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nab", 401),
    ],
    ids=["nothing", "a line break", "half a line", "half a head", "half a body", "half a chunk"],
)
@pytest.mark.parametrize("before", [b"", GOOD], ids=["first", "second"])
async def test_a_stalled_client_is_dropped_in_time(port: int, sent: bytes, status: int | None, before: bytes) -> None:
    async with client(port) as one:
        if before:
            one.send(before)
            assert (await one.response())[0] == 200
        one.send(sent)
        if sent or not before:  # after a response, an idle connection is uvicorn's to close
            answer = await one.rest()
            assert (int(answer.split()[1]) if answer else None) == status


async def test_a_body_that_drips_is_dropped_and_its_route_ends(logs: list[Any]) -> None:
    ended = asyncio.Event()

    async def app(scope: Any, receive: Receive, send: Send) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        ended.set()

    async with serving(app) as port, client(port) as one:
        started = time.monotonic()
        one.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 100000\r\n\r\n")

        async def drip() -> None:
            while True:  # far below the rate, far more often than the patience
                one.send(b"x")
                await asyncio.sleep(PATIENCE / 10)

        dripping = asyncio.create_task(drip())
        assert status_of(await one.rest()) == 408
        dripping.cancel()
        assert time.monotonic() - started < PATIENCE + 10 / MIN_RATE + 2
        async with asyncio.timeout(5):
            await ended.wait()


async def test_an_interrupted_upload_is_not_a_bug(world: Any, port: int, logs: list[Any]) -> None:
    token = world.bearer("alice")["Authorization"]
    async with client(port) as one:
        one.send(
            f"POST /v1/documents HTTP/1.1\r\nHost: a\r\nAuthorization: {token}\r\nContent-Length: 999\r\n"
            "Content-Type: multipart/form-data; boundary=b\r\n\r\n--b\r\n".encode()
        )
        assert status_of(await one.rest()) == 408
    assert not [line for line in logs if line["event"] == "unexpected"]


@pytest.mark.parametrize("expects", [False, True], ids=["sends at once", "waits for 100 Continue"])
async def test_a_server_that_does_not_read_yet_has_patience(expects: bool) -> None:
    go = asyncio.Event()

    async def app(scope: Any, receive: Receive, send: Send) -> None:
        await go.wait()
        size = 0
        while (message := await receive())["more_body"]:
            size += len(message["body"])
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"0")]})
        await send({"type": "http.response.body"})

    async with serving(app) as port, client(port) as one:
        expectation = b"Expect: 100-continue\r\n" if expects else b""
        one.send(b"POST / HTTP/1.1\r\nHost: a\r\n" + expectation + b"Content-Length: 400000\r\n\r\n")
        if not expects:
            one.send(b"x" * 400_000)
        await asyncio.sleep(2 * PATIENCE)
        go.set()
        if expects:
            assert b" 100 " in await one.reader.readuntil(b"\r\n\r\n")
            one.send(b"x" * 400_000)
        assert (await one.response())[0] == 200


async def test_a_quiet_stream_stays_open() -> None:
    async def app(scope: Any, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/event-stream")]})
        await send({"type": "http.response.body", "body": b"data: 1\n\n", "more_body": True})
        await asyncio.sleep(2 * PATIENCE)
        await send({"type": "http.response.body", "body": b"data: 2\n\n"})

    async with serving(app) as port, client(port) as one:
        one.send(GOOD[:-2] + b"Connection: close\r\n\r\n")
        assert b"data: 2" in await one.rest()


BIG = 48 * 2**20  # more than the kernel holds for both sides


async def flood(scope: Any, receive: Receive, send: Send) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", str(BIG).encode())]})
    await send({"type": "http.response.body", "body": b"x" * BIG, "more_body": True})
    await send({"type": "http.response.body"})  # waits until the client has read


async def test_a_client_that_reads_slowly_gets_everything() -> None:
    async with serving(flood) as port, client(port) as one:
        one.send(GOOD[:-2] + b"Connection: close\r\n\r\n")
        await one.reader.readuntil(b"\r\n\r\n")
        started, received = time.monotonic(), 0
        while piece := await one.reader.read(2**20):
            received += len(piece)
            await asyncio.sleep(PATIENCE / 100)
        assert received == BIG
        assert time.monotonic() - started > PATIENCE


async def test_a_client_that_reads_nothing_is_dropped() -> None:
    gone = asyncio.Event()

    async def app(scope: Any, receive: Receive, send: Send) -> None:
        await flood(scope, receive, send)
        while (await receive())["type"] != "http.disconnect":
            pass
        gone.set()

    async with serving(app) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1024)  # at which it stops to read
        writer.write(GOOD)
        await reader.readuntil(b"\r\n")
        async with asyncio.timeout(10):
            await gone.wait()
        writer.transport.abort()
