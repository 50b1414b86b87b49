"""Connections of the gateway: uvicorn's protocol with a bound for request heads and a patience for stalled clients.

uvicorn bounds neither with its fast parser: a head may have any size, and a client that stops sending keeps its connection.
"""

from __future__ import annotations

import asyncio
import json
from http import HTTPStatus
from typing import Literal

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from gateway import problems

MAX_HEAD = 64 * 1024  # bytes of the request line and all header fields
MIN_RATE = 1024  # bytes a second that a body must bring, averaged over the patience


class Connection(HttpToolsProtocol):
    """A connection that ends when its client is too slow or sends an oversized head.

    ``patience`` is in seconds. A client has so long for a whole head. During a body it gains time with each byte, up to the
    patience. During a response it must read something within each patience; how long the response takes does not matter.
    """

    patience = 30.0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        transport.set_write_buffer_limits(high=0)  # so writing is paused as long as any byte waits for the client
        self._reading: Literal["head", "body"] | None = "head"  # the part that the client owes
        self._head_bytes = self._completed = self._unsent = 0
        self._oversized = False
        self._due = self.loop.time() + self.patience
        self._read_timer: asyncio.TimerHandle | None = None
        self._write_timer: asyncio.TimerHandle | None = None
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        for timer in (self._read_timer, self._write_timer):
            if timer:
                timer.cancel()
        super().connection_lost(exc)

    # -- the client sends

    def data_received(self, data: bytes) -> None:
        if self._reading == "body":
            self._due = min(self._due + len(data) / MIN_RATE, self.loop.time() + self.patience)
        completed = self._completed
        super().data_received(data)
        if self._reading is None and self.cycle.response_complete:  # line breaks between two requests
            self._expect("head")
        if self._reading == "head":
            self._head_bytes = self._head_bytes + len(data) if completed == self._completed else 0
            self._oversized = self._head_bytes > MAX_HEAD
            if self._oversized and not self.transport.is_closing():
                self.send_400_response("")
        self._watch()

    def on_message_begin(self) -> None:
        super().on_message_begin()
        if self._reading is None:
            self._expect("head")

    def on_headers_complete(self) -> None:
        size = len(self.url) + sum(len(name) + len(value) + 4 for name, value in self.headers)
        self._oversized = size > MAX_HEAD
        if self._oversized:
            raise ValueError("the head is too large")  # the parser stops, and data_received answers
        super().on_headers_complete()
        self._expect("body")

    def on_message_complete(self) -> None:
        super().on_message_complete()
        self._reading, self._completed, self._head_bytes = None, self._completed + 1, 0

    def _expect(self, part: Literal["head", "body"]) -> None:
        self._reading, self._due = part, self.loop.time() + self.patience

    def _watch(self) -> None:
        """Keep a timer exactly as long as the client owes something."""
        if self._reading and not self._read_timer and not self.transport.is_closing():
            now = self.loop.time()
            self._read_timer = self.loop.call_at(min(self._due, now + self.patience / 4), self._check_sending)
        elif self._read_timer and not self._reading:
            self._read_timer.cancel()
            self._read_timer = None

    def _check_sending(self) -> None:
        self._read_timer = None
        if self.flow.read_paused or (self._reading == "body" and self.cycle.waiting_for_100_continue):
            # this side does not read yet, so the client owes nothing
            self._due = self.loop.time() + self.patience
        if self._due > self.loop.time():
            self._watch()
        elif self._reading == "head" and not self._head_bytes:  # not a request, hence without an answer
            self.transport.close()
        else:
            self._refuse(408, f"the request was not complete within {self.patience:g} s: send it faster")

    # -- the client reads

    def pause_writing(self) -> None:
        super().pause_writing()
        self._unsent = self.transport.get_write_buffer_size()
        self._write_timer = self.loop.call_later(self.patience, self._check_reading)

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._write_timer:
            self._write_timer.cancel()
            self._write_timer = None

    def _check_reading(self) -> None:
        unsent = self.transport.get_write_buffer_size()
        if unsent >= self._unsent:
            self.transport.abort()
        else:
            self._unsent = unsent
            self._write_timer = self.loop.call_later(self.patience, self._check_reading)

    # -- errors

    def send_400_response(self, msg: str) -> None:
        if self._oversized:
            self._refuse(431, f"the request line and header fields exceed {MAX_HEAD} bytes: send fewer or shorter ones")
        else:
            self._refuse(400, "this is not an HTTP request that can be read")

    def _refuse(self, status: int, detail: str) -> None:
        """Close the connection, with a problem where the client can still take it for the response to this request."""
        if self._answerable():
            body = json.dumps(problems.body(status, detail)).encode()
            head = (
                f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\ncontent-type: {problems.MEDIA_TYPE}\r\n"
                f"content-length: {len(body)}\r\nconnection: close\r\n\r\n"
            )
            self.transport.write(head.encode() + body)
        self.transport.close()

    def _answerable(self) -> bool:
        if self._reading == "body":
            return not self.cycle.response_started and not self.pipeline
        return self.cycle is None or self.cycle.response_complete


def patient(seconds: float) -> type[Connection]:
    """Return the class of connections with this patience, as uvicorn takes it."""
    return type("Connection", (Connection,), {"patience": seconds})
