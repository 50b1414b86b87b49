"""S3 bucket through boto3, called in threads. boto3 accepts every key that S3 accepts, even with empty path segments and controls:
with a client that refuses some keys, one odd object would hide all others from a listing."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from email.header import decode_header, make_header
from functools import partial
from typing import Any, TypeVar

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from rag.errors import ObjectUnavailable, Rejected, Unavailable
from rag.ids import metadata_hash
from rag.labels import require_labels
from rag.models import ObjectState, SourceObject

Result = TypeVar("Result")
_ABSENT = {"404", "NoSuchKey", "NotFound", "NoSuchVersion", "MethodNotAllowed"}  # the last is that of a delete marker
_UNKNOWN_TYPES = {"binary/octet-stream", "application/octet-stream"}
# S3's codes for one object: archived, denied by a policy or a key, or encrypted with the owner's key. A HEAD has no code but its status.
_REFUSED = {
    "InvalidObjectState": "archived",
    "AccessDenied": "access_denied",
    "403": "access_denied",
    "InvalidRequest": "needs_key",
    "400": "needs_key",
}
_DELETE_BATCH = 1000  # S3's maximum


def aws_client(
    service: str,
    *,
    region: str,
    endpoint: str | None = None,
    key_id: str | None = None,
    secret: str | None = None,
    read_timeout: float = 30,
) -> Any:
    """Return a boto3 client, which several threads may use. Without ``key_id``, it uses the ambient role."""
    config = Config(
        connect_timeout=5,
        read_timeout=read_timeout,
        retries={"max_attempts": 3, "mode": "standard"},
        max_pool_connections=16,
        s3={"addressing_style": "path" if endpoint else "auto"},
    )
    return boto3.client(
        service,
        region_name=region,
        endpoint_url=endpoint,
        aws_access_key_id=key_id,
        aws_secret_access_key=secret,
        config=config,
    )


class Bucket:
    """The objects of ``name`` below ``prefix`` (empty, or ending with a slash)."""

    def __init__(self, client: Any, name: str, prefix: str = "") -> None:
        self._client = client
        self._name = name
        self._prefix = prefix

    async def head(self, key: str) -> ObjectState | None:
        return await self._unless_absent(lambda: _state(self._client.head_object(**self._at(key))))

    async def get(self, key: str, limit: int | None) -> SourceObject | None:
        def read() -> SourceObject:
            answer = self._client.get_object(**self._at(key))
            with answer["Body"] as body:
                if limit is not None and answer["ContentLength"] > limit:
                    raise Rejected(
                        f"object of {answer['ContentLength']} bytes, at most {limit} are allowed: split it",
                        reason="too_large",
                    )
                return SourceObject(_state(answer), body.read())

        return await self._unless_absent(read)

    async def put(self, key: str, content: bytes, media_type: str, labels: Mapping[str, str]) -> ObjectState:
        require_labels(labels)
        metadata = {name.lower(): value for name, value in labels.items()}
        typed = {"ContentType": media_type} if media_type else {}

        def write() -> ObjectState:
            self._client.put_object(**self._at(key), Body=content, Metadata=metadata, **typed)
            return _state(self._client.head_object(**self._at(key)))

        return await self._call(write)

    async def delete(self, keys: Sequence[str]) -> None:
        def remove(batch: Sequence[str]) -> None:
            entries = [{"Key": self._prefix + key} for key in batch]
            answer = self._client.delete_objects(Bucket=self._name, Delete={"Objects": entries, "Quiet": True})
            if answer.get("Errors"):
                code = answer["Errors"][0].get("Code")
                raise Unavailable(
                    f"bucket {self._name} did not delete {len(answer['Errors'])} of {len(batch)} objects ({code}): check its rights"
                )

        for start in range(0, len(keys), _DELETE_BATCH):
            await self._call(partial(remove, keys[start : start + _DELETE_BATCH]))

    async def erase(self, keys: Sequence[str]) -> None:
        """Delete every version and delete marker, and abort unfinished uploads."""
        for key in keys:
            await self._call(partial(self._erase, self._prefix + key))

    async def kept(self, keys: Sequence[str]) -> set[str]:
        def look(key: str) -> bool:
            return next(self._versions(key), None) is not None or next(self._unfinished(key), None) is not None

        return {key for key in keys if await self._call(partial(look, self._prefix + key))}

    def _erase(self, key: str) -> None:
        for upload in list(self._unfinished(key)):
            self._client.abort_multipart_upload(Bucket=self._name, Key=key, UploadId=upload)
        versions = [{"Key": key, "VersionId": version} for version in self._versions(key)]
        for start in range(0, len(versions), _DELETE_BATCH):
            batch = {"Objects": versions[start : start + _DELETE_BATCH], "Quiet": True}
            answer = self._client.delete_objects(Bucket=self._name, Delete=batch)
            if answer.get("Errors"):
                code = answer["Errors"][0].get("Code")
                raise Unavailable(
                    f"bucket {self._name} did not delete a version ({code}): check its rights and its object lock"
                )

    def _versions(self, key: str) -> Iterator[str]:
        """Yield the ids of the key's versions and delete markers. A listing is in order of keys, and ``key`` comes first."""
        for page in self._client.get_paginator("list_object_versions").paginate(Bucket=self._name, Prefix=key):
            entries = [*page.get("Versions", []), *page.get("DeleteMarkers", [])]
            yield from (entry["VersionId"] for entry in entries if entry["Key"] == key)
            if entries and all(entry["Key"] != key for entry in entries):
                return

    def _unfinished(self, key: str) -> Iterator[str]:
        for page in self._client.get_paginator("list_multipart_uploads").paginate(Bucket=self._name, Prefix=key):
            yield from (upload["UploadId"] for upload in page.get("Uploads", []) if upload["Key"] == key)

    async def list(self, prefix: str) -> AsyncIterator[tuple[str, ObjectState]]:
        pages = iter(
            self._client.get_paginator("list_objects_v2").paginate(Bucket=self._name, Prefix=self._prefix + prefix)
        )
        while (page := await self._call(lambda: next(pages, None))) is not None:
            for entry in page.get("Contents", []):
                yield entry["Key"].removeprefix(self._prefix), _state({**entry, "ContentLength": entry["Size"]})

    async def identity(self) -> dict[str, str]:
        """Return nothing: the name identifies the bucket, and an absent bucket is Unavailable in every call."""
        return {}

    def _at(self, key: str) -> dict[str, str]:
        return {"Bucket": self._name, "Key": self._prefix + key}

    async def _unless_absent(self, work: Callable[[], Result]) -> Result | None:
        """Return None only for a confirmed absence: the bucket exists and answers. Raises ObjectUnavailable for a refused object of a
        bucket whose listing answers."""
        try:
            return await asyncio.to_thread(work)
        except ClientError as error:
            code = str(error.response["Error"].get("Code"))
            if reason := "key_unavailable" if code.startswith("KMS.") else _REFUSED.get(code):
                await self._call(
                    lambda: self._client.list_objects_v2(Bucket=self._name, Prefix=self._prefix, MaxKeys=1)
                )
                raise ObjectUnavailable(
                    f"bucket {self._name} refuses an object ({code}): restore it, or the right to read it",
                    reason=reason,
                ) from error
            if code not in _ABSENT:
                raise self._unavailable(error) from error
        except BotoCoreError as error:
            raise self._unavailable(error) from error
        await self._call(lambda: self._client.head_bucket(Bucket=self._name))
        return None

    async def _call(self, work: Callable[[], Result]) -> Result:
        try:
            return await asyncio.to_thread(work)
        except (ClientError, BotoCoreError) as error:
            raise self._unavailable(error) from error

    def _unavailable(self, error: Exception) -> Unavailable:
        code = error.response["Error"].get("Code") if isinstance(error, ClientError) else type(error).__name__
        return Unavailable(f"bucket {self._name} refuses or fails ({code}): check its address and rights")


def _state(answer: Mapping[str, Any]) -> ObjectState:
    """Return the state of a head, a read or a listed entry. Without versions in the bucket, the version has the metadata's hash,
    because the same bytes may be written twice within the second that S3 reports, with other labels."""
    change_token = f"{answer['ETag'].strip(chr(34))}@{int(answer['LastModified'].timestamp())}"
    version = answer.get("VersionId", "null")
    media_type = answer.get("ContentType")
    labels = {name.lower(): _label(value) for name, value in answer.get("Metadata", {}).items()}
    return ObjectState(
        uri="",
        version=version if version != "null" else f"{change_token}#{metadata_hash(media_type or '', labels)}",
        size=answer["ContentLength"],
        modified=answer["LastModified"],
        change_token=change_token,
        media_type=None if media_type in _UNKNOWN_TYPES else media_type,
        labels=labels,
    )


def _label(value: str) -> str:
    """Return the label that was written. S3 returns one beyond ASCII, which ``put`` does not write, as encoded words (RFC 2047)."""
    if not (value.startswith("=?") and value.endswith("?=")):
        return value
    try:
        return str(make_header(decode_header(value)))
    except (LookupError, UnicodeError, ValueError):
        return value
