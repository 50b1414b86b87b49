"""The seconds that a lane spends in each of its steps, from the metrics that it serves."""

from __future__ import annotations

from collections.abc import Mapping

import httpx
from prometheus_client.parser import text_string_to_metric_families

from rag.settings import Settings

REST = "reading, collecting, publishing"
_STEPS, _BATCH = "tidemark_step_seconds_sum", "tidemark_stream_batch_seconds_sum"


def read(settings: Settings) -> dict[str, float]:
    """Return step → seconds so far of the stream lane, summed over micro-batches, two of which may be at work at a time."""
    url = f"http://{settings.metrics_host}:{settings.stream_metrics_port}/metrics"
    return parse(httpx.get(url, timeout=10).raise_for_status().text)


def parse(text: str) -> dict[str, float]:
    """Return the steps of a page of metrics. ``REST`` is the time of the micro-batches outside of the steps."""
    steps: dict[str, float] = {}
    whole = 0.0
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            if sample.name == _STEPS:
                steps[sample.labels["step"]] = sample.value
            elif sample.name == _BATCH:
                whole = sample.value
    return steps | {REST: max(0.0, whole - sum(steps.values()))}


def shares(before: Mapping[str, float], after: Mapping[str, float]) -> str:
    """Return the share of each step in the time between two readings, most first."""
    spent = {name: after[name] - before.get(name, 0.0) for name in after}
    total = sum(spent.values()) or 1.0
    ordered = sorted(spent.items(), key=lambda item: -item[1])
    return ", ".join(f"{name} {100 * seconds / total:.0f}%" for name, seconds in ordered)
