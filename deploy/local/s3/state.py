"""moto's S3 state as records and back, and a backend that records which buckets and keys a request touched."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

from moto.core.models import DEFAULT_ACCOUNT_ID
from moto.s3 import models, notifications
from moto.s3.models import FakeBucket, FakeDeleteMarker, FakeKey, NotificationConfiguration, S3Backend
from moto.sqs.models import Message
from moto.utilities.utils import LowercaseDict

from deploy.local.s3.mirror import Record

Event = notifications.S3NotificationEvent
_PLAIN = {  # attributes of a key that are JSON as they are
    *("_is_versioned", "_storage_class", "contentsize", "website_redirect_location"),
    *("encryption", "kms_key_id", "bucket_key_enabled", "lock_mode", "lock_legal_status", "lock_until"),
    *("checksum_value", "checksum_type", "checksum_parts", "checksum_algorithm"),
}


@dataclass
class Changes:
    """The effects of one request: keys, buckets and queues to mirror, and notifications to send once those are on the disk."""

    keys: set[tuple[str, str]] = field(default_factory=set)
    buckets: set[str] = field(default_factory=set)
    queues: bool = False
    events: list[Callable[[], None]] = field(default_factory=list)


_request = threading.local()


def begin() -> Changes:
    changes = _request.changes = Changes()
    return changes


def _changes() -> Changes:
    changes: Changes = _request.changes
    return changes


def queues_changed() -> None:
    _changes().queues = True


class MirroredBackend(S3Backend):
    """moto's backend. Each change of a key or a bucket passes one of these methods."""

    def put_object(self, bucket_name: str, key_name: str, *args: Any, **kwargs: Any) -> FakeKey:
        _changes().keys.add((bucket_name, key_name))
        return super().put_object(bucket_name, key_name, *args, **kwargs)

    def put_object_acl(self, bucket_name: str, key_name: str, *args: Any, **kwargs: Any) -> None:
        _changes().keys.add((bucket_name, key_name))
        super().put_object_acl(bucket_name, key_name, *args, **kwargs)

    def put_object_legal_hold(self, bucket_name: str, key_name: str, *args: Any, **kwargs: Any) -> None:
        _changes().keys.add((bucket_name, key_name))
        super().put_object_legal_hold(bucket_name, key_name, *args, **kwargs)

    def put_object_retention(self, bucket_name: str, key_name: str, *args: Any, **kwargs: Any) -> None:
        _changes().keys.add((bucket_name, key_name))
        super().put_object_retention(bucket_name, key_name, *args, **kwargs)

    def put_object_tagging(self, key: FakeKey, *args: Any, **kwargs: Any) -> FakeKey:
        _changes().keys.add((str(key.bucket_name), key.name))
        return super().put_object_tagging(key, *args, **kwargs)

    def delete_object_tagging(self, bucket_name: str, key_name: str, *args: Any, **kwargs: Any) -> None:
        _changes().keys.add((bucket_name, key_name))
        super().delete_object_tagging(bucket_name, key_name, *args, **kwargs)

    def delete_object(
        self, bucket_name: str, key_name: str, version_id: str | None = None, bypass: bool = False
    ) -> tuple[bool, dict[str, Any]]:
        """Delete as moto does, and also send the notifications that only S3 sends: of a marker, and of one version among several."""
        _changes().keys.add((bucket_name, key_name))
        bucket = self.get_bucket(bucket_name)
        versions = len(bucket.keys.getlist(key_name, []))
        done, meta = super().delete_object(bucket_name, key_name, version_id, bypass)
        left = len(bucket.keys.getlist(key_name, []))
        if bucket.is_versioned and left and left != versions:
            name = Event.OBJECT_REMOVED_DELETE_EVENT if version_id else Event.OBJECT_REMOVED_DELETE_MARKER_CREATED_EVENT
            notifications.send_event(self.account_id, name, bucket, SimpleNamespace(name=key_name, etag="", size=0))
        return done, meta

    def create_bucket(self, bucket_name: str, *args: Any, **kwargs: Any) -> FakeBucket:
        _changes().buckets.add(bucket_name)
        return super().create_bucket(bucket_name, *args, **kwargs)

    def delete_bucket(self, bucket_name: str) -> FakeBucket | None:
        _changes().buckets.add(bucket_name)
        return super().delete_bucket(bucket_name)

    def put_bucket_versioning(self, bucket_name: str, status: str) -> None:
        _changes().buckets.add(bucket_name)
        super().put_bucket_versioning(bucket_name, status)

    def put_bucket_tagging(self, bucket_name: str, tags: dict[str, str]) -> None:
        _changes().buckets.add(bucket_name)
        super().put_bucket_tagging(bucket_name, tags)

    def delete_bucket_tagging(self, bucket_name: str) -> None:
        _changes().buckets.add(bucket_name)
        super().delete_bucket_tagging(bucket_name)

    def put_bucket_notification_configuration(self, bucket_name: str, notification_config: dict[str, Any]) -> None:
        _changes().buckets.add(bucket_name)
        super().put_bucket_notification_configuration(bucket_name, notification_config)


class MirroredKey(FakeKey):
    """A key whose body, once mirrored, is read from its file. A large bucket therefore takes no memory and is restored at once."""

    body: Path | None = None

    def keep_in(self, path: Path) -> None:
        self._value_buffer.close()
        self._value_buffer: Any = _FileBuffer(path)
        self.body = path

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        """Copy without the body. moto copies every key to list versions, and each listing would read every body."""
        duplicate: Any = object.__new__(type(self))
        if self.body is None:
            duplicate.__setstate__(self.__getstate__())
            return duplicate
        duplicate.__dict__.update(self.__dict__, multipart=None, disposed=True)
        return duplicate


