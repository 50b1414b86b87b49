"""From nothing to a cited answer: load a corpus, show it arrive, ask with an OIDC token, print what came back."""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import snowflake.connector
from authlib.integrations.httpx_client import OAuth2Client
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from deploy.local import sample
from deploy.local.errors import StackError
from rag.arrivals import CHANGED
from rag.settings import Settings, load, snowflake_parameters
from rag.wiring import Services, aws, services

SECONDS = 900  # a corpus of one's own may be large; progress is shown, and no progress for this long is an error
QUESTIONS = (  # a sentence, a sentence, a table on a later page, a row
    "How many days a year may I log in from my parents' house in another country?",
    "How long are our encrypted backups held?",
    "The red light on my logger blinks four times, what is wrong?",
    "What happened with the hay bale at the ford?",
)


@dataclass
class Timings:
    """Seconds by step, in order."""

    steps: dict[str, float] = field(default_factory=dict)

    def step(self, name: str) -> AbstractContextManager[None]:
        return _Step(self, name)


@dataclass
class _Step(AbstractContextManager[None]):
    timings: Timings
    name: str
    began: float = 0.0

    def __enter__(self) -> None:
        self.began = time.perf_counter()

    def __exit__(self, *_: object) -> None:
        self.timings.steps[self.name] = round(time.perf_counter() - self.began, 2)


def run(folder: Path, console: Console) -> None:
    """The stack of ``folder`` is up. Writes ``demo.json`` there."""
    settings = load(folder)
    own = os.environ.get("CORPUS")
    corpus = Path(own).expanduser() if own else sample.DOCUMENTS
    if not corpus.is_dir():
        raise StackError(f"CORPUS={own} is no folder: name one with documents in it")
    timings = Timings()
    with timings.step("documents into S3"):
        documents = sample.put_documents(aws(settings, "s3"), settings.s3_bucket, corpus)
    console.print(f"S3          {documents.written} of {documents.found} objects put into s3://{settings.s3_bucket}")
    expected = {"s3": documents.found}
    if not own:
        with timings.step("rows into Snowflake"):
            rows = sample.put_rows(lambda: snowflake.connector.connect(**snowflake_parameters(settings)))
        console.print(f"Snowflake   {rows.written} of {rows.found} rows inserted")
        expected["snowflake"] = rows.found
    with timings.step("searchable"):
        embedded = asyncio.run(_arrive(settings, expected, console))
    with httpx.Client(base_url=settings.gateway_url, timeout=60) as client:
        with timings.step("token"):
            client.headers["Authorization"] = f"Bearer {token(settings)}"
        questions = (os.environ.get("QUESTION"),) if os.environ.get("QUESTION") else QUESTIONS
        answers = [_ask(client, str(question), timings, console) for question in questions]
    first = answers[0]
    written = {
        "question": first["question"],
        "answer": first["answer"],
        "citations": first["citations"],
        "timings": timings.steps,
        "embedded": embedded,
        "answers": answers,
    }
    (folder / "demo.json").write_text(json.dumps(written, indent=2, ensure_ascii=False) + "\n")
    console.print("\nSeconds     " + ", ".join(f"{name} {seconds}" for name, seconds in timings.steps.items()))
    console.print(f"Embedded    {embedded} chunks in this run")
    console.print(f"Gateway     {settings.gateway_url}/docs   (log in as alice, bob, eve or dpo)")
    console.print(f"Dagster     {settings.dagster_url}")
    console.print(f"Written     {folder / 'demo.json'}; `make down` stops the stack", soft_wrap=True)


def token(settings: Settings) -> str:
    """Client credentials of the development client, by the discovery document of the issuer."""
    found = httpx.get(f"{settings.oidc_issuer}/.well-known/openid-configuration", timeout=10).raise_for_status().json()
    secret = settings.oidc_client_secret.get_secret_value() if settings.oidc_client_secret else None
    with OAuth2Client(settings.oidc_client_id, secret, token_endpoint=found["token_endpoint"]) as client:
        return str(client.fetch_token(grant_type="client_credentials")["access_token"])


async def _arrive(settings: Settings, expected: dict[str, int], console: Console) -> int:
    """Follow the events until every document is in the index or among the dead; returns what was embedded meanwhile."""
    async with services(settings) as made:
        before = await _embedded(made)
        columns = (TextColumn("{task.description:<11}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        with Progress(*columns, console=console) as progress:
            bars = {name: progress.add_task(name, total=None) for name in ("Kafka", "Dagster", *expected)}
            await _until(lambda: _show(made, expected, progress, bars))
        dead = [row for name in expected for row in (await made.ledger.counts(made.spec.index_id, name)).items()]
        console.print("Index       " + ", ".join(f"{count} {status}" for status, count in dead))
        return int(await _embedded(made) - before)


async def _show(
    made: Services, expected: dict[str, int], progress: Progress, bars: dict[str, TaskID]
) -> tuple[bool, Any]:
    """Draw the state once; (whether all is there, what tells progress from standstill)."""
    state = await made.events.describe(CHANGED)
    positions = await made.ledger.positions(made.spec.index_id, CHANGED, state.epoch)
    events = sum(end for _, end in state.bounds.values())
    handled = sum(positions.values())
    progress.update(bars["Kafka"], completed=events, total=events)
    progress.update(bars["Dagster"], completed=handled, total=events)
    complete = handled >= events
    seen = [events, handled]
    for name, wanted in expected.items():
        counts = await made.ledger.counts(made.spec.index_id, name)
        settled = counts.get("live", 0) + counts.get("dead", 0)
        progress.update(bars[name], completed=min(settled, wanted), total=wanted)
        complete = complete and settled >= wanted
        seen.append(settled)
    return complete, seen


async def _until(look: Callable[[], Any]) -> None:
    """Look again until all is there; give up when nothing has moved for ``SECONDS``."""
    moved, last = time.monotonic(), None
    while True:
        complete, seen = await look()
        if complete:
            return
        if seen != last:
            moved, last = time.monotonic(), seen
        if time.monotonic() - moved > SECONDS:
            raise StackError(f"nothing has moved for {SECONDS} s: see `python -m deploy.local logs` and Dagster's runs")
        await asyncio.sleep(0.5)


async def _embedded(made: Services) -> float:
    totals = await made.ledger.totals()
    return totals.get(("tidemark_chunks_embedded_total", ()), 0.0)


def _ask(client: httpx.Client, question: str, timings: Timings, console: Console) -> dict[str, Any]:
    with timings.step(f"answer {len([n for n in timings.steps if n.startswith('answer')]) + 1}"):
        response = client.post("/v1/answers", json={"question": question})
    if response.is_error:
        raise StackError(f"the gateway answers {response.status_code} to {question!r}: {response.text[:500]}")
    found: dict[str, Any] = response.json()
    console.print(f"\n[bold]{escape(question)}[/bold]\n{escape(found['answer'])}")
    for citation in found["citations"]:
        page = f", page {citation['page']}" if citation["page"] else ""
        console.print(
            f"  [dim]\\[{citation['marker']}] {escape(citation['title'])}{page} · {escape(citation['uri'])} · "
            f"partition {citation['partition']}, offset {citation['offset']} · run {citation['run_id'][:8]}[/dim]"
        )
    return {"question": question, **found}
