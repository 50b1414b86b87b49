"""When Dagster's runs waited, started and worked, from its own event log through its GraphQL API."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import httpx

from rag.errors import Unavailable

JOB = "index_documents"
MOST = 1000  # runs of one bench; more would be left out silently, so it is an error
_QUERY = """
query Runs($job: String!, $since: Float!, $limit: Int!) {
  runsOrError(filter: {pipelineName: $job, createdAfter: $since}, limit: $limit) {
    __typename
    ... on PythonError { message }
    ... on Runs {
      results {
        runId status creationTime
        stats { ... on RunStatsSnapshot { launchTime endTime } }
        stepStats { stepKey status startTime endTime }
        assetMaterializations {
          assetKey { path }
          metadataEntries { label ... on IntMetadataEntry { intValue } ... on FloatMetadataEntry { floatValue } }
        }
      }
    }
  }
}
"""


@dataclass(frozen=True, slots=True)
class Step:
    name: str
    start: float
    end: float


@dataclass(frozen=True, slots=True)
class Run:
    """Times in seconds since 1970. ``created`` by the sensor, ``launched`` by the daemon; ``metadata`` by asset, summed over partitions."""

    run_id: str
    status: str
    created: float
    launched: float
    steps: tuple[Step, ...]
    metadata: Mapping[str, Mapping[str, float]] = field(default_factory=dict)

    @property
    def has_ended(self) -> bool:
        return self.status in {"SUCCESS", "FAILURE", "CANCELED"}

    @property
    def began(self) -> float:
        """The first step's start: from here on the run works."""
        return min(step.start for step in self.steps)

    @property
    def ended(self) -> float:
        return max(step.end for step in self.steps)


async def runs(dagster_url: str, since: float) -> list[Run]:
    """Every run of the indexing job created after ``since``, oldest first. Raises Unavailable."""
    variables = {"job": JOB, "since": since, "limit": MOST}
    try:
        async with httpx.AsyncClient(timeout=60) as client:
            answer = await client.post(f"{dagster_url}/graphql", json={"query": _QUERY, "variables": variables})
            answer.raise_for_status()
    except httpx.HTTPError as error:
        raise Unavailable(f"Dagster at {dagster_url} does not answer: {error!r}") from error
    body = answer.json()
    found = (body.get("data") or {}).get("runsOrError") or {}
    if found.get("__typename") != "Runs":
        raise Unavailable(f"Dagster refuses the query for runs: {body.get('errors') or found.get('message')}")
    if len(found["results"]) >= MOST:
        raise Unavailable(f"{MOST} runs or more: the timings would be incomplete")
    return sorted(map(parse, found["results"]), key=lambda run: run.created)


def parse(result: Mapping[str, Any]) -> Run:
    steps = tuple(
        Step(each["stepKey"], each["startTime"], each["endTime"])
        for each in result["stepStats"]
        if each["startTime"] and each["endTime"]
    )
    metadata: dict[str, dict[str, float]] = {}
    for each in result["assetMaterializations"]:
        values = metadata.setdefault("/".join(each["assetKey"]["path"]), {})
        for entry in each["metadataEntries"]:
            value = entry.get("intValue", entry.get("floatValue"))
            if value is not None:
                values[entry["label"]] = values.get(entry["label"], 0.0) + float(value)
    launched = (result.get("stats") or {}).get("launchTime") or result["creationTime"]
    return Run(result["runId"], result["status"], result["creationTime"], launched, steps, metadata)


def union(spans: Iterable[tuple[float, float]]) -> float:
    """Length of the time that any of the spans covers: two runs side by side count once."""
    total, reached = 0.0, float("-inf")
    for start, end in sorted(spans):
        total += max(0.0, end - max(start, reached))
        reached = max(reached, end)
    return total


def step_seconds(done: Sequence[Run]) -> dict[str, float]:
    """Seconds by step, summed over runs: with two at a time this is more than passed on the clock."""
    seconds: dict[str, float] = {}
    for run in done:
        for step in run.steps:
            seconds[step.name] = seconds.get(step.name, 0.0) + step.end - step.start
    return seconds


def counted(done: Sequence[Run], asset: str, label: str) -> int:
    return int(sum(run.metadata.get(asset, {}).get(label, 0.0) for run in done))
