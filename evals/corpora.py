"""The documents of the bench: a corpus with questions, and enough others, really different, to make the load."""

from __future__ import annotations

import random
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from rag.ids import Ids
from rag.ingest.chunking import ChunkSettings, chunk
from rag.ingest.parsing import parse
from rag.models import BlockKind, ParsedDocument
from rag.ports import Tokenizer
from rag.sources import PRINCIPALS_LABEL

HIDDEN = "group:bench-load"  # nobody is in it: the load is indexed and searched past, but answers no question
_WORD = re.compile(r"[^\W_]+")
_KEPT_WORDS = 60  # the commonest, which hold sentences together
_REPLACED = 0.65  # of the other words: of the five-word sequences, fewer than one in five survives
_IDS = Ids(b"only for counting chunks")


@dataclass(frozen=True, slots=True)
class Document:
    """``labels`` become the object's metadata."""

    key: str
    content: bytes = field(repr=False)
    labels: Mapping[str, str] = field(default_factory=dict)


def files(folder: Path, names: Sequence[str], prefix: str, *, hidden: bool = False) -> list[Document]:
    labels = {PRINCIPALS_LABEL: HIDDEN} if hidden else {}
    return [Document(f"{prefix}/{name}", (folder / name).read_bytes(), labels) for name in names]


def parsed(documents: Sequence[Document]) -> list[ParsedDocument]:
    return [parse(each.content, name=each.key.rsplit("/", 1)[-1]) for each in documents]


def count(document: ParsedDocument, tokenizer: Tokenizer, settings: ChunkSettings) -> int:
    """Chunks that the pipeline would make of it."""
    return len(chunk(document, document_id="", tenant="bench", ids=_IDS, tokenizer=tokenizer, settings=settings))


def load(
    originals: Sequence[ParsedDocument], wanted: int, tokenizer: Tokenizer, settings: ChunkSettings
) -> list[Document]:
    """Variants of the originals, round after round, until they have ``wanted`` chunks or more. Always the same."""
    made: list[Document] = []
    for variant in variants(originals) if wanted > 0 else ():
        made.append(variant)
        wanted -= count(parsed([variant])[0], tokenizer, settings)
        if wanted <= 0:
            break
    return made


def variants(originals: Sequence[ParsedDocument]) -> Iterator[Document]:
    """Endless. Each has the structure and the sentence lengths of an original, and half of its words from elsewhere."""
    vocabulary = _vocabulary(originals)
    number = 0
    while True:
        for original in originals:
            draw = random.Random(number)  # noqa: S311 - the same texts on every machine, not a secret
            text = _markdown(original, vocabulary, draw, number)
            yield Document(f"load/{number:05}.md", text.encode(), {PRINCIPALS_LABEL: HIDDEN})
            number += 1


def _vocabulary(originals: Sequence[ParsedDocument]) -> Mapping[str, Sequence[str]]:
    """Words to draw from by kind (capitalised, lower case, number), the commonest left out; as often as they occur."""
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
    original: ParsedDocument, vocabulary: Mapping[str, Sequence[str]], draw: random.Random, number: int
) -> str:
    common = set(vocabulary["common"])

    def other(found: re.Match[str]) -> str:
        word = found[0]
        if word.isdigit():
            return str(draw.randrange(10 ** len(word)))
        if word.lower() in common or draw.random() > _REPLACED:
            return word
        return draw.choice(vocabulary[_kind(word)])

    lines = [f"# Load document {number}"]
    for block in original.blocks:
        text = _WORD.sub(other, " ".join(original.text[block.start : block.end].split()))
        mark = {BlockKind.HEADING: "## ", BlockKind.LIST_ITEM: "- "}.get(block.kind, "")
        lines.append(f"{mark}{text}")
    return "\n\n".join(lines) + "\n"
