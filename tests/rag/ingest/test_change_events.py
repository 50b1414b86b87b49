from __future__ import annotations

from datetime import UTC, datetime

import pytest

from rag.adapters.memory.events import MemoryEventLog
from rag.ids import Ids
from rag.ingest.change_events import ObjectChange, publish_changes
from rag.sources import Source

SOURCE = Source("s3", "acme", "s3://docs", ("group:staff",))
IDS = Ids(b"only-for-these-tests-1234567890")


@pytest.mark.parametrize(("version", "announced"), [("v1", "v1"), ("", None), (None, None)])
@pytest.mark.parametrize("is_deletion", [True, False])
async def test_an_event_has_a_version_or_null_and_never_an_empty_text(
    version: str | None, announced: str | None, is_deletion: bool
) -> None:
    change = ObjectChange("s3://docs/a.md", datetime.now(UTC), "notification", is_deletion, version)
    (event,) = await publish_changes([change], SOURCE, IDS, MemoryEventLog())
    assert event.version == announced
