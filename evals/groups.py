"""The groups of the bench, in the order in which they run. Each starts what it needs and removes it."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass

from evals import real_qdrant as qdrant
from evals.backlog import backlog
from evals.dagster_group import dagster
from evals.embedding_counts import embedding_counts
from evals.figures import Figure
from evals.freshness import default_embedder, free_embedder
from evals.growth import growth
from evals.options import Options, Say
from evals.real_qdrant import real_qdrant
from evals.speed import lane, speed
from evals.two_workers import two_workers

Measure = Callable[[Options, Say], Awaitable[Sequence[Figure]]]


@dataclass(frozen=True, slots=True)
class Group:
    """``skipped`` returns the reason why the group cannot run here, or an empty text."""

    about: str
    measure: Measure
    skipped: Callable[[], str] = lambda: ""


def _no_qdrant() -> str:
    return "" if os.environ.get(qdrant.URL) else f"{qdrant.URL} is not set"


GROUPS: Mapping[str, Group] = {
    "embeddings": Group("texts that are embedded again after small changes", embedding_counts),
    "freshness": Group("change → search, free embedder: folder, S3, Postgres, deletions, access", free_embedder),
    "freshness-model": Group("change → search, default embedder", default_embedder),
    "speed": Group("documents and searches a second, and the CPU of each process", speed),
    "lane": Group("stream lane with the default embedder / the embedder alone", lane),
    "qdrant": Group("searches against a real Qdrant", real_qdrant, _no_qdrant),
    "growth": Group("cost of a document in a large index / in a small one", growth),
    "workers": Group("two stream lanes / one", two_workers),
    "events": Group("memory of a lane that drains many events", backlog),
    "dagster": Group("Dagster lane / embedder alone, answers, quality", dagster),
}
