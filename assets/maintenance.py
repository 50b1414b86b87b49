"""Housekeeping: the garbage that a crash left in Qdrant, the bound of the embedding cache, and a daily check of every partition."""

from dataclasses import asdict

import dagster as dg

from assets.batches import lane
from assets.checks import vector_index_checks
from assets.policy import RUN_RETRIES
from assets.resources import OpenServices, open_for_run
from rag.ingest.indexing import sweep
from rag.ingest.repair import repair_step

APPLY_SECONDS = 900.0  # longer than any apply may take: its own intents must not be swept under it


@dg.op
async def sweep_garbage(context: dg.OpExecutionContext, tidemark: dg.ResourceParam[OpenServices]) -> None:
    """Delete points that no document of the ledger names."""
    async with open_for_run(context, tidemark) as services:
        swept = await sweep(
            services.spec.index_id, ledger=services.ledger, vectors=services.vectors, older_than=APPLY_SECONDS
        )
    context.log.info(f"swept {swept} points")


@dg.op
async def prune_embedding_cache(context: dg.OpExecutionContext, tidemark: dg.ResourceParam[OpenServices]) -> None:
    """Drop the oldest vectors over the configured size and age."""
    async with open_for_run(context, tidemark) as services:
        settings = services.settings
        pruned = await services.ledger.prune(
            max_rows=settings.embedding_cache_rows, max_age_days=settings.embedding_cache_days
        )
    context.log.info(f"pruned {pruned} cached vectors")


@dg.op
async def retry_parked_documents(context: dg.OpExecutionContext, tidemark: dg.ResourceParam[OpenServices]) -> None:
    """Read again the parked documents whose next try is due."""
    async with open_for_run(context, tidemark) as services:
        report = await lane(services).retry_parked(run_id=context.run_id)
    context.log.info(f"tried {report.documents} parked documents again")


@dg.op
async def repair_index(context: dg.OpExecutionContext, tidemark: dg.ResourceParam[OpenServices]) -> None:
    """Compare the next part of ledger, Qdrant and artifacts, and repair the differences. A day's runs compare everything once."""
    async with open_for_run(context, tidemark) as services:
        repairs = await repair_step(lane(services), services.ledger, run_id=context.run_id)
    context.log.info(f"repaired: {asdict(repairs)}")


@dg.job(
    executor_def=dg.in_process_executor,
    tags=RUN_RETRIES,
    description="Delete garbage in Qdrant, prune the embedding cache, try parked documents again, and repair the next part of the index."
    " Safe at any time.",
)
def maintenance() -> None:
    sweep_garbage()
    prune_embedding_cache()
    retry_parked_documents()
    repair_index()


audit = dg.define_asset_job(
    "audit",
    dg.AssetSelection.checks(vector_index_checks),
    description="Read every point of every partition once and compare it with the ledger, as checks of `vector_index`.",
    executor_def=dg.in_process_executor,
    tags=RUN_RETRIES,
)
