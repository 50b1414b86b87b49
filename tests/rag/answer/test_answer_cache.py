from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

import structlog
from prometheus_client import REGISTRY

from governance.access import filter_for
from rag.adapters.memory.cache import MemoryAnswerCache, NoAnswerCache
from rag.answer import answer_cache
from rag.answer.answer_cache import Entry
from rag.errors import Unavailable
from rag.ids import Ids
from rag.models import AccessFilter, Answer, Citation

IDS = Ids(b"0123456789abcdef")
QUESTION = "How many ropes hold a zeppelin?"
MAKERS = ("index", "7", "extractive", "none")
ANSWER = Answer(
    "Three — „drei“ [1]",
    (Citation(1, "d", "c", "T", "s3://docs/a.md", "v1", 2, 3, 8, "Three", 0.5, "documents.changed.v1", 1, 2, "run"),),
    "extractive",
    {"input_tokens": 7},
)
ENTRY = Entry(ANSWER, ("p1", "p2"))


def access(subject: str = "alice", *groups: str, tenant: str = "acme", source: str = "") -> AccessFilter:
    return filter_for(tenant=tenant, subject=subject, groups=groups, narrow={"source": source} if source else None)


def key(
    question: str = QUESTION, scope: AccessFilter | None = None, top_k: int = 8, makers: tuple[str, ...] = MAKERS
) -> str:
    return answer_cache.key(question, scope or access(), top_k, ids=IDS, makers=makers)


def test_the_same_question_has_one_key_whatever_its_spaces_and_its_unicode_form() -> None:
    assert key("Wie viele\u00a0Ma\u0308ste? ") == key("  Wie viele\n Mäste?")


def test_a_key_belongs_to_one_question_scope_index_revision_and_makers() -> None:
    keys = {
        "plain": key(),
        "another question": key("How many masts?"),
        "another case": key(QUESTION.upper()),
        "another person": key(scope=access("bob")),
        "another group": key(scope=access("alice", "staff")),
        "another tenant": key(scope=access(tenant="globex")),
        "narrowed": key(scope=access(source="s3")),
        "narrowed otherwise": key(scope=access(source="uploads")),
        "more hits": key(top_k=9),
        "another revision": key(makers=("index", "8", "extractive", "none")),
        "another index": key(makers=("other", "7", "extractive", "none")),
        "another generator": key(makers=("index", "7", "gpt", "none")),
        "another reranker": key(makers=("index", "7", "extractive", "cohere")),
    }
    assert [pair for pair in combinations(keys, 2) if keys[pair[0]] == keys[pair[1]]] == []


def test_a_key_does_not_show_the_question_or_the_caller() -> None:
    assert not {word for word in ("ropes", "alice", "acme") if word in key()}


async def test_an_answer_comes_back_with_its_points() -> None:
    cache = MemoryAnswerCache()
    await answer_cache.put("k", ENTRY, cache, ttl=60, documents=["d1"])
    entry = await answer_cache.get("k", cache)
    assert entry
    assert entry.point_ids == ("p1", "p2")
    assert (entry.answer.text, tuple(entry.answer.citations), entry.answer.usage) == (
        ANSWER.text, tuple(ANSWER.citations), ANSWER.usage,
    )  # fmt: skip


async def test_an_abstention_is_an_answer_as_well() -> None:
    cache = MemoryAnswerCache()
    await answer_cache.put(
        "k", Entry(Answer("Not answered.", (), "extractive", {}, abstained=True), ()), cache, ttl=60, documents=["d1"]
    )
    entry = await answer_cache.get("k", cache)
    assert entry
    assert entry.answer.abstained


async def test_an_absent_or_malformed_entry_is_a_miss() -> None:
    cache = MemoryAnswerCache()
    assert await answer_cache.get("k", cache) is None
    assert await answer_cache.get("k", NoAnswerCache()) is None
    for value in (b"", b"not json", b'{"answer": 3}', b"\xff\x00"):
        await cache.put("k", value, ttl=60, documents=["d1"])
        with structlog.testing.capture_logs() as logs:
            assert await answer_cache.get("k", cache) is None
        assert [each["event"] for each in logs] == ["malformed_cache_entry"]
        assert value.decode("latin-1") not in str(logs) or not value


class Down:
    """A cache that does not answer."""

    async def get(self, key: str) -> bytes | None:
        raise Unavailable("redis does not answer")

    async def put(self, key: str, value: bytes, *, ttl: float, documents: Sequence[str] = ()) -> None:
        raise Unavailable("redis does not answer")


async def test_a_cache_that_does_not_answer_is_counted_and_costs_no_answer() -> None:
    before = REGISTRY.get_sample_value("tidemark_degraded_total", {"part": "cache"}) or 0
    assert await answer_cache.get("k", Down()) is None
    await answer_cache.put("k", ENTRY, Down(), ttl=60, documents=["d1"])
    assert REGISTRY.get_sample_value("tidemark_degraded_total", {"part": "cache"}) == before + 2
