"""``/metrics``, on a listener of its own: it needs no token, so it must not be reachable by the callers of the API."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from prometheus_client import CONTENT_TYPE_LATEST, REGISTRY, CollectorRegistry, generate_latest
from prometheus_client.core import Metric
from prometheus_client.registry import Collector
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from rag.errors import Unavailable
from rag.telemetry import DOCUMENTS_PARKED, logger

if TYPE_CHECKING:
    from rag.wiring import Services

Totals = dict[tuple[str, tuple[tuple[str, str], ...]], float]


def create_app(services: Services) -> Starlette:
    """Build the application of the metrics listener.

    Its one page is Prometheus text: the measurements of this process, plus those that finished Dagster runs left in the ledger.
    """

    async def metrics(_: Request) -> Response:
        await _count_parked(services)
        registry = CollectorRegistry(auto_describe=False)
        registry.register(_Merged(await _totals(services)))
        return Response(generate_latest(registry), media_type=CONTENT_TYPE_LATEST)

    return Starlette(routes=[Route("/metrics", metrics)])


async def _count_parked(services: Services) -> None:
    try:
        reasons = await services.ledger.parked_reasons(services.spec.index_id)
    except Unavailable as error:
        logger(__name__).warning("parked_skipped", why=str(error))
        return
    DOCUMENTS_PARKED.clear()
    for reason, documents in reasons.items():
        DOCUMENTS_PARKED.labels(reason).set(documents)


async def _totals(services: Services) -> Totals:
    try:
        return dict(await services.ledger.totals())
    except Unavailable as error:
        logger(__name__).warning("totals_skipped", why=str(error))
        return {}


class _Merged(Collector):
    """The metric families of this process, with ``totals`` (sample name, labels → value) added to their samples."""

    def __init__(self, totals: Totals) -> None:
        self._totals = dict(totals)

    def collect(self) -> Iterable[Metric]:
        for family in REGISTRY.collect():
            yield self._added(family) if family.type in {"counter", "histogram"} else family

    def _added(self, family: Metric) -> Metric:
        """Return the family with the totals of its names added. Cumulative buckets add up; totals of undeclared names are left out."""
        merged = Metric(family.name, family.documentation, family.type, family.unit)
        values = {(sample.name, tuple(sorted(sample.labels.items()))): sample.value for sample in family.samples}
        suffixes = ("_total",) if family.type == "counter" else ("_bucket", "_count", "_sum")
        names = {family.name + suffix for suffix in suffixes}
        for key, value in self._totals.items():
            if key[0] in names:
                values[key] = values.get(key, 0.0) + value
        for (name, labels), value in values.items():
            merged.add_sample(name, dict(labels), value)
        return merged
