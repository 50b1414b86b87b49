from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import httpx
import pytest

from evals.probe import NOBODY, Probe, text
from rag.errors import Unavailable
from rag.settings import Settings


class Bucket:
    def __init__(self) -> None:
        self.puts: list[dict[str, Any]] = []

    def put_object(self, **arguments: Any) -> None:
        self.puts.append(arguments)


def probe(folder: Path, hits: list[dict[str, Any]] | None = None, sent: list[Any] | None = None) -> Probe:
    def answer(request: httpx.Request) -> httpx.Response:
        if sent is not None:
            sent.append((request.url.path, json.loads(request.content)))
        return httpx.Response(200, json={"hits": hits or []})

    client = httpx.AsyncClient(transport=httpx.MockTransport(answer), base_url="http://gateway.test")
    return Probe(Settings.model_construct(s3_bucket="bucket", inbox_dir=folder), client, Bucket())


async def test_every_change_has_a_word_of_its_own_and_the_same_one_in_every_run(tmp_path: Path) -> None:
    first, second = probe(tmp_path), probe(tmp_path)
    words = [await first.put(each) for each in (1, 1, 2)]
    assert len(set(words)) == 3
    assert [await second.put(each) for each in (1, 1, 2)] == words
    assert words[0].encode() in first.s3.puts[0]["Body"]


async def test_a_closed_label_leaves_the_text_as_it_is(tmp_path: Path) -> None:
    hits: list[dict[str, Any]] = [{"text": ""}]
    caller = probe(tmp_path, hits)
    hits[0]["text"] = word = await caller.put(1)
    assert await caller.close_label(1) == word
    before, after = caller.s3.puts
    assert (before["Body"], after["Metadata"]) == (after["Body"], {"principals": NOBODY})


async def test_a_rule_revokes_the_document_that_has_the_word_and_no_other(tmp_path: Path) -> None:
    sent: list[Any] = []
    hits: list[dict[str, Any]] = [{"text": "other", "document_id": "b"}]
    caller = probe(tmp_path, hits, sent)
    hits.append({"text": text(1, await caller.put(1)), "document_id": "a"})
    await caller.revoke(1)
    path, rule = sent[-1]
    assert (path, rule["effect"], rule["document_id"]) == ("/v1/access", "revoke", "a")


async def test_only_a_hit_with_the_word_is_a_find(tmp_path: Path) -> None:
    caller = probe(tmp_path, [{"text": "the newest word is xyz"}])
    assert await caller.finds("xyz")
    assert await caller.misses("abc")


async def test_a_document_that_is_not_found_cannot_be_taken_away(tmp_path: Path) -> None:
    caller = probe(tmp_path)
    await caller.put(1)
    for change in (caller.close_label, caller.revoke, caller.remove_object):
        with pytest.raises(Unavailable, match="not found before"):
            await change(1)
    assert len(caller.s3.puts) == 1
