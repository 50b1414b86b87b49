"""Freshness: the time from a change at the source until a search with a token shows it, or no longer shows it.

A change is due every half second, whether or not the one before was found. Each change is searched for until its effect is seen, so a
change that is never found is counted and not left out.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
from rich.console import Console

from evals.local_stack import temporary_stack
from evals.metrics import percentile
from rag.adapters.issuer import fetch_token
from rag.files import write_whole
from rag.settings import Settings, load
from rag.wiring import aws

EVERY = 0.5  # seconds between two changes
DOCUMENTS = 20  # that are changed in turn, so that each has settled before its next change
LOOK = 0.005  # seconds between two searches for one change
LONGEST = 60.0  # seconds after which a change counts as missed
WARM_UP = 5  # changes that are not measured: pools and processes are cold


@dataclass(frozen=True, slots=True)
class Freshness:
    """Seconds from the end of a change until a search shows its effect. ``missed`` changes were not seen within a minute."""

    kind: str
    n: int
    p50: float
    p95: float
    slowest: float
    missed: int


@dataclass
class Probe:
    """A caller who changes objects of the watched bucket and searches for them."""

    settings: Settings
    client: httpx.AsyncClient
    s3: Any
    words: random.Random = field(default_factory=lambda: random.Random(7))  # noqa: S311  (words, not secrets)

    async def put(self, number: int, word: str, **labels: str) -> None:
        text = _text(number, word).encode()
        await asyncio.to_thread(
            self.s3.put_object, Bucket=self.settings.s3_bucket, Key=_key(number), Body=text, Metadata=labels
        )

    async def write(self, number: int, word: str) -> None:
        """Write the document to the watched folder."""
        path = Path(self.settings.inbox_dir or "") / _key(number)
        await asyncio.to_thread(write_whole, path, _text(number, word).encode())

    async def delete(self, number: int) -> None:
        await asyncio.to_thread(self.s3.delete_object, Bucket=self.settings.s3_bucket, Key=_key(number))

    async def finds(self, word: str) -> bool:
        response = await self.client.post("/v1/search", json={"query": f"newest word {word}", "top_k": 3})
        return any(word in hit["text"] for hit in response.raise_for_status().json()["hits"])

    def word(self) -> str:
        return "".join(self.words.choice("bcdfghjklmnpqrstvwxz") for _ in range(12))


async def run(embedder: str, changes: int, console: Console, *, keep: bool = False) -> list[Freshness]:
    """Measure on a temporary stack with the stream lane and ``embedder``."""
    async with temporary_stack(keep=keep, lane="stream", settings={"EMBEDDER": embedder}) as folder:
        return await measure(folder, embedder, changes, console)


async def measure(folder: Path, embedder: str, changes: int, console: Console) -> list[Freshness]:
    settings = load(folder)
    token = fetch_token(settings.oidc_issuer, settings.oidc_client_id, settings.oidc_client_secret)
    headers = {"Authorization": f"Bearer {token}"}
    async with httpx.AsyncClient(base_url=settings.gateway_url, headers=headers, timeout=60) as client:
        probe = Probe(settings, client, aws(settings, "s3"))
        words: dict[int, str] = {}

        async def edited(number: int) -> float | None:
            words[number] = word = probe.word()
            await probe.put(number, word)
            return await _until(lambda: probe.finds(word))

        async def written(number: int) -> float | None:
            word = probe.word()
            await probe.write(number, word)
            return await _until(lambda: probe.finds(word))

        async def revoked(number: int) -> float | None:
            word = words[number]
            await probe.put(number, word, principals="group:nobody")
            return await _until(lambda: _absent(probe, word))

        async def deleted(number: int) -> float | None:
            word = words[number]
            await probe.delete(number)
            return await _until(lambda: _absent(probe, word))

        await _series(edited, DOCUMENTS + WARM_UP)
        (Path(settings.inbox_dir or "") / _key(0)).parent.mkdir(parents=True, exist_ok=True)
        await _series(written, DOCUMENTS + WARM_UP)
        figures = []
        for kind, change, count in (
            ("edit in S3 to found", edited, changes),
            ("edit in a folder to found", written, changes),
            ("revoked to not found", revoked, DOCUMENTS // 2),
            ("deleted to not found", deleted, DOCUMENTS),
        ):
            start = DOCUMENTS // 2 if change is deleted else 0
            console.print(f"{kind}: {count} changes, one every {EVERY} s, embedder {embedder}")
            figures.append(_figures(f"{kind}, {embedder}", await _series(change, count - start, start)))
        return figures


async def _absent(probe: Probe, word: str) -> bool:
    return not await probe.finds(word)


async def _series(change: Callable[[int], Awaitable[float | None]], count: int, start: int = 0) -> list[float | None]:
    """Start a change every ``EVERY`` seconds, and wait for all of them."""
    tasks = []
    for number in range(start, start + count):
        tasks.append(asyncio.ensure_future(change(number % DOCUMENTS)))
        await asyncio.sleep(EVERY)
    return list(await asyncio.gather(*tasks))


async def _until(condition: Callable[[], Awaitable[bool]]) -> float | None:
    """Return the seconds until the condition holds, or None after ``LONGEST`` seconds."""
    began = time.perf_counter()
    while not await condition():
        if time.perf_counter() - began > LONGEST:
            return None
        await asyncio.sleep(LOOK)
    return time.perf_counter() - began


def _figures(kind: str, seconds: list[float | None]) -> Freshness:
    seen = [each for each in seconds if each is not None] or [float("nan")]
    missed = sum(each is None for each in seconds)
    return Freshness(kind, len(seconds), percentile(seen, 0.5), percentile(seen, 0.95), max(seen), missed)


def _text(number: int, word: str) -> str:
    return f"# Freshness {number}\n\nThe newest word of this document is {word}.\n\n## Rest\n\nThis section stays.\n"


def _key(number: int) -> str:
    return f"freshness/{number}.md"
