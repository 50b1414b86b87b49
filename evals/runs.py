"""The timings of Dagster's runs, from its event log through its GraphQL API."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import httpx

from rag.errors import Unavailable

JOB = "index_documents"
MAX_RUNS = 1000  # per bench; Dagster would omit more silently, so reaching the limit is an error
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
class RunStep:
    """A step of a run. Times are in seconds since 1970."""

    name: str
    start: float
    end: float


@dataclass(frozen=True, slots=True)
class DagsterRun:
    """A run. Times are in seconds since 1970.

    The sensor creates a run at ``created``, and the daemon launches it at ``launched``. ``metadata`` is by asset, summed over partitions.
    """

    run_id: str
    status: str
    created: float
    launched: float
    steps: tuple[RunStep, ...]
    metadata: Mapping[str, Mapping[str, float]] = field(default_factory=dict)

    @property
    def has_ended(self) -> bool:
        return self.status in {"SUCCESS", "FAILURE", "CANCELED"}

    @property
    def began(self) -> float:
        """Return the start of the first step. From then on the run works."""
        return min(step.start for step in self.steps)

    @property
    def ended(self) -> float:
        return max(step.end for step in self.steps)


async def fetch_runs(dagster_url: str, since: float) -> list[DagsterRun]:
    """Fetch every run of the indexing job that was created after ``since``, oldest first. Raises Unavailable."""
    variables = {"job": JOB, "since": since, "limit": MAX_RUNS}
    try:
        async with httpx.AsyncClient(timeout=60) as client:
            response = await client.post(f"{dagster_url}/graphql", json={"query": _QUERY, "variables": variables})
            response.raise_for_status()
    except httpx.HTTPError as error:
        raise Unavailable(f"Dagster at {dagster_url} does not answer: {error!r}") from error
    body = response.json()
    data = (body.get("data") or {}).get("runsOrError") or {}
    if data.get("__typename") != "Runs":
        raise Unavailable(f"Dagster refused the query for runs: {body.get('errors') or data.get('message')}")
    if len(data["results"]) >= MAX_RUNS:
        raise Unavailable(
            f"there are {MAX_RUNS} runs or more, so the timings would be incomplete: raise evals.runs.MAX_RUNS"
        )
    return sorted(map(parse, data["results"]), key=lambda run: run.created)


def parse(result: Mapping[str, Any]) -> DagsterRun:
    """Parse one result of the query. Steps that did not run are left out."""
    steps = tuple(
        RunStep(each["stepKey"], each["startTime"], each["endTime"])
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
    return DagsterRun(result["runId"], result["status"], result["creationTime"], launched, steps, metadata)


def covered_seconds(spans: Iterable[tuple[float, float]]) -> float:
    """Return the seconds that at least one of the spans covers. Concurrent runs count once."""
    total, covered_until = 0.0, float("-inf")
    for start, end in sorted(spans):
        total += max(0.0, end - max(start, covered_until))
        covered_until = max(covered_until, end)
    return total


def step_seconds(runs: Sequence[DagsterRun]) -> dict[str, float]:
    """Return the seconds by step, summed over runs. Concurrent runs add up to more than wall-clock time."""
    seconds: dict[str, float] = {}
    for run in runs:
        for step in run.steps:
            seconds[step.name] = seconds.get(step.name, 0.0) + step.end - step.start
    return seconds


def metadata_total(runs: Sequence[DagsterRun], asset: str, label: str) -> int:
    """Return the sum over runs of one number in the metadata of an asset."""
    return int(sum(run.metadata.get(asset, {}).get(label, 0.0) for run in runs))
