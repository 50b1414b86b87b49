from __future__ import annotations

import json
from typing import Any

import pytest

from consumers.s3 import decode
from rag.errors import Rejected
from rag.ids import object_uri
from rag.sources import Source
from rag.telemetry import samples

SOURCE = Source("s3", "acme", "s3://docs", ("group:staff",))


def message(key: str, name: str = "ObjectCreated:Put", bucket: str = "docs", **described: Any) -> str:
    record = {
        "eventName": name,
        "eventTime": "2026-03-01T10:00:00.000Z",
        "s3": {"bucket": {"name": bucket}, "object": {"key": key, **described}},
    }
    return json.dumps({"Records": [record]})


def test_keys_arrive_url_encoded_and_become_canonical() -> None:
    (change,) = decode(message("hand+book/%C3%BCber%20uns.md", versionId="v1"), SOURCE)
    assert change.uri == "s3://docs/hand%20book/%C3%BCber%20uns.md"
    assert (change.is_deletion, change.version, change.origin) == (False, "v1", "notification")
    assert change.occurred_at.isoformat() == "2026-03-01T10:00:00+00:00"


@pytest.mark.parametrize("name", ["ObjectRemoved:Delete", "s3:ObjectRemoved:DeleteMarkerCreated"])
def test_removals_are_hints_of_a_deletion(name: str) -> None:
    (change,) = decode(message("a.md", name), SOURCE)
    assert change.is_deletion


@pytest.mark.parametrize("described", [{}, {"versionId": "", "eTag": ""}, {"versionId": None}])
def test_a_removal_without_a_version_has_none(described: dict[str, Any]) -> None:
    (change,) = decode(message("a.md", "ObjectRemoved:Delete", **described), SOURCE)
    assert change.version is None


def test_an_sns_envelope_is_opened() -> None:
    envelope = json.dumps({"Type": "Notification", "Message": message("a.md")})
    assert decode(envelope, SOURCE)[0].uri == "s3://docs/a.md"


def test_the_test_event_of_a_new_notification_announces_nothing() -> None:
    assert decode(json.dumps({"Event": "s3:TestEvent"}), SOURCE) == []


def test_objects_of_other_buckets_are_left_out() -> None:
    assert decode(message("a.md", bucket="elsewhere"), SOURCE) == []


@pytest.mark.parametrize("body", ["", "[]", "{}", '{"Records": 3}', '{"Type": "Notification"}', "null", "\x00"])
def test_a_message_that_is_not_an_s3_event_is_rejected(body: str) -> None:
    with pytest.raises(Rejected) as caught:
        decode(body, SOURCE)
    assert caught.value.reason == "undecodable"


@pytest.mark.parametrize(
    "bad",
    [None, 3, {}, {"s3": None}, json.loads(message("a/../../etc/passwd"))["Records"][0],
     json.loads(message("%ff.md"))["Records"][0], json.loads(message("a.md"))["Records"][0] | {"eventTime": "noon"}],
)  # fmt: skip
def test_a_bad_record_is_counted_and_does_not_drop_its_neighbours(bad: Any) -> None:
    before = counted_errors()
    good = [json.loads(message(key))["Records"][0] for key in ("a.md", "b.md")]
    changes = decode(json.dumps({"Records": [good[0], bad, good[1]]}), SOURCE)
    assert [change.uri for change in changes] == ["s3://docs/a.md", "s3://docs/b.md"]
    assert counted_errors() == before + 1


def counted_errors() -> float:
    return sum(value for (name, labels), value in samples().items()
               if name == "tidemark_source_errors_total" and ("source", "s3") in labels)  # fmt: skip


def bridged(key: str, kind: str = "Object Created", **described: Any) -> str:
    detail = {"version": "0", "bucket": {"name": "docs"}, "object": {"key": key, "size": 5, **described}}
    event = {"version": "0", "detail-type": kind, "source": "aws.s3", "time": "2026-03-01T10:00:00Z", "detail": detail}
    return json.dumps(event)


def test_an_event_of_eventbridge_has_a_plain_key() -> None:
    (change,) = decode(bridged("hand+book/über%20uns.md", etag="e1", **{"version-id": "v1"}), SOURCE)
    assert change.uri == object_uri("s3://docs", "hand+book/über%20uns.md")
    assert (change.is_deletion, change.version, change.origin) == (False, "v1", "notification")
    assert change.occurred_at.isoformat() == "2026-03-01T10:00:00+00:00"


def test_a_deletion_and_a_restore_of_eventbridge_are_announced() -> None:
    assert [change.is_deletion for change in decode(bridged("a.md", "Object Deleted"), SOURCE)] == [True]
    assert [change.is_deletion for change in decode(bridged("a.md", "Object Restore Completed"), SOURCE)] == [False]


def test_other_events_of_eventbridge_announce_nothing_and_are_no_error() -> None:
    before = counted_errors()
    assert decode(bridged("a.md", "Object Tags Added"), SOURCE) == []
    assert counted_errors() == before


def test_an_event_of_eventbridge_in_an_sns_envelope_is_understood() -> None:
    envelope = json.dumps({"Type": "Notification", "Message": bridged("a.md")})
    assert decode(envelope, SOURCE)[0].uri == "s3://docs/a.md"


def test_an_expiry_by_lifecycle_is_a_deletion() -> None:
    (change,) = decode(message("a.md", "LifecycleExpiration:Delete"), SOURCE)
    assert change.is_deletion
