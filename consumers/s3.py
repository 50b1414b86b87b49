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
from rag.sources import Source

WAIT_SECONDS = 10  # of one long poll
BATCH = 10  # the most that SQS hands out at once


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
    """Return the changes in one S3 event message, or in an SNS envelope around it. Objects outside the source are left out.

    Raises Rejected for any other message.
    """
    try:
        content = json.loads(body)
        if isinstance(content, dict) and content.get("Type") == "Notification":
            content = json.loads(content["Message"])
        if content.get("Event") == "s3:TestEvent":
            return []
        records = [
            (r["eventName"], r["eventTime"], r["s3"]["bucket"]["name"], r["s3"]["object"]) for r in content["Records"]
        ]
        changes = [_change(*record) for record in records]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise Rejected(f"not an S3 event message ({type(error).__name__})", reason="undecodable") from error
    return [change for change in changes if source.owns(change.uri) and is_document(change.uri)]


def _change(name: str, moment: str, bucket: str, described: Mapping[str, Any]) -> ObjectChange:
    return ObjectChange(
        uri=object_uri(f"s3://{bucket}", unquote_plus(described["key"])),
        occurred_at=_moment(moment),
        origin="notification",
        is_deletion=name.removeprefix("s3:").startswith("ObjectRemoved"),
        version=described.get("versionId") or described.get("eTag") or None,  # a removal may carry both, empty
    )


def _moment(value: str) -> datetime:
    moment = datetime.fromisoformat(value.replace("Z", "+00:00"))
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def bucket_of(source: Source) -> str:
    return object_key(source.base_uri + "/.")[0].removeprefix("s3://")
