"""The declared spans and metrics against the code of all packages, and the context that a span carries on."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from prometheus_client import Counter, Gauge, Histogram
from prometheus_client.metrics import MetricWrapperBase

from rag import telemetry
from rag.telemetry import SPANS, samples, span, trace_headers, trace_id

ROOT = Path(__file__).parents[2]
PACKAGES = ("schemas", "rag", "governance", "consumers", "assets", "gateway", "evals", "deploy")
DECLARATIONS = ROOT / "rag" / "telemetry.py"
METRICS = {name: value for name, value in vars(telemetry).items() if isinstance(value, MetricWrapperBase)}
LABELS = {"source", "origin", "reason", "status", "step", "route", "generator", "outcome", "part"}
"""Labels of few values each. No id, name, question or text may become one."""

TREES = {
    path: ast.parse(path.read_text())
    for package in PACKAGES
    for path in sorted((ROOT / package).rglob("*.py"))
    if path != DECLARATIONS
}


# -- the rules, as functions of a tree


def opens_a_span(call: ast.Call) -> bool:
    """``match.span()`` of a regular expression does not."""
    match call.func:
        case ast.Name(id="span") | ast.Attribute(value=ast.Name(id="telemetry"), attr="span"):
            return True
        case ast.Attribute(attr="start_span" | "start_as_current_span"):
            return True
    return False


def opened_spans(tree: ast.AST) -> Iterator[tuple[int, str | None]]:
    """Yield line and name of each opened span. The name is None where it is not a literal."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and opens_a_span(node):
            name = node.args[0] if node.args else None
            yield node.lineno, name.value if isinstance(name, ast.Constant) and isinstance(name.value, str) else None


def used_names(tree: ast.AST) -> set[str]:
    """Return the names that the code reads. An import alone is not a use."""
    return {node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load)} | {
        node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load)
    }


def created_metrics(tree: ast.AST) -> list[int]:
    """Return the lines that import a metric's class, from whatever module of the client."""
    kinds = {"Counter", "Gauge", "Histogram", "Summary", "Info", "Enum"}
    imports = [
        node.lineno
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom)
        and (node.module or "").startswith("prometheus_client")
        and kinds & {alias.name for alias in node.names}
    ]
    through_module = [
        node.lineno
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and node.attr in kinds and "prometheus_client" in ast.dump(node.value)
    ]
    return imports + through_module


