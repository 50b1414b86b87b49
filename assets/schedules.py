"""The jobs that run by the clock."""

import dagster as dg

from assets.maintenance import audit, maintenance
from assets.partitions import documents_partitions, range_tags

hourly_maintenance = dg.ScheduleDefinition(
    name="hourly_maintenance",
    job=maintenance,
    cron_schedule="17 * * * *",
    description="Delete garbage in Qdrant and prune the embedding cache, once an hour.",
    default_status=dg.DefaultScheduleStatus.RUNNING,
)


@dg.schedule(
    job=audit,
    cron_schedule="40 2 * * *",
    description="Check every partition of `vector_index` as a whole. Runs over events check only the documents that they touch.",
    default_status=dg.DefaultScheduleStatus.RUNNING,
)
def nightly_audit(context: dg.ScheduleEvaluationContext) -> dg.RunRequest:
    """Request one run over all partitions."""
    return dg.RunRequest(tags=range_tags([*documents_partitions.get_partition_keys()]))