class _FileBuffer:
    """The part of a buffer that moto uses. It opens the file for each read, so that keys hold no descriptors."""

    def __init__(self, path: Path) -> None:
        self.path, self.position = path, 0

    def seek(self, position: int) -> None:
        self.position = position

    def read(self, size: int = -1) -> bytes:
        with self.path.open("rb") as file:
            file.seek(self.position)
            content = file.read(size)
        self.position += len(content)
        return content

    def close(self) -> None:
        pass


class _Untracked(list[Any]):
    """A list that stays empty. moto keeps every instance for its reset(), which this server does not offer, and so leaks memory."""

    def append(self, instance: Any) -> None:
        pass


def install() -> MirroredBackend:
    """Make moto use the classes above and hold notifications back until the request is durable."""
    models.s3_backends.backend = MirroredBackend
    vars(models)["FakeKey"] = MirroredKey
    tracked: Any
    for tracked in (MirroredKey, FakeDeleteMarker, models.FakeMultipart, Message):
        tracked.instances_tracked = _Untracked()
    send = notifications.send_event
    notifications.send_event = lambda *args, **kwargs: _changes().events.append(partial(send, *args, **kwargs))
    return cast(MirroredBackend, models.s3_backends[DEFAULT_ACCOUNT_ID]["aws"])


def describe_bucket(backend: S3Backend, bucket: FakeBucket) -> Record:
    return {
        "name": bucket.name,
        "account_id": bucket.account_id,
        "region_name": bucket.region_name,
        "creation_date": bucket.creation_date.isoformat(),
        "versioning_status": bucket.versioning_status,
        "tags": backend.tagger.get_tag_dict_for_resource(bucket.arn),
        "notifications": bucket.notification_configuration
        and _describe_notifications(bucket.notification_configuration),
    }


def _describe_notifications(configuration: NotificationConfiguration) -> Record:
    """Return the arguments that make the configuration again."""
    record: Record = {
        kind: [
            {name: each.arn, "Event": each.events, "Filter": each.filters, "Id": each.id}
            for each in getattr(configuration, kind)
        ]
        for kind, name in (("topic", "Topic"), ("queue", "Queue"), ("cloud_function", "CloudFunction"))
    }
    return record | {"event_bridge": configuration.event_bridge}


def restore_bucket(record: Record) -> tuple[S3Backend, FakeBucket]:
    bucket = FakeBucket(record["name"], record["account_id"], record["region_name"])  # type: ignore[abstract]
    bucket.creation_date = datetime.fromisoformat(record["creation_date"])
    bucket.versioning_status = record["versioning_status"]
    backend = models.s3_backends[bucket.account_id][bucket.partition]
    if configuration := record.get("notifications"):  # records of older versions have none
        # Not by the bucket's own method, which would send S3's test event at each start.
        bucket.notification_configuration = NotificationConfiguration(**configuration)
    backend.buckets[bucket.name] = bucket
    _restore_tags(backend, bucket.arn, record["tags"])
    return backend, bucket


def describe_version(backend: S3Backend, version: MirroredKey | FakeDeleteMarker) -> Record:
    record: Record = {"version_id": version._version_id, "last_modified": version.last_modified.isoformat()}
    if isinstance(version, FakeDeleteMarker):
        return record
    if version.body is None:
        raise ValueError(f"version {version.version_id} has no body on disk yet")
    return record | {
        "body": version.body.name,
        "etag": version.etag.strip('"'),
        "metadata": dict(version.metadata.items()),
        "tags": backend.tagger.get_tag_dict_for_resource(version.arn),
        "acl": version.acl
        and [[[vars(grantee) for grantee in grant.grantees], grant.permissions] for grant in version.acl.grants],
        "plain": {name: getattr(version, name) for name in _PLAIN},
    }


def restore_key(backend: S3Backend, bucket: FakeBucket, record: Record, body: Callable[[str], Path]) -> None:
    versions: list[FakeKey | FakeDeleteMarker] = []
    for version in record["versions"]:
        if "body" in version:
            restored = _restore_version(bucket, record["key"], version, body(version["body"]))
            _restore_tags(backend, restored.arn, version["tags"])
            versions.append(restored)
        else:
            versions.append(_restore_marker(versions[-1] if versions else None, record["key"], version))
    bucket.keys.setlist(record["key"], versions)


def _restore_version(bucket: FakeBucket, name: str, record: Record, body: Path) -> MirroredKey:
    key = MirroredKey(
        name, b"", bucket.account_id, bucket.partition, etag=record["etag"], version_id=record["version_id"]
    )
    key.bucket_name = bucket.name
    key.last_modified = datetime.fromisoformat(record["last_modified"])
    key._metadata = LowercaseDict(record["metadata"])
    key.acl = record["acl"] and models.FakeAcl([_restore_grant(*grant) for grant in record["acl"]])
    vars(key).update(record["plain"])
    key.keep_in(body)
    return key


def _restore_grant(grantees: list[dict[str, str]], permissions: list[str]) -> models.FakeGrant:
    return models.FakeGrant(
        [models.FakeGrantee(who["id"], who["uri"], who["display_name"]) for who in grantees], permissions
    )


def _restore_marker(previous: FakeKey | FakeDeleteMarker | None, name: str, record: Record) -> FakeDeleteMarker:
    before: Any = previous or MirroredKey(name, b"", DEFAULT_ACCOUNT_ID, "aws")
    marker = FakeDeleteMarker(before)
    marker.last_modified = datetime.fromisoformat(record["last_modified"])
    marker._version_id = record["version_id"]
    return marker


def _restore_tags(backend: S3Backend, arn: str, tags: dict[str, str]) -> None:
    backend.tagger.tag_resource(arn, backend.tagger.convert_dict_to_tags_input(tags))