def metric_literals(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Yield the names of samples that the code spells out: a counter ends in ``_total``, a histogram in ``_seconds_…``."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            for name in re.findall(r"\btidemark_\w+(?:_total|_seconds(?:_count|_sum|_bucket)?|_up)\b", node.value):
                yield node.lineno, name


def test_the_rules_find_spans_and_metrics_in_samples() -> None:
    opened = ast.parse("with span('a.b'), telemetry.span(name), tracer.start_as_current_span('c'): x.span()")
    assert [name for _, name in opened_spans(opened)] == ["a.b", None, "c"]
    assert used_names(ast.parse("from rag.telemetry import A, B\nA.inc()\ntelemetry.C.inc()")) >= {"A", "C"}
    assert "B" not in used_names(ast.parse("from rag.telemetry import A, B\nA.inc()"))
    assert created_metrics(ast.parse("from prometheus_client import REGISTRY, Counter")) == [1]
    assert created_metrics(ast.parse("import prometheus_client\nprometheus_client.Gauge('x', '')")) == [2]
    assert created_metrics(ast.parse("from collections import Counter\nCounter()")) == []
    assert [*metric_literals(ast.parse("x = 'a tidemark_x_total b'"))] == [(1, "tidemark_x_total")]


# -- declared and used


def test_every_span_in_the_code_is_a_declared_literal() -> None:
    wrong = [
        f"{path.relative_to(ROOT)}:{line} opens {name or 'a span whose name is not a literal'}"
        for path, tree in TREES.items()
        for line, name in opened_spans(tree)
        if name not in SPANS
    ]
    assert not wrong


def test_every_declared_span_is_opened_somewhere() -> None:
    opened = {name for tree in TREES.values() for _, name in opened_spans(tree)}
    assert SPANS - opened == set()


def test_every_declared_metric_is_used_somewhere() -> None:
    used = set().union(*(used_names(tree) for tree in TREES.values()))
    assert METRICS.keys() - used == set()


def test_every_metric_that_the_code_spells_out_is_declared() -> None:
    declared = {
        sample.name for metric in METRICS.values() for family in metric.collect() for sample in family.samples
    } | {
        f"{metric._name}{suffix}"
        for metric in METRICS.values()
        for suffix in ("_total", "_count", "_sum", "_bucket", "")
    }
    found = [(path, line, name) for path, tree in TREES.items() for line, name in metric_literals(tree)]
    wrong = [f"{path.relative_to(ROOT)}:{line} {name}" for path, line, name in found if name not in declared]
    assert found, "nothing was looked at"
    assert not wrong


def test_metrics_are_created_in_telemetry_alone() -> None:
    assert {
        str(path.relative_to(ROOT)): lines for path, tree in TREES.items() if (lines := created_metrics(tree))
    } == {}
    assert created_metrics(ast.parse(DECLARATIONS.read_text()))


@pytest.mark.parametrize("name", sorted(METRICS))
def test_a_metric_is_named_described_and_labelled_as_the_others(name: str) -> None:
    metric = METRICS[name]
    assert metric._name.removesuffix("_timestamp_seconds") == f"tidemark_{name.lower()}"
    assert metric._documentation
    assert set(metric._labelnames) <= LABELS
    assert isinstance(metric, Counter | Gauge | Histogram)
    assert isinstance(metric, Histogram) == name.endswith("_SECONDS")


# -- spans


@pytest.fixture
def spans(monkeypatch: pytest.MonkeyPatch) -> InMemorySpanExporter:
    """The spans that ended in this test."""
    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(telemetry, "_tracer", provider.get_tracer("test"))
    return exporter


def _only(spans: InMemorySpanExporter) -> ReadableSpan:
    (one,) = spans.get_finished_spans()
    return one


PARENT = {"traceparent": f"00-{'a' * 32}-{'b' * 16}-01"}


def test_an_undeclared_span_is_refused() -> None:
    with pytest.raises(ValueError, match=r"rag/telemetry\.py"), span("documents.invented"):
        pass


def test_a_parent_continues_its_trace(spans: InMemorySpanExporter) -> None:
    with span("documents.run", parent=PARENT, documents=3):
        assert trace_id() == "a" * 32
        assert trace_headers()["traceparent"].startswith(f"00-{'a' * 32}-")
    one = _only(spans)
    assert one.parent
    assert one.parent.span_id == int("b" * 16, 16)
    assert dict(one.attributes or {}) == {"documents": 3}


def test_a_link_refers_to_a_trace_and_does_not_continue_it(spans: InMemorySpanExporter) -> None:
    with span("gateway.request", link=PARENT):
        assert trace_id() != "a" * 32
    one = _only(spans)
    assert one.parent is None
    assert [link.context.trace_id for link in one.links] == [int("a" * 32, 16)]


@pytest.mark.parametrize("forged", ["", "00-zz-xx-01", f"00-{'0' * 32}-{'b' * 16}-01", "\x00"])
def test_a_forged_context_is_neither_continued_nor_linked(spans: InMemorySpanExporter, forged: str) -> None:
    with span("gateway.request", link={"traceparent": forged}), span("documents.run", parent={"traceparent": forged}):
        pass
    assert all(not each.links for each in spans.get_finished_spans())


def test_there_are_no_trace_headers_outside_of_a_span() -> None:
    with trace.use_span(trace.INVALID_SPAN):
        assert trace_id() == ""
        assert trace_headers() == {}


# -- samples and logs


def test_samples_are_the_counters_and_histograms_that_counted() -> None:
    before = samples().get(("tidemark_events_lost_total", ()), 0.0)
    telemetry.EVENTS_LOST.inc(2)
    telemetry.SOURCE_UP.labels("a source of this test").set(1)
    found = samples()
    assert found["tidemark_events_lost_total", ()] == before + 2
    assert not [name for name, _ in found if name.endswith("_created") or name == "tidemark_source_up"]


def test_a_line_of_the_log_names_its_trace(spans: InMemorySpanExporter) -> None:
    with span("documents.run", parent=PARENT):
        assert telemetry._add_trace(None, "info", {"event": "x"}) == {"event": "x", "trace_id": "a" * 32}
    with trace.use_span(trace.INVALID_SPAN):
        assert telemetry._add_trace(None, "info", {"event": "x"}) == {"event": "x"}
