from __future__ import annotations

from types import SimpleNamespace
from typing import Any, ClassVar

from deploy.local.demo.walkthrough import count_statuses
from rag.models import DocumentStatus, Inventoried


class Ledger:
    """Inventories and records of an index that holds more than the corpus of the demo."""

    documents: ClassVar = {
        "s3": {"s3://b/own.md": "1", "s3://b/broken.pdf": "2", "s3://b/of-another-corpus.md": "3"},
        "snowflake": {"s3://i/rows/tickets/7.json": "4", "s3://i/rows/tickets/8.json": "5"},
    }

    async def inventory(self, index_id: str, tenant: str, source: str) -> dict[str, Inventoried]:
        dead = {"2"}
        return {
            uri: Inventoried(each, "token", "hash", DocumentStatus.DEAD if each in dead else DocumentStatus.LIVE)
            for uri, each in self.documents[source].items()
        }


async def test_only_documents_and_rows_of_the_corpus_are_counted() -> None:
    backend: Any = SimpleNamespace(
        ledger=Ledger(), spec=SimpleNamespace(index_id="index"), settings=SimpleNamespace(default_tenant="acme")
    )
    uris = {"s3://b/own.md", "s3://b/broken.pdf", "s3://i/rows/tickets/7.json", "s3://b/not-there-yet.md"}
    assert await count_statuses(backend, uris) == {"live": 2, "dead": 1}
