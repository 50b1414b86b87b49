"""From nothing to a cited answer: load a corpus, show its arrival, ask with an OIDC token, print the answers."""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import snowflake.connector
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from deploy.local.demo import loading
from deploy.local.errors import StackError
from rag.adapters.issuer import fetch_token
from rag.ids import object_uri
from rag.models import Inventoried
from rag.settings import Settings, load, snowflake_parameters
from rag.wiring import Services, aws, services
from schemas.topics import CHANGED

SECONDS = 900  # without any progress: then the demo gives up. A large corpus may take longer
EDIT_SECONDS = 60.0  # until an edit that is not found is a fault
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


def load_and_ask(folder: Path, console: Console) -> dict[str, Any]:
    """Load the corpus into the stack of ``folder``, which is up, and ask. Return the questions, answers and timings."""
    settings = load(folder)
    own = os.environ.get("CORPUS")
    corpus = Path(own).expanduser() if own else loading.DOCUMENTS
    if not corpus.is_dir():
        raise StackError(f"CORPUS={own} is not a folder: name one with documents in it")
    timings = Timings()
    with timings.step("documents into S3"):
        documents = loading.put_documents(aws(settings, "s3"), settings.s3_bucket, corpus)
    console.print(f"S3          {documents.written} of {documents.found} objects put into s3://{settings.s3_bucket}")
    rows = loading.Load(0, ())
    if not own:
        with timings.step("rows into Snowflake"):
            rows = loading.put_rows(lambda: snowflake.connector.connect(**snowflake_parameters(settings)))
        console.print(f"Snowflake   {rows.written} of {rows.found} rows inserted")
    with timings.step("searchable"):
        embedded = asyncio.run(_arrive(settings, documents.keys, rows.keys, console))
    with httpx.Client(base_url=settings.gateway_url, timeout=60) as client:
        with timings.step("token"):
            token = fetch_token(settings.oidc_issuer, settings.oidc_client_id, settings.oidc_client_secret)
            client.headers["Authorization"] = f"Bearer {token}"
        questions = (os.environ.get("QUESTION"),) if os.environ.get("QUESTION") else QUESTIONS
        answers = [_ask(client, str(question), timings, console) for question in questions]
    first = answers[0]
    console.print(f"\nEmbedded    {embedded} chunks in this run")
    return {
        "question": first["question"],
        "answer": first["answer"],
        "citations": first["citations"],
        "timings": timings.steps,
        "embedded": embedded,
        "answers": answers,
    }


def edit_and_report(folder: Path, console: Console, written: dict[str, Any]) -> None:
    """Edit a document, search until the stream lane has indexed the edit, and write ``demo.json`` into ``folder``."""
    settings = load(folder)
    seconds = written["timings"]
    seconds["edit to found"] = _edit(settings)
    console.print(f"Edit        found by search {seconds['edit to found']:.2f} s after it was put into S3")
    console.print("Seconds     " + ", ".join(f"{name} {value}" for name, value in seconds.items()))
    (folder / "demo.json").write_text(json.dumps(written, indent=2, ensure_ascii=False) + "\n")
    console.print(f"Gateway     {settings.gateway_url}/docs   (log in as alice, bob, eve or dpo)")
    console.print(f"Dagster     {settings.dagster_url}")
    console.print(f"Written     {folder / 'demo.json'}; `make down` stops the stack", soft_wrap=True)


