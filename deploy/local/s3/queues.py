"""moto's SQS queues as records and back. Messages are not kept; a listing of the bucket finds the changes of lost messages."""

from __future__ import annotations

from typing import Any

from moto.core.models import DEFAULT_ACCOUNT_ID
from moto.sqs import models
from moto.sqs.models import Queue, SQSBackend

from deploy.local.s3.mirror import Record
from deploy.local.s3.state import queues_changed

SETTABLE = (
    *("DelaySeconds", "MaximumMessageSize", "MessageRetentionPeriod", "Policy", "ReceiveMessageWaitTimeSeconds"),
    *("RedrivePolicy", "VisibilityTimeout", "KmsMasterKeyId", "KmsDataKeyReusePeriodSeconds"),
    *("FifoQueue", "ContentBasedDeduplication", "DeduplicationScope", "FifoThroughputLimit"),
)


class MirroredQueues(SQSBackend):
    """moto's backend. Each change of a queue's existence or settings passes one of these methods."""

    __module__ = SQSBackend.__module__  # moto finds the service's routes beside the module of its backend

    def create_queue(self, name: str, tags: dict[str, str] | None = None, **attributes: Any) -> Queue:
        queues_changed()
        return super().create_queue(name, tags, **attributes)

    def delete_queue(self, queue_name: str) -> None:
        queues_changed()
        super().delete_queue(queue_name)

    def set_queue_attributes(self, queue_name: str, attributes: dict[str, Any]) -> Queue:
        queues_changed()
        return super().set_queue_attributes(queue_name, attributes)


def install() -> None:
    """Make moto use the class above."""
    models.sqs_backends.backend = MirroredQueues


def describe_queues() -> list[Record]:
    regions = list(models.sqs_backends[DEFAULT_ACCOUNT_ID].values())
    return [_describe(queue) for backend in regions for queue in list(backend.queues.values())]


def restore_queues(records: list[Record]) -> None:
    """Make the queues again. A dead-letter queue must exist before the queue that names it."""
    for record in sorted(records, key=lambda record: "RedrivePolicy" in record["attributes"]):
        backend = models.sqs_backends[DEFAULT_ACCOUNT_ID][record["region"]]
        backend.create_queue(record["name"], record["tags"], **record["attributes"])


def _describe(queue: Queue) -> Record:
    attributes = {name: value for name, value in queue.attributes.items() if name in SETTABLE and value is not None}
    return {"name": queue.name, "region": queue.region, "tags": queue.tags, "attributes": attributes}
