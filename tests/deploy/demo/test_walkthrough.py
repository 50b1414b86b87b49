from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from deploy.local.demo.walkthrough import count_statuses
from rag.models import DocumentRecord, DocumentStatus


class Ledger:
    """Inventories and records of an index that holds more than the corpus of the demo."""

    documents: ClassVar = {
        "s3": {"s3://b/own.md": "1", "s3://b/broken.pdf": "2", "s3://b/of-another-corpus.md": "3"},
        "snowflake": {"s3://i/rows/tickets/7.json": "4", "s3://i/rows/tickets/8.json": "5"},
    }

    async def inventory(self, index_id: str, source: str) -> dict[str, tuple[str, str]]:
        return {uri: (document_id, "token") for uri, document_id in self.documents[source].items()}

    async def recorded(self, index_id: str, document_ids: Sequence[str]) -> dict[str, DocumentRecord]:
        dead = {"2"}
        return {
            each: DocumentRecord(each, status=DocumentStatus.DEAD if each in dead else DocumentStatus.LIVE)
            for each in document_ids
        }


async def test_only_documents_and_rows_of_the_corpus_are_counted() -> None:
    ledger: Any = Ledger()
    uris = {"s3://b/own.md", "s3://b/broken.pdf", "s3://i/rows/tickets/7.json", "s3://b/not-there-yet.md"}
    assert await count_statuses(ledger, "index", uris) == {"live": 2, "dead": 1}
