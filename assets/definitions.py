"""The code location ``assets``: sources, topics and the index, as Dagster loads them."""

import dagster as dg

from assets.checks import vector_index_checks
from assets.documents import chunks, embeddings, parsed_documents, vector_index
from assets.maintenance import audit, maintenance
from assets.policy import explain, govern
from assets.resources import services_resource
from assets.schedules import hourly_maintenance, nightly_audit
from assets.sensors import changed_documents, index_job
from assets.sources import erasures_spec, observed_sources, source_specs, topic_specs
from rag.settings import Settings, load


def definitions(settings: Settings) -> dg.Definitions:
    """Return the asset graph of the configured sources."""
    ends = [*source_specs(settings), *topic_specs(settings), erasures_spec()]
    return dg.Definitions(
        assets=govern([*ends, parsed_documents, chunks, embeddings, vector_index]),
        asset_checks=explain([vector_index_checks]),
        jobs=[index_job, maintenance, audit],
        sensors=[changed_documents, observed_sources],
        schedules=[hourly_maintenance, nightly_audit],
        resources={"tidemark": services_resource(settings)},
        # A UI backfill takes this executor, not the job's: the steps share one process and its loaded model.
        executor=dg.in_process_executor,
    )


@dg.definitions
def defs() -> dg.Definitions:
    """Read the settings when Dagster loads the location, not at import."""
    return definitions(load())
