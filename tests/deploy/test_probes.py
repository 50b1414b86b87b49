"""The probe of the consumers' sources, for ``status``."""

from __future__ import annotations

import http.server
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from deploy.local.probes import failing_sources
from deploy.local.stack import HOST

FAILING = b"""{"status": "ok", "sources": {
    "s3": {"state": "failing", "since": "2026-03-01T10:00:00+00:00", "why": "QueueDoesNotExist"},
    "folder": {"state": "working", "since": "2026-03-01T10:00:00+00:00", "why": ""}}}"""


@contextmanager
def answering(status: int, body: bytes) -> Iterator[int]:
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *arguments: object) -> None: ...

    server = http.server.HTTPServer((HOST, 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.mark.parametrize("status", [200, 503])
def test_status_names_each_failing_source_with_its_reason(status: int) -> None:
    with answering(status, FAILING) as port:
        assert failing_sources(port) == ["s3 has been failing since 2026-03-01T10:00:00+00:00: QueueDoesNotExist"]


@pytest.mark.parametrize("body", [b"", b"[]", b'{"sources": 3}', b'{"sources": {"s3": {"state": "failing"}}}'])
def test_another_answer_names_no_source(body: bytes) -> None:
    with answering(200, body) as port:
        assert failing_sources(port) == []


def test_consumers_that_do_not_answer_name_no_source() -> None:
    with answering(200, FAILING) as port:
        pass
    assert failing_sources(port) == []
