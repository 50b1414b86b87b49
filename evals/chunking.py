"""Comparison of the rules of ``rag.ingest.chunking``: the cost of an edit and the quality of retrieval. Its table is in docs/chunking.md.

``python -m evals.chunking`` reads the enterprise and northwind corpora beside the checkout and caches vectors in ``--cache``.
"""

from __future__ import annotations

import hashlib
import json
import random
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from time import process_time
from typing import Annotated

import numpy as np
import typer
from rich.console import Console
from rich.progress import track
from rich.table import Table

from evals.hybrid import HybridIndex
from evals.metrics import distinct, recall_at, reciprocal_rank
from evals.questions import ROOT, Question, QuestionSet, load
from rag.adapters.embedders.bm25 import Bm25Encoder
from rag.adapters.embedders.minilm import Minilm
from rag.adapters.embedders.onnx import OnnxEmbedder
from rag.ids import Ids
from rag.ingest.chunking import ChunkSettings, chunk
from rag.ingest.parsing import parse
from rag.models import Block, BlockKind, Chunk, ParsedDocument, Vector
from rag.ports import Tokenizer

_EDITS = 300
_SEED = 20

VARIANTS = {
    "greedy": ChunkSettings(rule="greedy"),
    "window 128": ChunkSettings(rule="window", min_tokens=128),
    "window 64": ChunkSettings(rule="window", min_tokens=64),
    "minima 96": ChunkSettings(rule="minima", reach=96),
    "minima 64": ChunkSettings(rule="minima", reach=64),
    "minima 64, title": ChunkSettings(rule="minima", reach=64, title=True),
    "minima 64, no path": ChunkSettings(rule="minima", reach=64, path_tokens=0),
}


@dataclass(frozen=True, slots=True)
class Edits:
    """The number of chunks to embed after an edit: mean, share of edits that need at most one, and maximum."""

    mean: float
    share_at_most_one: float
    maximum: int


