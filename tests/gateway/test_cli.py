"""The command line against the development issuer and a gateway, both listening on loopback."""

from __future__ import annotations

import asyncio
import json
import stat
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import pytest
from typer.testing import CliRunner, Result

from consumers.erasures import eraser
from deploy.local.issuer.app import create_app as create_issuer
from deploy.local.issuer.grants import Grants
from deploy.local.issuer.keys import Keys
from deploy.local.issuer.tokens import Issuer
from gateway.app import create_app
from gateway.cli import app
from gateway.identity import Verifier
from gateway.issuer import IssuerKeys
from rag.models import DocumentStatus
from tests.fakes.serving import Switch, serving

MACHINE_SECRET = "a-secret-of-the-demo-client"
SENTENCE = "Lanterns on the east pier are lit at dusk."


@pytest.fixture(scope="module")
def doors() -> Iterator[tuple[Switch, str, Switch, str]]:
    """An issuer and a gateway, each with its address."""
    issuer, gateway = Switch(), Switch()
    with serving(issuer) as issuer_url, serving(gateway) as gateway_url:
        yield issuer, issuer_url, gateway, gateway_url


@pytest.fixture
def tidemark(
    world: Any,
    doors: tuple[Switch, str, Switch, str],
    signing_keys: Keys,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Any:
    """Runs ``tidemark ARGUMENTS``. ``shift`` moves the issuer's time: a negative one makes tokens that have ended."""
    shift = {"seconds": 0}
    issuer, url, gateway, gateway_url = doors
    issuer.app = create_issuer(
        Issuer(
            url=url, audience="tidemark", lifetime=300, secret=MACHINE_SECRET, keys=signing_keys,
            grants=Grants(tmp_path / "grants.json"), now=lambda: int(time.time()) + shift["seconds"],
        )
    )  # fmt: skip
    gateway.app = create_app(
        world, Verifier(IssuerKeys(url, httpx.AsyncClient(), allow_http=True), audience="tidemark")
    )
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    for name in ("GATEWAY_URL", "OIDC_ISSUER", "TIDEMARK_STACK", "OIDC_CLIENT_ID", "OIDC_CLIENT_SECRET"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    (tmp_path / ".stack").mkdir()
    lines = (
        f"GATEWAY_URL={gateway_url}",
        f"OIDC_ISSUER={url}",
        "OIDC_CLIENT_ID=demo",
        f"OIDC_CLIENT_SECRET={MACHINE_SECRET}",
    )
    (tmp_path / ".stack" / "env").write_text("\n".join(lines))

    def run(*arguments: str, code: int = 0) -> Result:
        result = CliRunner().invoke(app, list(arguments))
        assert result.exit_code == code, (result.output, result.exception)
        return result

    run.shift = shift  # type: ignore[attr-defined]
    run.tokens = tmp_path / "config" / "tidemark" / "tokens.json"  # type: ignore[attr-defined]
    return run


async def test_alice_logs_in_asks_and_searches(tidemark: Any, world: Any) -> None:
    await world.index(SENTENCE)
    await asyncio.to_thread(tidemark, "login", "--user", "alice")
    told = await asyncio.to_thread(tidemark, "ask", "When are the lanterns lit?")
    assert SENTENCE in " ".join(told.output.split())
    assert "a.md" in told.output
    found = await asyncio.to_thread(tidemark, "search", "lanterns", "--json")
    assert [hit["text"] for hit in json.loads(found.stdout)["hits"]] == [SENTENCE]


def test_the_token_is_its_owners_alone(tidemark: Any) -> None:
    tidemark("login", "--user", "alice")
    assert stat.S_IMODE(tidemark.tokens.stat().st_mode) == 0o600
    assert stat.S_IMODE(tidemark.tokens.parent.stat().st_mode) == 0o700


async def test_bob_does_not_find_it(tidemark: Any, world: Any) -> None:
    await world.index(SENTENCE)
    await asyncio.to_thread(tidemark, "login", "--user", "bob")
    assert "Nothing found" in (await asyncio.to_thread(tidemark, "search", "lanterns")).output


def test_a_program_logs_in_by_client_credentials(tidemark: Any) -> None:
    tidemark("login", "--client-credentials")
    tidemark("documents")


def test_an_ended_token_is_refreshed_once_for_each_use(tidemark: Any) -> None:
    tidemark.shift["seconds"] = -600
    tidemark("login", "--user", "alice")
    before = next(iter(json.loads(tidemark.tokens.read_text()).values()))
    stored = {key: value | {"expires_at": 0} for key, value in json.loads(tidemark.tokens.read_text()).items()}
    tidemark.tokens.write_text(json.dumps(stored))
    tidemark.shift["seconds"] = 0
    tidemark("documents")
    after = next(iter(json.loads(tidemark.tokens.read_text()).values()))
    assert after["access_token"] != before["access_token"]
    assert after["refresh_token"] != before["refresh_token"]


def test_a_command_without_a_login_names_the_login_command(tidemark: Any) -> None:
    assert "tidemark login" in tidemark("ask", "x", code=3).output


def test_an_unknown_user_is_refused(tidemark: Any) -> None:
    assert "mallory" in tidemark("login", "--user", "mallory", code=3).output
    assert not tidemark.tokens.exists()


def test_a_token_is_not_sent_to_another_gateway(tidemark: Any) -> None:
    tidemark("login", "--user", "alice")
    assert "tidemark login" in tidemark("--gateway", "http://127.0.0.1:1", "documents", code=3).output


def test_a_gateway_that_is_down_is_reported_as_unreachable(tidemark: Any) -> None:
    tidemark("--gateway", "http://127.0.0.1:1", "login", "--user", "alice")
    assert "does not answer" in tidemark("--gateway", "http://127.0.0.1:1", "documents", code=4).output


@pytest.mark.parametrize("way", [("--user", "alice"), ("--client-credentials",)])
def test_an_issuer_that_is_down_is_reported_as_unreachable(tidemark: Any, way: tuple[str, ...]) -> None:
    assert "cannot be read" in tidemark("--issuer", "http://127.0.0.1:1", "login", *way, code=4).output


async def test_uploads_are_awaited_until_searchable(tidemark: Any, world: Any, tmp_path: Path) -> None:
    for name in ("tides.md", "lanterns.md"):
        (tmp_path / name).write_text(SENTENCE)
    await asyncio.to_thread(tidemark, "login", "--user", "alice")
    publish = world.events.publish

    async def publish_and_index(topic: str, events: Any, *, headers: Any = None) -> None:
        await publish(topic, events, headers=headers)
        for _, event in events:
            await world.index(SENTENCE, source="uploads", uri=event.uri, principals=["user:alice"])

    world.events.publish = publish_and_index
    files = [str(tmp_path / name) for name in ("tides.md", "lanterns.md")]
    told = await asyncio.to_thread(lambda: tidemark("upload", *files, "--wait", "--json"))
    said = json.loads(told.stdout)
    assert [each["status"] for each in said] == ["live", "live"]
    assert "tides.md" in said[0]["uri"]
    listed = await asyncio.to_thread(tidemark, "documents", "--json")
    assert {each["document_id"] for each in json.loads(listed.stdout)} == {each["document_id"] for each in said}


def test_a_replaced_upload_is_reported(tidemark: Any, tmp_path: Path) -> None:
    (tmp_path / "tides.md").write_text(SENTENCE)
    tidemark("login", "--user", "alice")
    assert "replaces" not in tidemark("upload", str(tmp_path / "tides.md")).output
    assert "replaces your earlier upload" in " ".join(tidemark("upload", str(tmp_path / "tides.md")).output.split())


def test_two_files_of_one_name_are_a_usage_error(tidemark: Any, tmp_path: Path) -> None:
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "tides.md").write_text(SENTENCE)
    tidemark("login", "--user", "alice")
    files = [str(tmp_path / folder / "tides.md") for folder in ("a", "b")]
    assert "'tides.md'" in tidemark("upload", *files, code=2).output


def test_an_empty_file_is_reported_as_empty(tidemark: Any, tmp_path: Path) -> None:
    (tmp_path / "empty.md").touch()
    tidemark("login", "--user", "alice")
    assert "the file is empty" in tidemark("upload", str(tmp_path / "empty.md"), code=1).output


def test_a_problem_is_shown_as_a_sentence(tidemark: Any, tmp_path: Path) -> None:
    (tmp_path / "large.txt").write_text("x" * 5000)
    tidemark("login", "--user", "alice")
    told = tidemark("upload", str(tmp_path / "large.txt"), code=1).output
    assert "Too large" in told
    assert "{" not in told


def test_a_wrong_filter_is_a_usage_error(tidemark: Any) -> None:
    tidemark("login", "--user", "alice")
    tidemark("search", "x", "--filter", "source", code=2)
    assert "tenant" in tidemark("search", "x", "--filter", "tenant=globex", code=1).output


async def test_escape_sequences_of_documents_do_not_reach_the_terminal(tidemark: Any, world: Any) -> None:
    await world.index("Lanterns \x1b[2J\x1b]0;owned\x07 are [bold]lit[/bold] at dusk.")
    await asyncio.to_thread(tidemark, "login", "--user", "alice")
    told = (await asyncio.to_thread(tidemark, "search", "lanterns")).output
    assert "\x1b" not in told
    assert "[bold]lit[/bold]" in told


@pytest.fixture
async def dead(world: Any) -> str:
    """A dead document beside a live one."""
    await world.index(SENTENCE, name="live.md")
    return str(await world.index("", name="broken.pdf", status=DocumentStatus.DEAD, reason="corrupt"))


async def test_dead_documents_are_listed_with_their_reason_and_shown_with_their_event(tidemark: Any, dead: str) -> None:
    await asyncio.to_thread(tidemark, "login", "--client-credentials")
    listed = (await asyncio.to_thread(tidemark, "dead", "list")).output
    assert dead in listed
    assert "corrupt" in listed
    assert "live.md" not in listed
    assert "No dead documents" in (await asyncio.to_thread(tidemark, "dead", "list", "--reason", "encrypted")).output
    shown = (await asyncio.to_thread(tidemark, "dead", "show", dead)).output
    for each in ("dead corrupt", "broken.pdf (s3)", "documents.changed.v1[3] offset 41", "run-1"):
        assert each in shown


@pytest.mark.parametrize("every", [True, False])
async def test_dead_documents_are_announced_again(tidemark: Any, world: Any, dead: str, every: bool) -> None:
    await asyncio.to_thread(tidemark, "login", "--client-credentials")
    await asyncio.to_thread(tidemark, "dead", "redrive", *(["--all", "--reason", "corrupt"] if every else [dead]))
    assert [(event.document_id, event.origin) for event in await world.published()] == [(dead, "redrive")]


def test_a_redrive_of_nothing_or_of_both_is_a_usage_error(tidemark: Any) -> None:
    tidemark("login", "--client-credentials")
    tidemark("dead", "redrive", code=2)
    tidemark("dead", "redrive", "--all", str(uuid4()), code=2)
    tidemark("dead", "redrive", "not-an-id", code=2)


async def test_a_redrive_needs_its_scope(tidemark: Any, world: Any, dead: str) -> None:
    await asyncio.to_thread(tidemark, "login", "--user", "alice")
    assert "rag:admin" in (await asyncio.to_thread(tidemark, "dead", "redrive", dead, code=1)).output
    assert not await world.published()


async def test_a_dropped_document_is_suppressed_and_a_live_one_is_left(tidemark: Any, world: Any, dead: str) -> None:
    live = await world.index(SENTENCE, name="live.md")
    await asyncio.to_thread(tidemark, "login", "--client-credentials")
    refused = await asyncio.to_thread(tidemark, "dead", "drop", live, code=1)
    assert "not dead" in " ".join(refused.output.split())
    await asyncio.to_thread(tidemark, "dead", "drop", dead)
    assert await world.ledger.suppressed("acme", [dead, live]) == {dead}


async def test_a_document_is_erased_and_its_certificate_verified_without_a_server(
    tidemark: Any, world: Any, tmp_path: Path
) -> None:
    gone = await world.index(SENTENCE, name="gone.md")
    await asyncio.to_thread(tidemark, "login", "--client-credentials")
    dry = await asyncio.to_thread(tidemark, "erase", "run", "--document", gone, "--dry-run", "--json")
    assert [each["document_id"] for each in json.loads(dry.stdout)["documents"]] == [gone]
    assert await world.ledger.erasures("acme") == []
    accepted = json.loads(
        (await asyncio.to_thread(tidemark, "erase", "run", "--document", gone, "--yes", "--json")).stdout
    )
    assert (accepted["state"], accepted["affected"]["documents"]) == ("requested", 1)
    assert accepted["erasure_id"] in (await asyncio.to_thread(tidemark, "erase", "list")).output
    signer = world.app.state.signer
    services: Any = world
    worker = eraser(services, signer)
    for _ in range(2):
        (erasure,) = await world.ledger.erasures("acme")
        await worker.step(erasure, erasure.next_at)
    assert "certified" in (await asyncio.to_thread(tidemark, "erase", "status", accepted["erasure_id"])).output
    file = tmp_path / "certificate.jws"
    await asyncio.to_thread(tidemark, "erase", "certificate", accepted["erasure_id"], str(file))
    html = tmp_path / "certificate.html"
    verify = ("erase", "verify-certificate", str(file), "--page", str(html))
    assert "genuine" in (await asyncio.to_thread(tidemark, *verify)).output
    shown = html.read_text()
    assert file.read_text().strip() in shown
    assert gone in shown
    html.unlink()
    head, payload, signature = file.read_text().strip().split(".")
    file.write_text(".".join((head, payload[:-8] + "AAAAAAAA", signature)))
    assert "refused" in (await asyncio.to_thread(tidemark, *verify, code=1)).output
    assert not html.exists()


def test_an_erasure_names_one_target(tidemark: Any) -> None:
    tidemark("login", "--client-credentials")
    tidemark("erase", "run", code=2)
    tidemark("erase", "run", "--email", "a@example.com", "--prefix", "s3://docs/", code=2)
    tidemark("erase", "run", "--name", "Pat Doe", "--yes", code=0)
    tidemark("erase", "run", "--document", str(uuid4()), "--yes", code=1)


async def test_a_legal_hold_is_placed_listed_and_lifted(tidemark: Any, world: Any) -> None:
    document = await world.index(SENTENCE)

    async def hold(*arguments: str, code: int = 0) -> str:
        return str((await asyncio.to_thread(lambda: tidemark("hold", *arguments, code=code))).output)

    await asyncio.to_thread(tidemark, "login", "--client-credentials")
    placed = json.loads(await hold("place", "--document", document, "--reason", "case 7", "--json"))
    assert "placed on source s3" in await hold("place", "--source", "s3", "--reason", "case 8")
    listed = await hold("list")
    assert placed["hold_id"] in listed
    assert "case 7" in listed
    assert {each["reason"] for each in json.loads(await hold("list", "--json"))} == {"case 7", "case 8"}
    assert f"lifted on {document}" in await hold("lift", placed["hold_id"])
    assert len(json.loads(await hold("list", "--json"))) == 1
    await hold("lift", placed["hold_id"], code=1)


async def test_access_is_granted_explained_listed_and_withdrawn(tidemark: Any, world: Any) -> None:
    hidden = await world.index(SENTENCE, principals=("group:board",))
    await asyncio.to_thread(tidemark, "login", "--client-credentials")
    rule = json.loads(
        (await asyncio.to_thread(tidemark, "access", "grant", "group:staff", "--document", hidden, "--json")).output
    )
    assert "\x1b" not in (await asyncio.to_thread(tidemark, "access", "revoke", "user:bob", "--source", "s3")).output
    listed = (await asyncio.to_thread(tidemark, "access", "list")).output
    assert rule["rule_id"] in listed
    assert "revoke" in listed
    why = ("access", "why", hidden, "--user", "alice", "--group", "staff")
    assert "visible: document" in (await asyncio.to_thread(tidemark, *why)).output
    assert "withdrawn: grant" in (await asyncio.to_thread(tidemark, "access", "withdraw", rule["rule_id"])).output
    assert "no grant names the caller" in " ".join((await asyncio.to_thread(tidemark, *why)).output.split())


async def test_the_audit_log_is_searched_exported_and_verified(tidemark: Any, world: Any, tmp_path: Path) -> None:
    document = await world.index(SENTENCE)
    await asyncio.to_thread(tidemark, "login", "--client-credentials")
    for _ in range(2):
        await asyncio.to_thread(tidemark, "search", "lanterns")
    found = (await asyncio.to_thread(tidemark, "audit", "search", "--action", "query", "--object", document)).output
    assert found.count("query.search") == 2
    rows = json.loads((await asyncio.to_thread(tidemark, "audit", "search", "--limit", "2", "--json")).output)
    assert [row["number"] for row in rows] == [3, 2]
    file = tmp_path / "audit.jsonl"
    await asyncio.to_thread(tidemark, "audit", "export", "--action", "query", "--out", str(file))
    printed = (await asyncio.to_thread(tidemark, "audit", "export", "--action", "query")).output
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    assert [line["class_uid"] for line in lines] == [6003, 6003]
    assert printed == file.read_text()
    assert "intact" in (await asyncio.to_thread(tidemark, "audit", "verify")).output
    del world.ledger.chains["acme"][0]
    changed = await asyncio.to_thread(lambda: tidemark("audit", "verify", code=1))
    assert "missing 1:" in changed.output
    assert not json.loads((await asyncio.to_thread(lambda: tidemark("audit", "verify", "--json", code=1))).output)[
        "intact"
    ]
    await asyncio.to_thread(lambda: tidemark("audit", "export", "--out", str(tmp_path / "no" / "folder"), code=1))


def test_a_rule_names_one_target(tidemark: Any) -> None:
    tidemark("login", "--client-credentials")
    tidemark("access", "grant", "user:bob", code=2)
    tidemark("hold", "place", "--reason", "case 7", code=2)
    tidemark("hold", "place", "--reason", "case 7", "--prefix", "s3://docs/a/", code=2)
    tidemark("access", "grant", "user:bob", "--document", str(uuid4()), "--source", "s3", code=2)
    tidemark("access", "revoke", "user:bob", "--prefix", "s3://docs/a/", code=2)


def test_reconcile_runs_the_consumers_of_this_machine(tidemark: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[tuple[list[str], str]] = []

    def run(command: list[str], *, env: dict[str, str], check: bool) -> subprocess.CompletedProcess[bytes]:
        started.append((command[1:], env["TIDEMARK_STACK"]))
        return subprocess.CompletedProcess(command, 3)

    monkeypatch.setattr("gateway.cli.subprocess.run", run)
    tidemark("reconcile", "--dry-run", code=3)
    ((command, stack),) = started
    assert command == ["-m", "consumers", "reconcile", "--dry-run"]
    assert Path(stack).name == ".stack"
