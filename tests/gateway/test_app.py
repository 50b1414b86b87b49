"""What holds for every route. ``python -m pytest tests/gateway/test_app.py --snapshot`` writes openapi.json anew."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from gateway.__main__ import serve
from gateway.limits import RateLimit
from gateway.middleware import MAX_BODY
from rag import wiring
from rag.errors import Unavailable
from rag.models import DocumentStatus, Parking
from rag.ports import Delta
from rag.settings import Settings

SNAPSHOT = Path(__file__).with_name("openapi.json")


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [("GET", "/nowhere", 404), ("GET", "/v1/search", 405), ("PUT", "/v1/documents", 405), ("GET", "/v1/documents/x", 422),
     ("GET", "/v1/documents", 401), ("GET", "/v1/documents/../../etc/passwd", 404)],
)  # fmt: skip
async def test_every_error_is_a_problem(world: Any, method: str, path: str, status: int) -> None:
    headers = {} if status == 401 else world.bearer("alice")
    answer = await world.client.request(method, path, headers=headers)
    problem = answer.json()
    assert (answer.status_code, answer.headers["content-type"]) == (status, "application/problem+json")
    assert (problem["status"], problem["type"]) == (status, "about:blank")
    assert problem["title"]
    assert len(problem["trace_id"]) == 32


async def test_a_bug_is_reported_with_the_trace_id_and_nothing_else(world: Any, logs: list[Any]) -> None:
    async def broken(*_: Any, **__: Any) -> None:
        raise RuntimeError("password=hunter2")

    world.ledger.visible = broken
    await world.index("High water at noon.")
    answer = await world.post("alice", "/v1/search", query="water")
    assert answer.status_code == 500
    assert "hunter2" not in answer.text
    assert "RuntimeError" not in answer.text
    assert len(answer.json()["trace_id"]) == 32
    assert [(line["event"], line["error"]) for line in logs] == [("unexpected", "RuntimeError")]


async def test_no_subject_and_no_question_is_in_the_logs(world: Any, logs: list[Any]) -> None:
    world.objects.denied.add("s3://tidemark-internal")
    world.clock, world.issuer.is_down = 1e6, True
    await world.post("alice", "/v1/answers", question="What does Carol earn?")
    world.issuer.is_down = False
    world.clock += 60
    world.vectors._specs.clear()
    world.vectors._points.clear()
    await world.post("alice", "/v1/answers", question="What does Carol earn?")
    await world.client.get("/readyz")
    assert len(logs) >= 3
    assert not [line for line in logs if "alice" in str(line) or "Carol" in str(line)]


@pytest.mark.parametrize("length", [str(MAX_BODY + 1), "9" * 30, "-1", "x"])
async def test_a_body_announced_as_too_large_is_not_read(world: Any, length: str) -> None:
    answer = await world.client.post(
        "/v1/search", content=b"{}", headers=world.bearer("alice") | {"Content-Length": length}
    )
    assert answer.status_code == 413


async def test_every_response_has_security_headers_and_no_cors_permission(world: Any) -> None:
    for path in ("/healthz", "/nowhere", "/docs"):
        headers = (await world.client.get(path)).headers
        assert headers["x-content-type-options"] == "nosniff"
        assert "frame-ancestors 'none'" in headers["content-security-policy"]
    preflight = {"Origin": "http://evil.test", "Access-Control-Request-Method": "POST"}
    assert "access-control-allow-origin" not in (await world.client.options("/v1/search", headers=preflight)).headers


async def test_a_caller_over_the_rate_waits_and_others_do_not(world: Any) -> None:
    world.app.state.limits = RateLimit(2)
    statuses = [(await world.post("alice", "/v1/search", query="x")).status_code for _ in range(3)]
    refused = await world.post("alice", "/v1/search", query="x")
    assert statuses == [200, 200, 429]
    assert 1 <= int(refused.headers["retry-after"]) <= 60
    assert (await world.post("bob", "/v1/search", query="x")).status_code == 200


async def test_without_redis_no_caller_is_limited(world: Any) -> None:
    world.app.state.limits = RateLimit(1, "redis://127.0.0.1:1/0")
    statuses = [(await world.post("alice", "/v1/search", query="x")).status_code for _ in range(3)]
    assert statuses == [200, 200, 200]
    metrics = (await world.metrics.get("/metrics")).text
    assert 'tidemark_degraded_total{part="limits"}' in metrics


async def test_failed_logins_of_an_address_are_limited_and_good_tokens_are_not(world: Any) -> None:
    world.app.state.failed_logins = RateLimit(3, counted="refused tokens")
    bad = [world.bearer("alice", aud="other"), {"Authorization": "Bearer x.y.z"}]
    statuses = [(await world.client.get("/v1/documents", headers=bad[n % 2])).status_code for n in range(5)]
    assert statuses == [401, 401, 401, 429, 429]
    refused = await world.client.get("/v1/documents", headers=bad[0])
    assert 1 <= int(refused.headers["retry-after"]) <= 60
    assert "3 refused tokens" in refused.json()["detail"]
    assert (await world.client.get("/v1/documents", headers=world.bearer("alice"))).status_code == 200


async def test_requests_without_a_token_are_not_failed_logins(world: Any) -> None:
    world.app.state.failed_logins = RateLimit(1, counted="refused tokens")
    assert [(await world.client.get("/v1/documents")).status_code for _ in range(3)] == [401, 401, 401]


async def test_failed_logins_of_another_address_count_apart(world: Any) -> None:
    world.app.state.failed_logins = RateLimit(1, counted="refused tokens")
    bad = {"Authorization": "Bearer x.y.z", "X-Forwarded-For": "203.0.113.9"}  # which is not believed

    async def statuses(address: str) -> list[int]:
        transport = httpx.ASGITransport(world.app, client=(address, 1))
        async with httpx.AsyncClient(transport=transport, base_url="http://gateway.test") as client:
            return [(await client.get("/v1/documents", headers=bad)).status_code for _ in range(2)]

    assert await statuses("192.0.2.1") == [401, 429]
    assert await statuses("192.0.2.2") == [401, 429]
    assert await statuses("::ffff:192.0.2.2") == [429, 429]  # the same address
    assert await statuses("2001:db8::1") == [401, 429]
    assert await statuses("2001:db8::ffff:1") == [429, 429]  # one network is one client
    assert await statuses("2001:db8:0:1::1") == [401, 429]


async def test_no_address_is_in_the_keys_of_the_limits(world: Any) -> None:
    world.app.state.failed_logins = RateLimit(1, counted="refused tokens")
    await world.client.get("/v1/documents", headers={"Authorization": "Bearer x.y.z"})
    stored = str(vars(world.app.state.failed_logins._limiter.storage))
    assert "refused-tokens/" in stored
    assert "127.0.0.1" not in stored


async def test_readiness_names_the_missing_dependencies(world: Any) -> None:
    world.objects.denied.add("s3://tidemark-internal")
    answer = await world.client.get("/readyz")
    told = answer.json()
    assert (answer.status_code, told["ready"]) == (200, True)
    assert {name for name, each in told["dependencies"].items() if not each["ok"]} == {"objects"}
    world.issuer.is_down, world.clock = True, 1e6
    answer = await world.client.get("/readyz")
    assert (answer.status_code, answer.json()["dependencies"]["issuer"]["why"]) == (503, "does not answer")


async def test_a_lost_index_is_not_ready_and_names_the_command(world: Any) -> None:
    await world.index("High water at noon.")
    assert (await world.client.get("/readyz")).json()["dependencies"]["index"]["ok"]
    points = [point_id async for point_id, _ in world.vectors.scroll(world.spec.index_id)]
    await world.vectors.delete(world.spec.index_id, points)
    answer = await world.client.get("/readyz")
    assert answer.status_code == 503
    assert "python -m assets rebuild" in answer.json()["dependencies"]["index"]["why"]


async def test_metrics_count_routes_and_add_the_totals_of_runs(world: Any) -> None:
    name, labels = "tidemark_documents_indexed_total", (("status", "live"),)
    await world.ledger.add(
        {(name, labels): 40.0, ("tidemark_step_seconds_bucket", (("le", "1.0"), ("step", "x"))): 3.0}
    )
    before = (await world.metrics.get("/metrics")).text
    await world.ledger.add({(name, labels): 2.0, ("made_up_total", ()): 1.0})
    await world.client.get("/v1/documents/not-an-id", headers=world.bearer("alice"))
    after = (await world.metrics.get("/metrics")).text
    assert _sample(after, name) - _sample(before, name) == 2.0
    assert 'tidemark_step_seconds_bucket{le="1.0",step="x"} 3.0' in after
    assert "made_up" not in after
    assert 'tidemark_requests_total{route="/v1/documents/{document_id}",status="422"}' in after
    assert "not-an-id" not in after


async def test_metrics_are_not_on_the_public_listener(world: Any) -> None:
    assert (await world.client.get("/metrics", headers=world.bearer("alice"))).status_code == 404
    assert "/metrics" not in (await world.client.get("/openapi.json")).json()["paths"]
    assert (await world.metrics.get("/healthz")).status_code == 404


def _sample(text: str, name: str) -> float:
    return sum(float(line.rsplit(" ", 1)[1]) for line in text.splitlines() if line.startswith(name + "{"))


async def test_a_caller_s_trace_is_linked_and_never_continued(world: Any, spans: InMemorySpanExporter) -> None:
    theirs = {"traceparent": f"00-{'a' * 32}-{'b' * 16}-01", "tracestate": "x=y", "baggage": "user=alice"}
    answer = await world.client.get("/v1/documents/x", headers=world.bearer("alice") | theirs)
    (request,) = [each for each in spans.get_finished_spans() if each.name == "gateway.request"]
    assert answer.json()["trace_id"] == f"{request.context.trace_id:032x}"
    assert not [each for each in spans.get_finished_spans() if f"{each.context.trace_id:032x}" == "a" * 32]
    assert request.parent is None
    assert [f"{link.context.trace_id:032x}" for link in request.links] == ["a" * 32]


@pytest.mark.parametrize("value", ["", "00-" + "0" * 32 + "-" + "b" * 16 + "-01", "x" * 9000, "00-\xff"])
async def test_a_malformed_traceparent_is_ignored(world: Any, spans: InMemorySpanExporter, value: str) -> None:
    answer = await world.client.get("/healthz", headers={"traceparent": value.encode("latin-1")})
    assert answer.status_code == 200
    assert not spans.get_finished_spans()[-1].links


@pytest.mark.parametrize(
    ("path", "allowed"),
    [("/v1/documents", "GET, POST"), ("/v1/documents/00000000-0000-0000-0000-000000000000", "GET, DELETE"),
     ("/v1/search", "POST"), ("/healthz", "GET")],
)  # fmt: skip
async def test_a_wrong_method_is_answered_with_all_the_right_ones(world: Any, path: str, allowed: str) -> None:
    answer = await world.client.patch(path)
    assert (answer.status_code, answer.headers["allow"]) == (405, allowed)


@pytest.mark.parametrize(
    "path",
    [
        "/v1/documents/",
        "/v1/search/",
        "/healthz/",
        "/docs/",
        "/docs/x",
        "/docs/nowhere.js",
        "http://gateway.test//evil.test/docs",
        "/docs//",
    ],
)
async def test_nothing_redirects_to_the_caller_s_host(world: Any, path: str) -> None:
    answer = await world.client.get(path, headers=world.bearer("alice") | {"Host": "evil.test"})
    assert answer.status_code == 404
    assert "location" not in answer.headers
    assert "evil.test" not in answer.text


async def test_the_description_is_the_recorded_one(world: Any, request: pytest.FixtureRequest) -> None:
    described = (await world.client.get("/openapi.json")).json()
    text = json.dumps(described, indent=1, sort_keys=True) + "\n"
    if request.config.getoption("--snapshot", default=False):
        SNAPSHOT.write_text(text)
    assert SNAPSHOT.read_text() == text, "the API changed: look at the difference, then run with --snapshot"


async def test_every_route_under_v1_names_its_scope(world: Any) -> None:
    described = (await world.client.get("/openapi.json")).json()
    for path, methods in described["paths"].items():
        for method, operation in methods.items():
            schemes = [name for each in operation.get("security", []) for name in each]
            expected = {"oauth2", "oidc"} if path.startswith("/v1/") else set()
            assert set(schemes) == expected, f"{method} {path}"
            assert all(scopes for each in operation.get("security", []) for scopes in each.values())


async def test_the_page_can_log_in(world: Any) -> None:
    schemes = (await world.client.get("/openapi.json")).json()["components"]["securitySchemes"]
    flow = schemes["oauth2"]["flows"]["authorizationCode"]
    assert (flow["authorizationUrl"], flow["tokenUrl"]) == ("http://issuer.test/authorize", "http://issuer.test/token")
    assert schemes["oidc"]["openIdConnectUrl"] == "http://issuer.test/.well-known/openid-configuration"
    page = await world.client.get("/docs")
    assert '"usePkceWithAuthorizationCodeGrant": true' in page.text
    assert '"tidemark-docs"' in page.text
    assert "https://" not in page.text  # nothing from elsewhere
    assert "http://issuer.test" in page.headers["content-security-policy"]
    for asset in ("swagger-ui-bundle.js", "swagger-ui.css", "oauth2-redirect"):
        assert (await world.client.get(f"/docs/{asset}")).status_code == 200, asset


async def test_without_the_issuer_the_page_still_opens(world: Any) -> None:
    world.issuer.is_down = True
    assert (await world.client.get("/openapi.json")).status_code == 200
    assert (await world.client.get("/docs")).status_code == 200


async def test_starting_makes_the_index(world: Any) -> None:
    made: list[Any] = []

    async def create(spec: Any) -> None:
        made.append(spec)

    world.vectors.create = create
    async with world.app.router.lifespan_context(world.app):
        assert isinstance(world.client, httpx.AsyncClient)
    assert made == [world.spec]


async def test_a_gateway_that_cannot_create_the_index_starts_and_logs_why(world: Any, logs: list[Any]) -> None:
    async def refuse(_: Any) -> None:
        raise Unavailable("qdrant allows only reads with this API key")

    world.vectors.create = refuse
    async with world.app.router.lifespan_context(world.app):
        assert (await world.client.get("/healthz")).status_code == 200
    assert [(each["event"], each["why"]) for each in logs] == [
        ("not_prepared", "qdrant allows only reads with this API key")
    ]


async def test_the_gateway_opens_the_index_with_the_key_that_only_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[dict[str, Any]] = []

    def services(_: Any, **options: Any) -> Any:
        opened.append(options)
        raise Unavailable("enough")

    monkeypatch.setattr(wiring, "services", services)
    with pytest.raises(Unavailable, match="enough"):
        await serve(Settings.model_construct())
    assert opened == [{"reads_only": True}]


async def test_metrics_count_parked_documents_by_reason(world: Any) -> None:
    await world.index("", name="cold.md", status=DocumentStatus.PARKED)
    now = datetime(2026, 11, 26, tzinfo=UTC)
    document_id = world.ids.document_id("acme", "s3", "s3://tidemark-documents/cold.md")
    record = (await world.ledger.recorded(world.spec.index_id, [document_id]))[document_id]
    parked = replace(record, reason="archived", parking=Parking(1, now, now))
    await world.ledger.swap(world.spec.index_id, [Delta(parked)])
    assert 'tidemark_documents_parked{reason="archived"} 1.0' in (await world.metrics.get("/metrics")).text
    listed = (await world.client.get("/v1/documents?status=parked", headers=world.bearer("alice"))).json()["documents"]
    assert [(each["reason"], each["next_try"]) for each in listed] == [("archived", "2026-11-26T00:00:00Z")]
    live = replace(parked, revision=2, status=DocumentStatus.LIVE, reason="", parking=None)
    await world.ledger.swap(world.spec.index_id, [Delta(live)])
    assert "tidemark_documents_parked{" not in (await world.metrics.get("/metrics")).text