class CachedTokenizer:
    """The embedder's tokenizer with a cache, because an edit leaves most blocks unchanged."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.spans = lru_cache(maxsize=500_000)(tokenizer.spans)


class Chunker:
    """The chunking of parsed documents by one rule."""

    def __init__(self, embedder: Tokenizer, settings: ChunkSettings) -> None:
        self._tokenizer, self._settings, self._ids = embedder, settings, Ids(b"keys of one measurement")

    def __call__(self, parsed: ParsedDocument) -> tuple[Chunk, ...]:
        return chunk(
            parsed, document_id="d", tenant="t", ids=self._ids, tokenizer=self._tokenizer, settings=self._settings
        )


# -- the cost of an edit ------------------------------------------------------------------------------------------------


def edited(parsed: ParsedDocument, index: int, text: str) -> ParsedDocument:
    """Return the document with another text in one block."""
    block = parsed.blocks[index]
    shift = len(text) - (block.end - block.start)
    blocks = [
        replace(b, start=b.start + shift * (i > index), end=b.end + shift * (i >= index))
        for i, b in enumerate(parsed.blocks)
    ]
    return replace(parsed, text=parsed.text[: block.start] + text + parsed.text[block.end :], blocks=tuple(blocks))


def around(parsed: ParsedDocument, index: int) -> tuple[ParsedDocument, int]:
    """Return the part of the document that can influence a block's chunks, and the block's index in that part.

    The part consists of all sections under the same heading.
    """
    parent = parsed.blocks[index].section[:-1]

    def is_inside(block: Block) -> bool:
        return block.section[: len(parent)] == parent

    first, last = index, index + 1
    while first and is_inside(parsed.blocks[first - 1]):
        first -= 1
    while last < len(parsed.blocks) and is_inside(parsed.blocks[last]):
        last += 1
    part = parsed.blocks[first:last]
    begin = part[0].start
    shifted = tuple(replace(b, start=b.start - begin, end=b.end - begin) for b in part)
    return replace(parsed, text=parsed.text[begin : part[-1].end], blocks=shifted), index - first


def edit_costs(documents: Sequence[ParsedDocument], chunker: Chunker) -> dict[str, Edits]:
    """Measure three edits: a sentence inserted at the top of a section, one reworded, one deleted.

    The paragraphs are drawn with a probability in proportion to their characters.
    """
    generator = random.Random(_SEED)  # noqa: S311 - not a secret
    paragraphs = [
        (number, index, block.end - block.start)
        for number, parsed in enumerate(documents)
        for index, block in enumerate(parsed.blocks)
        if block.kind is BlockKind.PARAGRAPH and block.end - block.start > 80
    ]
    sample = generator.choices(paragraphs, weights=[size for *_, size in paragraphs], k=_EDITS)
    costs: dict[str, list[int]] = defaultdict(list)
    for number, block_index, _ in sample:
        parsed, index = around(documents[number], block_index)
        known = {c.chunk_id for c in chunker(parsed)}
        top = index
        while top and parsed.blocks[top - 1].section == parsed.blocks[index].section:
            if parsed.blocks[top - 1].kind is BlockKind.HEADING:
                break
            top -= 1
        for kind, at, text in (
            ("insert at the top", top, f"This sentence is number {generator.random()}. {_text(parsed, top)}"),
            ("reword a sentence", index, _reworded(_text(parsed, index), generator)),
            ("delete a sentence", index, _shortened(_text(parsed, index), generator)),
        ):
            after = chunker(edited(parsed, at, text))
            costs[kind].append(sum(c.chunk_id not in known for c in after))
    return {
        kind: Edits(sum(each) / len(each), sum(n <= 1 for n in each) / len(each), max(each))
        for kind, each in costs.items()
    }


def _text(parsed: ParsedDocument, index: int) -> str:
    return parsed.text[parsed.blocks[index].start : parsed.blocks[index].end]


def _reworded(text: str, generator: random.Random) -> str:
    """Replace three consecutive words."""
    words = text.split(" ")
    at = generator.randrange(max(1, len(words) - 3))
    return " ".join([*words[:at], "quite", "another", "wording", *words[at + 3 :]])


def _shortened(text: str, generator: random.Random) -> str:
    sentences = text.split(". ")
    if len(sentences) > 1:
        sentences.pop(generator.randrange(len(sentences)))
    return ". ".join(sentences)


# -- the quality of retrieval -------------------------------------------------------------------------------------------


class CachedVectors:
    """The embedder with a cache on disk, because the variants share most of their inputs."""

    def __init__(self, embedder: OnnxEmbedder, folder: Path) -> None:
        self._embedder, self._file = embedder, folder / f"chunking-{embedder.fingerprint}.npz"
        folder.mkdir(parents=True, exist_ok=True)
        self._known: dict[str, Vector] = {}
        if self._file.exists():
            with np.load(self._file) as stored:
                self._known = dict(zip(stored["keys"].tolist(), stored["vectors"], strict=True))

    def __call__(self, texts: Sequence[str]) -> Vector:
        keys = [hashlib.blake2b(text.encode(), digest_size=16).hexdigest() for text in texts]
        new = list({key: text for key, text in zip(keys, texts, strict=True) if key not in self._known}.items())
        for start in track(range(0, len(new), 256), f"{len(new)} new inputs", transient=True):
            batch = new[start : start + 256]
            vectors = self._embedder.embed_now([text for _, text in batch])
            self._known.update(zip((key for key, _ in batch), vectors, strict=True))
            np.savez(self._file, keys=np.array(list(self._known)), vectors=np.stack(list(self._known.values())))
        return np.stack([self._known[key] for key in keys])


def retrieval_scores(
    questions: Sequence[Question], chunks: Sequence[tuple[str, Chunk]], vectors: CachedVectors, sample: int
) -> list[float]:
    """Return mean Recall@1, 5, 10 and MRR of a hybrid search: dense and BM25 candidates, fused by reciprocal rank."""
    names, inputs = [name for name, _ in chunks], [c.input for _, c in chunks]
    index = HybridIndex(inputs, vectors(inputs), Bm25Encoder())
    questions = [q for q in questions if q.gold]
    questions = questions[:: max(1, len(questions) // sample)]
    scored = []
    for question, vector in zip(questions, vectors([q.text for q in questions]), strict=True):
        ranked = distinct(names[row] for row, _ in index.search(question.text, vector))
        scored.append(
            [*(recall_at(ranked, question.gold, k) for k in (1, 5, 10)), reciprocal_rank(ranked, question.gold)]
        )
    return [float(mean) for mean in np.mean(scored, axis=0)]


def page_questions(question_set: QuestionSet) -> list[Question]:
    """Return the answerable questions, with pages instead of documents as gold."""
    with (question_set.folder.parent / "qa.jsonl").open() as lines:
        items = {str(item["id"]): item["evidence"] for item in map(json.loads, lines)}
    answerable = [question for question in question_set.questions if question.gold]
    return [replace(q, gold=tuple(f"{e['doc']}#{e['page']}" for e in items[q.id])) for q in answerable]


# -- the table ----------------------------------------------------------------------------------------------------------


def main(
    models: Annotated[Path, typer.Option(help="folder of the embedder")] = ROOT / ".cache" / "models",
    cache: Annotated[Path, typer.Option(help="folder of the cached vectors")] = ROOT / ".cache" / "evals",
    sample: Annotated[int, typer.Option(help="number of questions, evenly spaced")] = 250,
    only: Annotated[str, typer.Option(help="prefix of the variants' names")] = "",
) -> None:
    """Compare the variants and print the table."""
    embedder = Minilm.load(models)
    vectors = CachedVectors(embedder, cache)
    sets = [load("enterprise"), load("northwind")]
    corpora = [{name: parse((s.folder / name).read_bytes(), Path(name).name) for name in s.documents()} for s in sets]
    table = Table(
        "rule", "chunks", "tokens", "chunks/s", "insert", "reword", "delete", *["R@1", "R@5", "R@10", "MRR"] * 2
    )
    for name, settings in VARIANTS.items():
        if not name.startswith(only):
            continue
        chunker = Chunker(embedder, settings)
        began = process_time()
        enterprise, northwind = (
            [(document, c) for document, parsed in corpus.items() for c in chunker(parsed)] for corpus in corpora
        )
        seconds = process_time() - began
        chunks = [c for _, c in (*enterprise, *northwind)]
        documents = [document for corpus in corpora for document in corpus.values()]
        costs = edit_costs(documents, Chunker(CachedTokenizer(embedder), settings))
        pages = [(f"{document}#{c.page}", c) for document, c in northwind]
        scores = [
            retrieval_scores(sets[0].questions, enterprise, vectors, sample),
            retrieval_scores(page_questions(sets[1]), pages, vectors, sample),
        ]
        table.add_row(
            name,
            f"{len(chunks):,}",
            f"{np.mean([c.tokens for c in chunks]):.0f}",
            f"{len(chunks) / seconds:,.0f}",
            *(f"{cost.mean:.2f} · {cost.share_at_most_one:.0%} · {cost.maximum}" for cost in costs.values()),
            *(f"{mean:.3f}" for means in scores for mean in means),
        )
    Console(width=170).print(table)


if __name__ == "__main__":
    typer.run(main)
