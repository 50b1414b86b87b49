"""A Dagster partition is a Kafka partition, never a document."""

import dagster as dg

from rag.settings import kafka_partitions

documents_partitions = dg.StaticPartitionsDefinition([str(number) for number in range(kafka_partitions())])
