"""Housekeeping: garbage that a crash left in Qdrant, the bound of the embedding cache, and a look at everything once a day."""

import dagster as dg

from assets.checks import Finding, partition_findings, together
from assets.resources import OpenServices
from rag.ingest.indexing import sweep

APPLY_SECONDS = 900.0  # longer than any apply may take: its own notes must not be swept under it


@dg.op
async def sweep_garbage(context: dg.OpExecutionContext, tidemark: dg.ResourceParam[OpenServices]) -> None:
    """Delete points that no document vouches for."""
    async with tidemark() as services:
        swept = await sweep(
            services.spec.index_id, ledger=services.ledger, vectors=services.vectors, older_than=APPLY_SECONDS
        )
    context.log.info(f"swept {swept} points")


@dg.op
async def prune_embedding_cache(context: dg.OpExecutionContext, tidemark: dg.ResourceParam[OpenServices]) -> None:
    """Drop the oldest vectors over the configured size and age."""
    async with tidemark() as services:
        settings = services.settings
        pruned = await services.ledger.prune(
            max_rows=settings.embedding_cache_rows, max_age_days=settings.embedding_cache_days
        )
    context.log.info(f"pruned {pruned} cached vectors")


@dg.job(executor_def=dg.in_process_executor)
def maintenance() -> None:
    """Runs hourly; safe at any time."""
    sweep_garbage()
    prune_embedding_cache()


@dg.op
async def check_every_partition(context: dg.OpExecutionContext, tidemark: dg.ResourceParam[OpenServices]) -> None:
    """The checks of ``vector_index`` over whole partitions: runs over events look at the documents they touched."""
    found: list[Finding] = []
    async with tidemark() as services:
        for partition in range(services.settings.kafka_partitions):
            found += await partition_findings(services.spec, partition, services.ledger, services.vectors)
    for finding in together(found):
        context.instance.report_runless_asset_event(  # an op may not report another asset's check as its own
            dg.AssetCheckEvaluation(
                asset_key=dg.AssetKey("vector_index"),
                check_name=finding.name,
                passed=finding.passed,
                metadata=dict(finding.details),
                severity=dg.AssetCheckSeverity.ERROR,
            )
        )


@dg.job(executor_def=dg.in_process_executor)
def audit() -> None:
    """Reads every point once; its results show as checks of ``vector_index``."""
    check_every_partition()
