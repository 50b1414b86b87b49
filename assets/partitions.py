"""A Dagster partition is a Kafka partition, never a document. A run takes a few that are neighbours: starting one costs seconds."""

import dagster as dg

from rag.settings import partitions

_settings = partitions()
documents_partitions = dg.StaticPartitionsDefinition([str(number) for number in range(_settings.kafka_partitions)])
EVENTS = 2000  # of one partition in one run at most: bounds what a retry repeats
RUN_PARTITIONS = _settings.run_partitions
backfill_policy = dg.BackfillPolicy.multi_run(max_partitions_per_run=RUN_PARTITIONS)
