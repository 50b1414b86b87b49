"""The gate in front of Dagster, in front of Dagster's real application and schema where a mutation is at stake."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import dagster as dg
import pytest
from dagster._core.workspace.context import WorkspaceProcessContext
from dagster._core.workspace.load_target import EmptyWorkspaceTarget
from dagster_webserver import app
from dagster_webserver.app import create_app_from_workspace_process_context
from dagster_webserver.webserver import DagsterWebserver
from starlette.testclient import TestClient
from starlette.websockets import WebSocketDisconnect

from deploy.local.dagster import webserver

HOST = "127.0.0.1:18030"
OWN = {"Host": HOST, "Origin": f"http://{HOST}"}
QUERY = "{ instance { id } }"
MUTATION = 'mutation { setConcurrencyLimit(concurrencyKey: "k", limit: 7) }'


@pytest.fixture(scope="module")
def shared() -> Iterator[dg.DagsterInstance]:
    with dg.instance_for_test() as instance:
        yield instance


@pytest.fixture
def instance(shared: dg.DagsterInstance) -> Iterator[dg.DagsterInstance]:
    yield shared
    shared.event_log_storage.delete_concurrency_limit("k")


@pytest.fixture(scope="module")
def dagster(shared: dg.DagsterInstance) -> Iterator[TestClient]:
    with pytest.MonkeyPatch.context() as patch, WorkspaceProcessContext(shared, EmptyWorkspaceTarget()) as context:
        patch.setattr("dagster_webserver.app.DagsterWebserver", webserver.GuardedWebserver)
        yield TestClient(create_app_from_workspace_process_context(context), f"http://{HOST}")


def limits(instance: dg.DagsterInstance) -> set[str]:
    return set(instance.event_log_storage.get_concurrency_keys())


@pytest.mark.parametrize("headers", [{}, OWN, {"Host": "localhost:18030", "Origin": "http://localhost:18030"}])
def test_programs_and_dagsters_own_pages_may_ask_and_change(
    dagster: TestClient, instance: dg.DagsterInstance, headers: dict[str, str]
) -> None:
    assert dagster.post("/graphql", json={"query": QUERY}, headers=headers).json()["data"]["instance"]["id"]
    answer = dagster.post("/graphql", json={"query": MUTATION}, headers=headers)
    assert answer.json() == {"data": {"setConcurrencyLimit": True}}
    assert limits(instance) == {"k"}


HOSTILE: dict[str, tuple[str, str, dict[str, Any]]] = {
    "by GET": ("GET", f"/graphql?query={MUTATION}", {}),
    "by GET with a slash": ("GET", f"/graphql/?query={MUTATION}", {}),
    "by HEAD": ("HEAD", f"/graphql?query={MUTATION}", {}),
    "by GET of a page's image": ("GET", f"/graphql?query={MUTATION}", {"headers": {"Accept": "image/*,*/*;q=0.8"}}),
    "by an empty post": ("POST", f"/graphql?query={MUTATION}", {}),
    "by a form": ("POST", f"/graphql?query={MUTATION}", {"data": {"a": "b"}}),
    "as plain text": ("POST", "/graphql", {"content": MUTATION, "headers": {"Content-Type": "text/plain"}}),
    "as GraphQL": ("POST", "/graphql", {"content": MUTATION, "headers": {"Content-Type": "application/graphql"}}),
    "as JSON in disguise": (
        "POST", "/graphql",
        {"content": json.dumps({"query": MUTATION}), "headers": {"Content-Type": "text/plain; x=application/json"}},
    ),
    "from another origin": ("POST", "/graphql", {"json": {"query": MUTATION}, "headers": {"Origin": "https://evil.example"}}),
    "from another port": ("POST", "/graphql", {"json": {"query": MUTATION}, "headers": {"Origin": "http://127.0.0.1:3000"}}),
    "from a sandboxed page": ("POST", "/graphql", {"json": {"query": MUTATION}, "headers": {"Origin": "null"}}),
    "to another name": ("POST", "/graphql", {"json": {"query": MUTATION}, "headers": {"Host": "evil.example:18030"}}),
    "to a name that only begins like this machine": (
        "POST", "/graphql", {"json": {"query": MUTATION}, "headers": {"Host": "127.0.0.1.evil.example"}},
    ),
    "from a rebound name": (
        "POST", "/graphql",
        {"json": {"query": MUTATION}, "headers": {"Host": "evil.example:18030", "Origin": "http://evil.example:18030"}},
    ),
    "with two origins": (
        "POST", "/graphql",
        {"json": {"query": MUTATION}, "headers": [("Origin", f"http://{HOST}"), ("Origin", "https://evil.example")]},
    ),
}  # fmt: skip


@pytest.mark.parametrize("way", HOSTILE)
def test_a_mutation_of_a_foreign_page_is_refused(dagster: TestClient, instance: dg.DagsterInstance, way: str) -> None:
    method, path, arguments = HOSTILE[way]
    assert dagster.request(method, path, **arguments).status_code in (403, 405, 415)
    assert limits(instance) == set()


def test_an_event_cannot_be_reported_by_a_form(dagster: TestClient, instance: dg.DagsterInstance) -> None:
    assert dagster.post("/report_asset_materialization/a").status_code == 415
    assert dagster.post("/report_asset_materialization/a", data={"description": "x"}).status_code == 415
    assert dagster.post("/report_asset_materialization/a", json={}).status_code == 200
    assert instance.get_latest_materialization_event(dg.AssetKey("a")) is not None


@pytest.mark.parametrize("origin", ["https://evil.example", "null", "http://127.0.0.1:3000"])
def test_a_subscription_of_a_foreign_page_is_refused(dagster: TestClient, origin: str) -> None:
    with (
        pytest.raises(WebSocketDisconnect),
        dagster.websocket_connect("/graphql", ["graphql-ws"], headers=OWN | {"Origin": origin}),
    ):
        pass


def test_a_subscription_of_dagsters_own_page_is_served(dagster: TestClient) -> None:
    with dagster.websocket_connect("/graphql", ["graphql-ws"], headers=OWN) as socket:
        socket.send_json({"type": "connection_init"})
        assert socket.receive_json() == {"type": "connection_ack"}


def test_pages_and_the_playground_are_served(dagster: TestClient) -> None:
    browser = {"Accept": "text/html,application/xhtml+xml,*/*;q=0.8"}
    assert "Dagster" in dagster.get("/runs", headers=browser).text
    assert "graphiql" in dagster.get(f"/graphql?query={MUTATION}", headers=browser).text.lower()
    assert dagster.get("/server_info").json()["dagster_version"]


def test_the_webserver_of_the_stack_is_the_guarded_one(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[type] = []
    monkeypatch.setattr("dagster_webserver.app.DagsterWebserver", DagsterWebserver)
    monkeypatch.setattr("sqlalchemy.event.listen", lambda *_: None)
    monkeypatch.setattr("dagster_webserver.cli.main", lambda: made.append(vars(app)["DagsterWebserver"]))
    webserver.main()
    assert made == [webserver.GuardedWebserver]
