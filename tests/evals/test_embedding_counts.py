from __future__ import annotations

from dataclasses import replace

import pytest

from evals import embedding_counts
from evals.embedding_counts import count
from evals.options import SMALL


async def test_only_a_changed_sentence_costs_an_embedding() -> None:
    counts = await count(20)
    assert {name: cost for name, (cost, _) in counts.items()} == {
        "embeddings of an unchanged re-run": 0,
        "embeddings of one changed sentence in one": 1,
        "embeddings of a changed title": 0,
        "embeddings of a changed access": 0,
        "embeddings of a backfill": 0,
    }
    assert all(cost == aim for cost, aim in counts.values())


async def test_a_lane_that_embeds_again_breaks_the_promise(monkeypatch: pytest.MonkeyPatch) -> None:
    async def nothing_known(*_: object) -> dict[str, object]:
        return {}

    monkeypatch.setattr("rag.adapters.memory.ledger.MemoryLedger.lookup", nothing_known)
    figures = await embedding_counts.embedding_counts(replace(SMALL, documents=10), lambda text: None)
    assert not all(each.is_reached for each in figures)
