"""The code location ``index``: what Dagster loads."""

import dagster as dg

from assets.documents import chunks, embeddings, parsed_documents, vector_index
from assets.maintenance import audit, maintenance
from assets.resources import services_factory
from assets.schedules import hourly_maintenance, nightly_audit
from assets.sensors import changed_documents, index_job

defs = dg.Definitions(
    assets=[parsed_documents, chunks, embeddings, vector_index],
    jobs=[index_job, maintenance, audit],
    sensors=[changed_documents],
    schedules=[hourly_maintenance, nightly_audit],
    resources={"tidemark": services_factory()},
    # A UI backfill takes this executor, not the job's: the steps share one process and its loaded model.
    executor=dg.in_process_executor,
)
