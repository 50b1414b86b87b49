"""Latency of the gateway for one caller, who sends one request after the other."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import httpx

from evals.metrics import percentile
from rag.adapters.issuer import fetch_token
from rag.answer.answering import TOP_K
from rag.errors import Unavailable
from rag.settings import Settings

WARM_UP = 10  # requests that are not measured, because connections, pools and memory pages of a new process are cold


@dataclass(frozen=True, slots=True)
class Latency:
    """Percentiles of ``n`` requests, in seconds. The gateway answered ``cached`` of them from its answer cache."""

    n: int
    p50: float
    p95: float
    slowest: float
    cached: int


@dataclass(frozen=True, slots=True)
class Latencies:
    """Latencies of each question for the first time (``cold``) and of the same questions again (``repeated``, ``cached``)."""

    search_cold: Latency
    search_repeated: Latency
    answers_cold: Latency
    answers_cached: Latency


def measure(settings: Settings, questions: Sequence[str], warm_up: Sequence[str]) -> Latencies:
    """Measure all latencies. ``warm_up`` must not share a question with ``questions``. Searches do not fill the answer cache."""
    token = fetch_token(settings.oidc_issuer, settings.oidc_client_id, settings.oidc_client_secret)
    headers = {"Authorization": f"Bearer {token}"}
    with httpx.Client(base_url=settings.gateway_url, headers=headers, timeout=60) as client:
        for question in warm_up[:WARM_UP]:
            _search(client, question)
            _answer(client, question)
        return Latencies(
            search_cold=_timed([_search(client, question) for question in questions]),
            search_repeated=_timed([_search(client, question) for question in questions]),
            answers_cold=_timed([_answer(client, question) for question in questions]),
            answers_cached=_timed([_answer(client, question) for question in questions]),
        )


def _search(client: httpx.Client, question: str) -> tuple[float, bool]:
    return _post(client, "/v1/search", {"query": question, "top_k": TOP_K})


def _answer(client: httpx.Client, question: str) -> tuple[float, bool]:
    return _post(client, "/v1/answers", {"question": question, "top_k": TOP_K})


def _post(client: httpx.Client, path: str, body: dict[str, object]) -> tuple[float, bool]:
    began = time.perf_counter()
    response = client.post(path, json=body)
    seconds = time.perf_counter() - began
    if response.is_error:
        raise Unavailable(f"the gateway answered {response.status_code} on {path}: {response.text[:500]}")
    return seconds, bool(response.json().get("cached", False))


def _timed(results: Sequence[tuple[float, bool]]) -> Latency:
    seconds = [each for each, _ in results]
    cached = sum(cached for _, cached in results)
    return Latency(len(seconds), percentile(seconds, 0.5), percentile(seconds, 0.95), max(seconds), cached)
