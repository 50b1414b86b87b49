from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from schemas.codec import RegistryUnavailable, UnknownSchema
from schemas.registry import ConfluentRegistry, IncompatibleSchema


class _Answers(BaseHTTPRequestHandler):
    status, body = 200, ""

    def do_GET(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.send_response(self.status)
        self.send_header("Content-Type", "application/json")
        self.end_headers()
        self.wfile.write(self.body.encode())

    do_POST = do_GET

    def log_message(self, *_: object) -> None:
        """Suppress the log."""


@pytest.fixture
def server() -> Iterator[HTTPServer]:
    with HTTPServer(("127.0.0.1", 0), _Answers) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def registry(server: HTTPServer) -> Iterator[ConfluentRegistry]:
    registry = ConfluentRegistry(f"http://127.0.0.1:{server.server_port}", {"max.retries": 0})
    yield registry
    registry.close()


def problem(code: int, message: str = "no") -> str:
    return json.dumps({"error_code": code, "message": message})


@pytest.mark.parametrize(
    ("status", "body", "error"),
    [
        (404, problem(40403), UnknownSchema),
        (401, problem(401), RegistryUnavailable),
        (403, problem(40301), RegistryUnavailable),
        (500, problem(50001), RegistryUnavailable),
        (503, "<html>", RegistryUnavailable),
        (200, "<html>", RegistryUnavailable),
        (200, json.dumps({"schema": "syntax = proto3", "schemaType": "PROTOBUF"}), UnknownSchema),
        (200, json.dumps({"schema": '"string"'}), UnknownSchema),
        (200, json.dumps({"schema": "{"}), UnknownSchema),
        (200, json.dumps({"nothing": "of the kind"}), UnknownSchema),
    ],
)
def test_only_a_clear_answer_means_that_a_schema_is_unknown(
    registry: ConfluentRegistry, monkeypatch: pytest.MonkeyPatch, status: int, body: str, error: type[Exception]
) -> None:
    monkeypatch.setattr(_Answers, "status", status)
    monkeypatch.setattr(_Answers, "body", body)
    with pytest.raises(error):
        registry.schema_of(7)


def test_a_refused_schema_is_incompatible_and_an_unregistered_one_names_the_remedy(
    registry: ConfluentRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_Answers, "status", 409)
    monkeypatch.setattr(_Answers, "body", problem(409, "field 'uri'"))
    with pytest.raises(IncompatibleSchema, match="field 'uri'"):
        registry.register("a-value", {"type": "string"})
    monkeypatch.setattr(_Answers, "status", 404)
    monkeypatch.setattr(_Answers, "body", problem(40401))
    with pytest.raises(UnknownSchema, match="python -m schemas register"):
        registry.id_of("a-value", {"type": "string"})
