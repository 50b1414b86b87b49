"""The partitions of the assets. A Dagster partition is a Kafka partition, never a document.

A run takes a few neighbouring partitions, because starting a run costs seconds.
"""

import dagster as dg

from rag.settings import partitions

_settings = partitions()
documents_partitions = dg.StaticPartitionsDefinition([str(number) for number in range(_settings.kafka_partitions)])
EVENTS = 2000  # of one partition in one run at most: bounds the work that a retry repeats
RUN_PARTITIONS = _settings.run_partitions
RANGE_TAGS = ("dagster/asset_partition_range_start", "dagster/asset_partition_range_end")  # of a run over several
backfill_policy = dg.BackfillPolicy.multi_run(max_partitions_per_run=RUN_PARTITIONS)


def range_tags(keys: list[str]) -> dict[str, str]:
    """Return the run tags that select the neighbouring partitions ``keys``."""
    return dict(zip(RANGE_TAGS, (keys[0], keys[-1]), strict=True))
