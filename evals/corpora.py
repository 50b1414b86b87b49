"""The documents of the bench: a corpus with questions, and as many distinct generated documents as the load needs."""

from __future__ import annotations

import random
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from rag.ids import Ids
from rag.ingest.chunking import ChunkSettings, chunk
from rag.ingest.parsing import parse
from rag.labels import PRINCIPALS_LABEL
from rag.models import BlockKind, ParsedDocument
from rag.ports import Tokenizer

HIDDEN = "group:bench-load"  # a group without members: the load is indexed and filtered, but is never an answer
_WORD = re.compile(r"[^\W_]+")
_KEPT_WORDS = 60  # the most common words, which are never replaced
_REPLACED = 0.65  # share of the other words; fewer than one five-word sequence in five stays the same
_IDS = Ids(b"only for counting chunks")


@dataclass(frozen=True, slots=True)
class Document:
    """An object for the watched bucket. ``labels`` become its metadata."""

    key: str
    content: bytes = field(repr=False)
    labels: Mapping[str, str] = field(default_factory=dict)


def read_files(folder: Path, names: Sequence[str], prefix: str, *, hidden: bool = False) -> list[Document]:
    """Read the documents. No caller may see ``hidden`` ones."""
    labels = {PRINCIPALS_LABEL: HIDDEN} if hidden else {}
    return [Document(f"{prefix}/{name}", (folder / name).read_bytes(), labels) for name in names]


def parse_all(documents: Sequence[Document]) -> list[ParsedDocument]:
    return [parse(each.content, name=each.key.rsplit("/", 1)[-1]) for each in documents]


def count_chunks(document: ParsedDocument, tokenizer: Tokenizer, settings: ChunkSettings) -> int:
    """Return the number of chunks that the pipeline makes of the document."""
    return len(chunk(document, document_id="", tenant="bench", ids=_IDS, tokenizer=tokenizer, settings=settings))


def generate_load(
    originals: Sequence[ParsedDocument], chunks: int, tokenizer: Tokenizer, settings: ChunkSettings
) -> list[Document]:
    """Generate variants of the originals, round after round, until they have at least ``chunks`` chunks. Deterministic."""
    load: list[Document] = []
    for variant in variants(originals) if chunks > 0 else ():
        load.append(variant)
        chunks -= count_chunks(parse_all([variant])[0], tokenizer, settings)
        if chunks <= 0:
            break
    return load


def variants(originals: Sequence[ParsedDocument]) -> Iterator[Document]:
    """Yield variants without end. Each has the structure and the sentence lengths of an original, with about half of the words
    replaced by words of other documents."""
    vocabulary = _vocabulary(originals)
    number = 0
    while True:
        for original in originals:
            generator = random.Random(number)  # noqa: S311 - the same texts on every machine, not a secret
            text = _markdown(original, vocabulary, generator, number)
            yield Document(f"load/{number:05}.md", text.encode(), {PRINCIPALS_LABEL: HIDDEN})
            number += 1


def _vocabulary(originals: Sequence[ParsedDocument]) -> Mapping[str, Sequence[str]]:
    """Return words by kind (capitalised, lower case, number), as often as they occur, and the most common words apart."""
    words = [word for each in originals for word in _WORD.findall(each.text)]
    counts: dict[str, int] = {}
    for word in words:
        counts[word.lower()] = counts.get(word.lower(), 0) + 1
    common = set(sorted(counts, key=lambda word: (-counts[word], word))[:_KEPT_WORDS])
    kinds: dict[str, list[str]] = {}
    for word in words:
        if word.lower() not in common:
            kinds.setdefault(_kind(word), []).append(word)
    return {**kinds, "common": sorted(common)}


def _kind(word: str) -> str:
    return "number" if word.isdigit() else "name" if word[0].isupper() else "word"


def _markdown(
    original: ParsedDocument, vocabulary: Mapping[str, Sequence[str]], generator: random.Random, number: int
) -> str:
    common = set(vocabulary["common"])

    def replacement(match: re.Match[str]) -> str:
        word = match[0]
        if word.isdigit():
            return str(generator.randrange(10 ** len(word)))
        if word.lower() in common or generator.random() > _REPLACED:
            return word
        return generator.choice(vocabulary[_kind(word)])

    lines = [f"# Load document {number}"]
    for block in original.blocks:
        text = _WORD.sub(replacement, " ".join(original.text[block.start : block.end].split()))
        mark = {BlockKind.HEADING: "## ", BlockKind.LIST_ITEM: "- "}.get(block.kind, "")
        lines.append(f"{mark}{text}")
    return "\n\n".join(lines) + "\n"
