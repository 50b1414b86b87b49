from __future__ import annotations

from itertools import combinations, islice, product

import pytest

from evals import corpora
from evals.questions import load
from rag.adapters.memory.models import HashEmbedder
from rag.ingest.chunking import ChunkSettings
from rag.labels import PRINCIPALS_LABEL
from rag.models import ParsedDocument

SETTINGS = ChunkSettings()


@pytest.fixture(scope="module")
def originals() -> list[ParsedDocument]:
    sample = load("sample")
    names = [name for name in sample.documents() if name.endswith((".md", ".html"))][:12]
    return corpora.parse_all(corpora.read_files(sample.folder, names, "sample"))


def _shingles(text: str) -> set[tuple[str, ...]]:
    words = text.split()
    return set(zip(*(words[shift:] for shift in range(5)), strict=False))


def test_no_variant_shares_a_fifth_of_its_five_word_sequences_with_any_other_text(
    originals: list[ParsedDocument],
) -> None:
    variants = [each.content.decode() for each in islice(corpora.variants(originals), 3 * len(originals))]
    generated, original = [_shingles(text) for text in variants], [_shingles(each.text) for each in originals]
    for first, second in [*combinations(generated, 2), *product(generated, original)]:
        assert len(first & second) < 0.2 * min(len(first), len(second))


def test_the_load_is_deterministic_and_big_enough(originals: list[ParsedDocument]) -> None:
    tokenizer = HashEmbedder()
    first, second = (corpora.generate_load(originals, 100, tokenizer, SETTINGS) for _ in range(2))
    assert first == second
    counts = [corpora.count_chunks(each, tokenizer, SETTINGS) for each in corpora.parse_all(first)]
    assert sum(counts[:-1]) < 100 <= sum(counts)
    assert len({each.key for each in first}) == len(first)


def test_the_load_is_hidden_from_the_caller_of_the_questions(originals: list[ParsedDocument]) -> None:
    (document,) = corpora.generate_load(originals, 1, HashEmbedder(), SETTINGS)
    assert document.labels == {PRINCIPALS_LABEL: corpora.HIDDEN}
    assert corpora.generate_load(originals, 0, HashEmbedder(), SETTINGS) == []


def test_a_variant_has_about_as_many_chunks_as_its_original(originals: list[ParsedDocument]) -> None:
    tokenizer = HashEmbedder()
    variants = corpora.parse_all(list(islice(corpora.variants(originals), len(originals))))
    before, after = (
        sum(corpora.count_chunks(each, tokenizer, SETTINGS) for each in documents)
        for documents in (originals, variants)
    )
    assert 0.8 < after / before < 1.25
