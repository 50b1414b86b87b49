"""Erasures and access over HTTP, on the real stack: the time until nothing shows a document, and until a person's erasure is certified.

A person is declared in no document and mentioned in some of many, so each of them must be read to find the mentions.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
from rich.console import Console

from evals.loading import until_live
from evals.local_stack import temporary_stack
from evals.metrics import percentile
from rag.adapters.issuer import fetch_token
from rag.errors import Unavailable
from rag.files import write_whole
from rag.settings import load
from rag.wiring import services

SEED = 11
SAMPLES = 20  # documents that are erased, and as many whose access is revoked and granted
PERSON = "jane.roe@example.com"
PATIENCE = 300.0  # seconds until an erasure must be certified


@dataclass(frozen=True, slots=True)
class Erasing:
    """Seconds. ``hidden`` is from an acceptance's response to the first search without the document, ``revoked`` and ``granted`` from the
    rule's response to the first search that obeys. ``leaks`` counts searches after a response that still showed the document."""

    documents: int
    mentioning: int
    hidden_p95: float
    revoked_p95: float
    granted_p95: float
    leaks: int
    searches: int
    dry_run: float  # of the person
    accepted: float
    certified: float  # from the request, with the settling time
    settle: float
    found: int  # documents in which the person was found


async def run(documents: int, mentioning: int, console: Console, *, keep: bool = False) -> Erasing:
    """Measure on a temporary stack with the stream lane and the free embedder."""
    async with temporary_stack(keep=keep, lane="stream", settings={"EMBEDDER": "hash"}) as folder:
        return await measure(folder, documents, mentioning, console)


async def measure(folder: Path, documents: int, mentioning: int, console: Console) -> Erasing:
    settings = load(folder).model_copy(update={"embedder": "hash"})
    words = random.Random(SEED)  # noqa: S311  (words, not secrets)
    async with services(settings) as opened:
        console.print(f"loading {documents} documents, of which {mentioning} mention a person")
        await asyncio.to_thread(_write, Path(settings.inbox_dir or "") / "erasing", documents, mentioning, words)
        await until_live(documents, opened)
    token = fetch_token(settings.oidc_issuer, settings.oidc_client_id, settings.oidc_client_secret)
    async with httpx.AsyncClient(
        base_url=settings.gateway_url, headers={"Authorization": f"Bearer {token}"}, timeout=120
    ) as client:
        caller = Caller(client)
        listed = await caller.call("GET", "/v1/documents", params={"source": "folder", "limit": 4 * SAMPLES})
        names = [(each["document_id"], each["title"]) for each in listed["documents"] if _is_plain(each)][: 2 * SAMPLES]
        console.print(f"revoking and granting {SAMPLES} documents, then erasing {SAMPLES} others")
        revoked = [await caller.decide(*each, effect="revoke") for each in names[:SAMPLES]]
        granted = [await caller.decide(*each, effect="grant") for each in names[:SAMPLES]]
        hidden = [await caller.erase(*each) for each in names[SAMPLES:]]
        console.print("erasing the person")
        subject = {"subject": {"kind": "email", "value": PERSON.upper()}}
        located, dry_run = await _timed(lambda: caller.call("POST", "/v1/erasures", json=subject | {"dry_run": True}))
        began = time.perf_counter()
        request, accepted = await _timed(lambda: caller.call("POST", "/v1/erasures", json=subject))
        await caller.until_certified(request["erasure_id"])
        certified = time.perf_counter() - began
    return Erasing(
        documents, mentioning, percentile(hidden, 0.95), percentile(revoked, 0.95), percentile(granted, 0.95), caller.leaks,
        caller.searches, dry_run, accepted, certified, settings.erasure_settle_seconds, located["affected"]["documents"],
    )  # fmt: skip


@dataclass
class Caller:
    """An officer and administrator, who also searches."""

    client: httpx.AsyncClient
    leaks: int = 0
    searches: int = 0

    async def call(self, method: str, path: str, **options: Any) -> dict[str, Any]:
        answer = await self.client.request(method, path, **options)
        return dict(answer.raise_for_status().json())

    async def decide(self, document_id: str, title: str, *, effect: str) -> float:
        """Grant or revoke, and return the seconds until a search obeys."""
        body = {"effect": effect, "principal": "group:staff", "document_id": document_id}
        await self.call("POST", "/v1/access", json=body)
        return await self._until(document_id, title, is_found=effect == "grant")

    async def erase(self, document_id: str, title: str) -> float:
        await self.call("POST", "/v1/erasures", json={"document_id": document_id})
        return await self._until(document_id, title, is_found=False)

    async def until_certified(self, erasure_id: str) -> None:
        deadline = time.monotonic() + PATIENCE
        while (found := await self.call("GET", f"/v1/erasures/{erasure_id}"))["state"] != "certified":
            if time.monotonic() > deadline:
                raise Unavailable(
                    f"erasure {erasure_id} is {found['state']} after {PATIENCE:.0f} s: {found['history'][-1]}"
                )
            await asyncio.sleep(0.05)

    async def _until(self, document_id: str, title: str, *, is_found: bool) -> float:
        """Return the seconds until a search for exactly this document shows it, or does not show it any more."""
        began = time.perf_counter()
        body = {"query": title, "filters": {"document_id": document_id}}
        while True:
            seen = bool((await self.call("POST", "/v1/search", json=body))["hits"])
            self.searches += 1
            if seen is is_found:
                return time.perf_counter() - began
            self.leaks += seen


async def _timed(work: Callable[[], Awaitable[dict[str, Any]]]) -> tuple[dict[str, Any], float]:
    began = time.perf_counter()
    return await work(), time.perf_counter() - began


def _is_plain(document: dict[str, Any]) -> bool:
    return document["status"] == "live" and "mention" not in document["title"].lower()


def _write(folder: Path, documents: int, mentioning: int, words: random.Random) -> None:
    folder.mkdir(parents=True)
    for number in range(documents):
        text = " ".join(f"w{int(words.paretovariate(1.0)) % 4000}ord" for _ in range(240))
        is_mention = number % max(1, documents // max(1, mentioning)) == 0 and number < mentioning * (
            documents // max(1, mentioning)
        )
        title, tail = ("Mention", f" Ask {PERSON} about it.") if is_mention else ("Record", "")
        write_whole(folder / f"{number}.md", f"# {title} {number}\n\n{text}.{tail}\n".encode())
