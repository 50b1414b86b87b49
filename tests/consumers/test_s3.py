from __future__ import annotations

import json
from typing import Any

import pytest

from consumers.s3 import decode
from rag.errors import Rejected
from rag.sources import Source

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


@pytest.mark.parametrize("body", ["", "[]", "{}", '{"Records": [{}]}', '{"Records": 3}', "null", "\x00"])
def test_a_message_that_is_not_an_s3_event_is_rejected(body: str) -> None:
    with pytest.raises(Rejected) as caught:
        decode(body, SOURCE)
    assert caught.value.reason == "undecodable"


def test_a_climbing_key_is_rejected() -> None:
    with pytest.raises(Rejected):
        decode(message("a/../../etc/passwd"), SOURCE)
