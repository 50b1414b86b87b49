"""The checks of a partition of the index, as Dagster shows them. ``rag.ingest.findings`` compares."""

from collections.abc import Sequence

import dagster as dg

from assets.batches import find_batch
from assets.partitions import documents_partitions
from assets.resources import OpenServices, open_for_run
from rag.ingest.findings import CHECKS, Finding, partition_findings


# A check without partitions counts as evaluated only for the newest materialization of any partition, so after two concurrent
# runs the UI showed it as not evaluated. ``can_subset``: a step of several partitions yields evaluations by itself, no outputs.
@dg.multi_asset_check(
    specs=[
        dg.AssetCheckSpec(name, asset="vector_index", description=description, partitions_def=documents_partitions)
        for name, description in CHECKS.items()
    ],
    can_subset=True,
)
async def vector_index_checks(  # type: ignore[no-untyped-def]  # Dagster takes no annotation of an async generator
    context: dg.AssetCheckExecutionContext, tidemark: dg.ResourceParam[OpenServices]
):
    """Compare the ledger with Qdrant: the documents that this run touched, or whole partitions when the checks run alone."""
    names = {key.name for key in context.selected_asset_check_keys}
    async with open_for_run(context, tidemark) as services:
        for key in _partition_keys(context):
            batch = await find_batch(context, key, services, "embeddings")
            documents = None if batch.is_backfill else [task.document_id for task in batch.tasks]
            for finding in await partition_findings(
                services.spec, int(key), services.ledger, services.vectors, documents=documents
            ):
                if finding.name in names:
                    yield _evaluation(finding, key)


def _partition_keys(context: dg.AssetCheckExecutionContext) -> Sequence[str]:
    """Return the partitions of the run. A run that the checks page starts has none, and means all of them."""
    has_partitions = context.has_partition_key or context.has_partition_key_range
    return context.partition_keys if has_partitions else documents_partitions.get_partition_keys()


def _evaluation(finding: Finding, key: str) -> dg.AssetCheckEvaluation:
    """Report a finding. Its values are texts, because the UI would draw numbers of all partitions as one line."""
    texts = {
        name: str(value) if isinstance(value, int) else ", ".join(value) for name, value in finding.details.items()
    }
    return dg.AssetCheckEvaluation(
        dg.AssetKey("vector_index"),
        finding.name,
        passed=finding.passed,
        partition=key,
        severity=dg.AssetCheckSeverity.ERROR,
        metadata={name: text for name, text in texts.items() if text},
    )
