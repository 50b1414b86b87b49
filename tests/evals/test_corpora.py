from __future__ import annotations

from itertools import combinations, islice, product

import pytest

from evals import corpora
from evals.questions import load
from rag.adapters.memory.models import HashEmbedder
from rag.ingest.chunking import ChunkSettings
from rag.models import ParsedDocument
from rag.sources import PRINCIPALS_LABEL

SETTINGS = ChunkSettings()


@pytest.fixture(scope="module")
def originals() -> list[ParsedDocument]:
    enterprise = load("enterprise")
    names = [name for name in enterprise.documents() if name.endswith(".md")][:12]
    return corpora.parsed(corpora.files(enterprise.folder, names, "enterprise"))


def _shingles(text: str) -> set[tuple[str, ...]]:
    words = text.split()
    return set(zip(*(words[shift:] for shift in range(5)), strict=False))


def test_no_variant_shares_a_fifth_of_its_five_word_sequences_with_any_other_text(
    originals: list[ParsedDocument],
) -> None:
    variants = [each.content.decode() for each in islice(corpora.variants(originals), 3 * len(originals))]
    made, given = [_shingles(text) for text in variants], [_shingles(each.text) for each in originals]
    for one, other in [*combinations(made, 2), *product(made, given)]:
        assert len(one & other) < 0.2 * min(len(one), len(other))


def test_the_load_is_the_same_every_time_and_big_enough(originals: list[ParsedDocument]) -> None:
    tokenizer = HashEmbedder()
    first, second = (corpora.load(originals, 100, tokenizer, SETTINGS) for _ in range(2))
    assert first == second
    counts = [corpora.count(each, tokenizer, SETTINGS) for each in corpora.parsed(first)]
    assert sum(counts[:-1]) < 100 <= sum(counts)
    assert len({each.key for each in first}) == len(first)


def test_the_load_is_hidden_from_whoever_asks_the_questions(originals: list[ParsedDocument]) -> None:
    (made,) = corpora.load(originals, 1, HashEmbedder(), SETTINGS)
    assert made.labels == {PRINCIPALS_LABEL: corpora.HIDDEN}
    assert corpora.load(originals, 0, HashEmbedder(), SETTINGS) == []


def test_a_variant_has_about_as_many_chunks_as_its_original(originals: list[ParsedDocument]) -> None:
    tokenizer = HashEmbedder()
    variants = corpora.parsed(list(islice(corpora.variants(originals), len(originals))))
    before, after = (sum(corpora.count(each, tokenizer, SETTINGS) for each in them) for them in (originals, variants))
    assert 0.8 < after / before < 1.25
