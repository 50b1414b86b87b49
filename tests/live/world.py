"""What a story needs of a running stack: its bucket, its tables, its gateway as any user, its topics, its Dagster."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, TypeVar

import boto3
import httpx
import snowflake.connector
from authlib.common.security import generate_token
from authlib.integrations.httpx_client import OAuth2Client
from confluent_kafka import Consumer, TopicPartition
from confluent_kafka.schema_registry import SchemaRegistryClient
from confluent_kafka.schema_registry.avro import AvroDeserializer
from confluent_kafka.serialization import MessageField, SerializationContext
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from deploy.local.snowflake.connection import connection_parameters

Seen = TypeVar("Seen")
PATIENCE = 240.0  # seconds: a machine may be busy, a story has to end


class World:
    def __init__(self, env: Mapping[str, str]) -> None:
        self.env = env
        keys = {"aws_access_key_id": env["AWS_ACCESS_KEY_ID"], "aws_secret_access_key": env["AWS_SECRET_ACCESS_KEY"]}
        where = {"endpoint_url": env["S3_ENDPOINT_URL"], "region_name": env["AWS_REGION"], **keys}
        self.s3 = boto3.client("s3", **where)
        self.sqs = boto3.client("sqs", **where)
        self.inbox = Path(env["INBOX_DIR"])
        self.http = httpx.Client(base_url=env["GATEWAY_URL"], timeout=60)
        discovery = f"{env['OIDC_ISSUER']}/.well-known/openid-configuration"
        self.issuer = httpx.get(discovery).raise_for_status().json()
        self.token = cache(self._token)

    # -- what happens at the sources

    def put(self, key: str, content: bytes | str, **labels: str) -> None:
        body = content.encode() if isinstance(content, str) else content
        self.s3.put_object(Bucket=self.env["S3_BUCKET"], Key=key, Body=body, Metadata=labels)

    def remove(self, key: str) -> None:
        self.s3.delete_object(Bucket=self.env["S3_BUCKET"], Key=key)

    def sql(self, statement: str, *values: Any) -> list[Any]:
        with closing(snowflake.connector.connect(**connection_parameters(self.env))) as connection:
            return connection.cursor().execute(statement, values).fetchall()

    # -- what callers see

    def _token(self, user: str) -> str:
        if user == "demo":
            client = OAuth2Client(self.env["OIDC_CLIENT_ID"], self.env["OIDC_CLIENT_SECRET"])
            return str(
                client.fetch_token(self.issuer["token_endpoint"], grant_type="client_credentials")["access_token"]
            )
        client = OAuth2Client(
            "tidemark-cli",
            redirect_uri="http://127.0.0.1:4321/callback",
            scope="rag:query rag:ingest",
            code_challenge_method="S256",
            token_endpoint_auth_method="none",
        )
        verifier = generate_token(48)
        url, _ = client.create_authorization_url(
            self.issuer["authorization_endpoint"], code_verifier=verifier, login_hint=user
        )
        back = client.request("GET", url, withhold_token=True, follow_redirects=False).headers["location"]
        token = client.fetch_token(self.issuer["token_endpoint"], authorization_response=back, code_verifier=verifier)
        return str(token["access_token"])

    def call(self, method: str, path: str, user: str = "demo", **arguments: Any) -> httpx.Response:
        headers = {"Authorization": f"Bearer {self.token(user)}"} if user else {}
        return self.http.request(method, path, headers=headers, **arguments)

    def search(self, query: str, user: str = "demo", **body: Any) -> list[dict[str, Any]]:
        response = self.call("POST", "/v1/search", user, json={"query": query, "top_k": 20, **body})
        assert response.status_code == 200, response.text
        return list(response.json()["hits"])

    def texts(self, query: str, user: str = "demo") -> str:
        return "\n".join(hit["text"] for hit in self.search(query, user))

    def documents(self, user: str = "demo") -> dict[str, dict[str, Any]]:
        """uri → document, all pages."""
        found: dict[str, dict[str, Any]] = {}
        after = ""
        while True:
            page = self.call("GET", "/v1/documents", user, params={"limit": 100, **({"after": after} if after else {})})
            assert page.status_code == 200, page.text
            rows = page.json()["documents"]
            found |= {row["uri"]: row for row in rows}
            if len(rows) < 100:
                return found
            after = rows[-1]["document_id"]

    def document(self, key: str) -> dict[str, Any]:
        return self.documents()[f"s3://{self.env['S3_BUCKET']}/{key}"]

    # -- what the log holds

    def events(self, topic: str) -> list[dict[str, Any]]:
        """Every record of a topic as Confluent's own deserializer reads it."""
        registry = SchemaRegistryClient({"url": self.env["SCHEMA_REGISTRY_URL"], "timeout": 10, "max.retries": 3})
        read = AvroDeserializer(registry)
        consumer = Consumer({
            "bootstrap.servers": self.env["KAFKA_BOOTSTRAP"], "group.id": "story", "enable.partition.eof": True,
            "enable.auto.commit": False,
        })  # fmt: skip
        with closing(consumer):
            partitions = consumer.list_topics(topic, timeout=30).topics[topic].partitions
            consumer.assign([TopicPartition(topic, number, 0) for number in partitions])
            found, ended = [], 0
            while ended < len(partitions):
                message = consumer.poll(30)
                assert message is not None, f"{topic} did not answer"
                if message.error():
                    ended += 1
                elif message.value() is not None:
                    found.append(read(message.value(), SerializationContext(topic, MessageField.VALUE)))
        return found

    # -- Dagster

    def graphql(self, query: str, **variables: Any) -> dict[str, Any]:
        response = httpx.post(
            f"{self.env['DAGSTER_URL']}/graphql", json={"query": query, "variables": variables}, timeout=60
        )
        answer = response.raise_for_status().json()
        assert "errors" not in answer, answer
        return dict(answer["data"])


def eventually(look: Callable[[], Seen], holds: Callable[[Seen], bool], why: str, patience: float = PATIENCE) -> Seen:
    """Look until it holds; a failure shows what was seen last."""
    deadline = time.monotonic() + patience
    while True:
        seen = look()
        if holds(seen):
            return seen
        assert time.monotonic() < deadline, f"{why}: after {patience:.0f} s still {str(seen)[:2000]}"
        time.sleep(0.5)


class Traces:
    """An OTLP receiver: spans by name."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._spans: list[tuple[str, str, str]] = []

    def take(self, body: bytes) -> None:
        request = ExportTraceServiceRequest.FromString(body)
        with self._lock:
            for resource in request.resource_spans:
                service = next(a.value.string_value for a in resource.resource.attributes if a.key == "service.name")
                for scope in resource.scope_spans:
                    self._spans += [(span.trace_id.hex(), service, span.name) for span in scope.spans]

    def by_trace(self) -> dict[str, set[tuple[str, str]]]:
        """trace id → {(service, span)}."""
        with self._lock:
            traces: dict[str, set[tuple[str, str]]] = {}
            for trace, service, name in self._spans:
                traces.setdefault(trace, set()).add((service, name))
        return traces


@contextmanager
def otlp_receiver() -> Iterator[tuple[str, Traces]]:
    """(endpoint, what arrived there)."""
    traces = Traces()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            traces.take(self.rfile.read(int(self.headers["Content-Length"])))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", traces
    finally:
        server.shutdown()
        thread.join()