def _edit(settings: Settings) -> float:
    """Return the seconds from the end of the put until a search with a token finds the new text. Raises StackError after a minute."""
    word = secrets.token_hex(6)
    text = f"# Freshness\n\nThe demo edits this document at every run. Its newest word is {word}.\n"
    token = fetch_token(settings.oidc_issuer, settings.oidc_client_id, settings.oidc_client_secret)
    with httpx.Client(
        base_url=settings.gateway_url, timeout=60, headers={"Authorization": f"Bearer {token}"}
    ) as client:
        aws(settings, "s3").put_object(Bucket=settings.s3_bucket, Key="demo/freshness.md", Body=text.encode())
        began = time.perf_counter()
        while (waited := time.perf_counter() - began) < EDIT_SECONDS:
            hits = (
                client.post("/v1/search", json={"query": f"newest word {word}", "top_k": 3})
                .raise_for_status()
                .json()["hits"]
            )
            if any(word in hit["text"] for hit in hits):
                return round(time.perf_counter() - began, 2)
    raise StackError(f"the edit was not found within {waited:.0f} s: see the log of the stream lane, `make status`")


async def _arrive(settings: Settings, keys: Sequence[str], row_keys: Sequence[str], console: Console) -> int:
    """Wait until the corpus is in the index as it is now, or among the dead. Returns how many chunks were embedded meanwhile."""
    async with services(settings) as backend:
        bucket = f"s3://{settings.s3_bucket}"
        uris = {object_uri(bucket, key) for key in keys}
        rows = {object_uri(backend.sources.named("snowflake").base_uri, key) for key in row_keys}
        change_tokens = {
            state.uri: state.change_token async for state in backend.objects.list(bucket) if state.uri in uris
        }
        before = await _embedded(backend)
        columns = (TextColumn("{task.description:<11}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        with Progress(*columns, console=console) as progress:
            bars = {name: progress.add_task(name, total=None) for name in ("Kafka", "Dagster", "S3", "Snowflake")}
            await _until(lambda: _show(backend, change_tokens, rows, progress, bars))
        counts = await count_statuses(backend, uris | rows)
        console.print("Index       " + ", ".join(f"{count} {status}" for status, count in sorted(counts.items())))
        return int(await _embedded(backend) - before)


async def _show(
    backend: Services,
    change_tokens: Mapping[str, str],
    rows: AbstractSet[str],
    progress: Progress,
    bars: Mapping[str, TaskID],
) -> tuple[bool, Any]:
    """Draw the state once. Returns whether all has arrived, and a value that changes with every progress."""
    state = await backend.events.describe(CHANGED)
    positions = await backend.ledger.positions(backend.spec.index_id, CHANGED, state.epoch)
    events = sum(end for _, end in state.bounds.values())
    inventory, row_inventory = await _inventory(backend, "s3"), await _inventory(backend, "snowflake")
    done = {
        "Kafka": (events, events),
        "Dagster": (sum(positions.values()), events),
        "S3": (
            sum(uri in inventory and inventory[uri].change_token == token for uri, token in change_tokens.items()),
            len(change_tokens),
        ),
        "Snowflake": (sum(uri in row_inventory for uri in rows), len(rows)),
    }
    for name, (completed, total) in done.items():
        progress.update(bars[name], completed=completed, total=total, visible=total > 0)
    return all(completed >= total for completed, total in done.values()), done


async def count_statuses(backend: Services, uris: AbstractSet[str]) -> Counter[str]:
    """Count the corpus's own documents and rows by status; the index may hold others."""
    inventory = await _inventory(backend, "s3") | await _inventory(backend, "snowflake")
    return Counter(inventory[uri].status.value for uri in uris if uri in inventory)


async def _inventory(backend: Services, source: str) -> dict[str, Inventoried]:
    return await backend.ledger.inventory(backend.spec.index_id, backend.settings.default_tenant, source)


async def _until(look: Callable[[], Any]) -> None:
    """Look again until all has arrived. Raises StackError when nothing has moved for ``SECONDS``."""
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


async def _embedded(backend: Services) -> float:
    totals = await backend.ledger.totals()
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
        event = (
            f"partition {citation['partition']}, offset {citation['offset']}" if citation["offset"] >= 0 else "backfill"
        )
        console.print(
            f"  [dim]\\[{citation['marker']}] {escape(citation['title'])}{page} · {escape(citation['uri'])} · "
            f"{event} · run {citation['run_id'][:8]}[/dim]"
        )
    return {"question": question, **found}
