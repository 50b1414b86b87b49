"""S3 by the bucket's notifications in SQS. They come late, twice and out of order, so an event is only a hint to read the object."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, cast
from urllib.parse import unquote_plus

from botocore.exceptions import BotoCoreError, ClientError

from consumers.listing import is_document
from rag.errors import Rejected, Unavailable
from rag.ids import object_key, object_uri
from rag.ingest.change_events import ObjectChange
from rag.settings import SourceSettings
from rag.sources import Source
from rag.telemetry import SOURCE_ERRORS, logger
from rag.wiring import Services, aws

_log = logger(__name__)

WAIT_SECONDS = 10  # of one long poll
BATCH = 10  # the most that SQS hands out at once
_BRIDGED = {
    "Object Created",
    "Object Deleted",
    "Object Restore Completed",
}  # events of EventBridge that change an object


def streams(chosen: SourceSettings, opened: Services) -> Mapping[str, S3Stream]:
    """Make the stream of the bucket's queue. Without a queue there is none, and the reconciling listing finds the changes."""
    if not chosen.queue_url:
        return {}
    sqs = aws(opened.settings, "sqs", read_timeout=WAIT_SECONDS + 10)
    return {chosen.name: S3Stream(chosen.source(), sqs, chosen.queue_url)}


class S3Stream:
    """The stream of a bucket's queue. ``sqs`` is a boto3 client, which is called in threads."""

    def __init__(self, source: Source, sqs: Any, queue_url: str) -> None:
        self.source = source
        self._sqs = sqs
        self._queue_url = queue_url

    async def receive(self) -> Sequence[dict[str, Any]]:
        answer = await self._call(
            "receive_message", QueueUrl=self._queue_url, MaxNumberOfMessages=BATCH, WaitTimeSeconds=WAIT_SECONDS
        )
        return cast("list[dict[str, Any]]", answer.get("Messages", []))

    def decode(self, message: Mapping[str, Any]) -> Sequence[ObjectChange]:
        return decode(message["Body"], self.source)

    async def handle(self, changes: Sequence[ObjectChange]) -> Sequence[ObjectChange]:
        return changes

    async def commit(self, messages: Sequence[Mapping[str, Any]]) -> None:
        entries = [{"Id": str(n), "ReceiptHandle": message["ReceiptHandle"]} for n, message in enumerate(messages)]
        answer = await self._call("delete_message_batch", QueueUrl=self._queue_url, Entries=entries)
        if answer.get("Failed"):
            raise Unavailable(
                f"SQS kept {len(answer['Failed'])} of {len(entries)} messages of {self.source.name!r} and delivers them again"
            )

    async def _call(self, operation: str, **arguments: Any) -> dict[str, Any]:
        try:
            return cast("dict[str, Any]", await asyncio.to_thread(getattr(self._sqs, operation), **arguments))
        except (BotoCoreError, ClientError) as error:
            raise Unavailable(
                f"SQS {operation} of {self._queue_url}: {type(error).__name__}; check the queue and its rights"
            ) from error


def decode(body: str, source: Source) -> list[ObjectChange]:
    """Return the changes in one message: of S3, of EventBridge, or of either in an SNS envelope.

    Objects outside the source are left out. A bad record is counted and skipped: the next listing finds its change. Raises Rejected
    for any other message.
    """
    try:
        content = json.loads(body)
        if content.get("Type") == "Notification":
            content = json.loads(content["Message"])
        if content.get("Event") == "s3:TestEvent":
            return []
        records = [content] if "detail-type" in content else list(content["Records"])
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise Rejected(f"not an S3 event message ({type(error).__name__})", reason="undecodable") from error
    changes = [change for record in records if (change := _decode_record(record, source)) is not None]
    return [change for change in changes if source.owns(change.uri) and is_document(change.uri)]


def _decode_record(record: Any, source: Source) -> ObjectChange | None:
    try:
        return _bridged(record) if "detail-type" in record else _notified(record)
    except (ValueError, KeyError, TypeError, AttributeError, Rejected) as error:
        reason = error.reason if isinstance(error, Rejected) else "undecodable"
        SOURCE_ERRORS.labels(source.name, reason).inc()
        _log.warning("source.bad_record", source=source.name, reason=reason, error=type(error).__name__)
        return None


def _notified(record: Mapping[str, Any]) -> ObjectChange:
    """Return the change of a record of an S3 notification. The key is form-encoded there."""
    described = record["s3"]["object"]
    return ObjectChange(
        uri=object_uri(f"s3://{record['s3']['bucket']['name']}", unquote_plus(described["key"], errors="strict")),
        occurred_at=_moment(record["eventTime"]),
        origin="notification",
        is_deletion=record["eventName"].removeprefix("s3:").startswith(("ObjectRemoved", "LifecycleExpiration")),
        version=described.get("versionId") or described.get("eTag") or None,  # a removal may carry both, empty
    )


def _bridged(event: Mapping[str, Any]) -> ObjectChange | None:
    """Return the change of an EventBridge event, or None for an event that changes no content. The key is not encoded there."""
    if event["detail-type"] not in _BRIDGED:
        return None
    described = event["detail"]["object"]
    return ObjectChange(
        uri=object_uri(f"s3://{event['detail']['bucket']['name']}", described["key"]),
        occurred_at=_moment(event["time"]),
        origin="notification",
        is_deletion=event["detail-type"] == "Object Deleted",
        version=described.get("version-id") or described.get("etag") or None,
    )


def _moment(value: str) -> datetime:
    moment = datetime.fromisoformat(value.replace("Z", "+00:00"))
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def bucket_of(source: Source) -> str:
    return object_key(source.base_uri + "/.")[0].removeprefix("s3://")
