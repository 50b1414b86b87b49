"""The declarations of all metrics and spans. Tests check dashboards and alerts against this module.

Labels never contain ids, names, questions or content. Therefore their number is bounded, and they are not personal data.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import structlog
from opentelemetry import propagate, trace
from opentelemetry.context import Context
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from prometheus_client import REGISTRY, Counter, Gauge, Histogram

SampleKey = tuple[str, tuple[tuple[str, str], ...]]  # (metric name, sorted labels)

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300)

# -- metrics ------------------------------------------------------------------------------------------------------------

# Events that a source published, by the origin of the change (notification, listing...).
EVENTS_ANNOUNCED = Counter("tidemark_events_announced", "Events published by a source", ["source", "origin"])
# Notifications or rows that a source could not use: left on the queue, or skipped with a reason.
SOURCE_ERRORS = Counter("tidemark_source_errors", "Notifications and rows not used", ["source", "reason"])
# Documents applied to an index, by their new status.
DOCUMENTS_INDEXED = Counter("tidemark_documents_indexed", "Documents applied to the index", ["status"])
DOCUMENTS_DEAD = Counter("tidemark_documents_dead", "Documents that could not be indexed", ["reason"])
# In the live index. The gateway reads the number from the ledger.
DOCUMENTS_PARKED = Gauge("tidemark_documents_parked", "Documents whose object cannot be read now", ["reason"])
# Deletions that were not applied because they would delete most of a source.
DELETIONS_HELD = Counter("tidemark_deletions_held", "Deletions that wait for a confirmation", ["source"])
# Deletions of a source that wait for a confirmation, as its last listing found them.
HELD_DELETIONS = Gauge("tidemark_held_deletions", "Documents whose deletion waits for a confirmation", ["source"])
# Erasures: those that came to an outcome (certified, incomplete), the open ones, and the nearest deadline of an open one.
ERASURES = Counter("tidemark_erasures", "Erasures that came to an outcome", ["outcome"])
ERASURES_OPEN = Gauge("tidemark_erasures_open", "Accepted erasures without a certificate", [])
ERASURE_DEADLINE = Gauge("tidemark_erasure_deadline_timestamp_seconds", "Nearest deadline of an open erasure", [])
# Differences between ledger, vector index and artifact store, by kind (orphan_point, leftover_artifact, document).
REPAIRS = Counter(
    "tidemark_repairs", "Orphans deleted and documents derived again by the comparison of the stores", ["reason"]
)
CHUNKS_EMBEDDED = Counter("tidemark_chunks_embedded", "Chunks whose vector was computed", [])
CHUNKS_REUSED = Counter("tidemark_chunks_reused", "Chunks whose vector came from the cache", [])
TOKENS_EMBEDDED = Counter("tidemark_tokens_embedded", "Tokens of the chunks whose vector was computed", [])
APPLY_CONFLICTS = Counter(
    "tidemark_apply_conflicts", "Deltas that failed the compare-and-swap and were planned again", []
)
EVENTS_LOST = Counter("tidemark_events_lost", "Offsets that the log had purged before they were read", [])
FRESHNESS_SECONDS = Histogram(
    "tidemark_freshness_seconds", "From a change at its source to its visibility in the index", [], buckets=_SECONDS
)
STREAM_BATCH_SECONDS = Histogram(
    "tidemark_stream_batch_seconds", "Micro-batch of the stream lane: first step to applied", [], buckets=_SECONDS
)
STEP_SECONDS = Histogram("tidemark_step_seconds", "Duration of a step over a batch", ["step"], buckets=_SECONDS)
# Gateway.
REQUESTS = Counter("tidemark_requests", "Requests by route and status", ["route", "status"])
REQUEST_SECONDS = Histogram("tidemark_request_seconds", "Duration of requests", ["route"], buckets=_SECONDS)
RETRIEVAL_BOUND = Counter("tidemark_retrieval_bound", "Searches that ended at their bound with too few hits", [])
HITS_DROPPED = Counter("tidemark_hits_dropped", "Hits dropped: not current, not live, not allowed or malformed", [])
ANSWERS = Counter(
    "tidemark_answers", "Answers by outcome", ["generator", "outcome"]
)  # outcome: fresh | cached | abstained
# Redis is optional: without it, answers are not cached and callers are not limited.
DEGRADED = Counter("tidemark_degraded", "Requests served without an unavailable part", ["part"])  # cache | limits
RERANK_FALLBACKS = Counter(
    "tidemark_rerank_fallbacks", "Questions answered in the order of retrieval, without the unavailable reranker", []
)
# The audit log. An event waits in memory until its batch is written; ``started`` is the outcome of an action that waits for that.
AUDIT_ENTRIES = Counter("tidemark_audit_entries", "Entries of the audit log by outcome", ["outcome"])
# Events of answered queries that are not in the log: queue_full, shutdown, flood (attempts without a token), bug.
AUDIT_LOST = Counter("tidemark_audit_lost", "Events that could not be recorded", ["reason"])
AUDIT_LAG_SECONDS = Histogram(
    "tidemark_audit_lag_seconds", "From an event to its entry in the audit log", [], buckets=_SECONDS
)
AUDIT_ANCHORED = Gauge(
    "tidemark_audit_anchored_timestamp_seconds", "Last time that checkpoints of the audit log were stored", []
)
# Of each loop of a source: its notifications, its listing, each of its tables.
SOURCE_UP = Gauge("tidemark_source_up", "1 while the source's loop runs without error", ["source"])
SOURCE_LAST_SUCCESS = Gauge(
    "tidemark_source_last_success_timestamp_seconds",
    "End of the last turn of the source's loop without error",
    ["source"],
)
# Of a source that reads a database's log: the log that the database keeps for it. It grows while the source does not read.
SOURCE_LAG_BYTES = Gauge("tidemark_source_lag_bytes", "Bytes of the log kept for the source", ["source"])

# -- spans --------------------------------------------------------------------------------------------------------------

SPANS = frozenset(
    {
        "source.handle", "events.publish", "documents.run", "documents.read", "documents.admit", "documents.parse",
        "documents.chunk", "documents.embed", "documents.plan", "documents.apply",
        "answers.answer", "answers.retrieve", "answers.rerank", "answers.generate", "answers.search",
        "gateway.request", "erasures.step",
    }
)  # fmt: skip

_tracer = trace.get_tracer("tidemark")


@contextmanager
def span(
    name: str,
    *,
    parent: Mapping[str, str] | None = None,
    link: Mapping[str, str] | None = None,
    **attributes: str | int | float,
) -> Iterator[trace.Span]:
    """Open a declared span.

    ``parent`` and ``link`` are carriers with a ``traceparent``. With a ``parent`` (the headers of the platform's own event), the
    span continues the parent's trace. With a ``link``, whose author is not trusted, the span starts a new trace and only refers
    to the link's trace.
    """
    if name not in SPANS:
        raise ValueError(f"span {name!r} is not declared in rag/telemetry.py")
    context = propagate.extract(dict(parent)) if parent else None
    other = trace.get_current_span(propagate.extract(dict(link or {}), context=Context())).get_span_context()
    links = [trace.Link(other)] if other.is_valid else []
    with _tracer.start_as_current_span(name, context=context, links=links, attributes=dict(attributes)) as current:
        yield current


def trace_headers() -> dict[str, str]:
    """Return the ``traceparent`` of the current span, for the headers of an event or a message."""
    carrier: dict[str, str] = {}
    propagate.inject(carrier)
    return carrier


def trace_id() -> str:
    """Return the hex id of the current trace, or an empty text without a trace."""
    context = trace.get_current_span().get_span_context()
    return f"{context.trace_id:032x}" if context.is_valid else ""


# -- set-up, once per process -------------------------------------------------------------------------------------------


def configure(service: str, *, otlp_endpoint: str | None = None, level: str = "INFO") -> None:
    """Write JSON logs with trace ids to stderr, and export spans over OTLP/HTTP if an endpoint is given."""
    if isinstance(trace.get_tracer_provider(), TracerProvider):
        return  # OpenTelemetry allows one provider per process
    provider = TracerProvider(resource=Resource.create({"service.name": f"tidemark-{service}"}))
    if otlp_endpoint:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

        exporter = OTLPSpanExporter(endpoint=f"{otlp_endpoint.rstrip('/')}/v1/traces")
        provider.add_span_processor(BatchSpanProcessor(exporter, schedule_delay_millis=500))
    trace.set_tracer_provider(provider)
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            _add_trace,
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(getattr(logging, level)),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=False,
    )


def flush(timeout: float = 5.0) -> None:
    """Export the pending spans, at the end of a short-lived process."""
    provider = trace.get_tracer_provider()
    if isinstance(provider, TracerProvider):
        provider.force_flush(int(timeout * 1000))


def samples() -> dict[SampleKey, float]:
    """Return the samples of this process's declared counters and histograms."""
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in REGISTRY.collect()
        if family.name.startswith("tidemark_") and family.type in {"counter", "histogram"}
        for sample in family.samples
        if not sample.name.endswith("_created") and sample.value
    }


def logger(name: str) -> Any:
    return structlog.get_logger(module=name)


def _add_trace(_: Any, __: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
    current = trace_id()
    if current:
        event["trace_id"] = current
    return event
