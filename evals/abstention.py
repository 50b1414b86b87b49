"""The threshold of abstention: the evidence for answerable and for unanswerable questions, and the effect of each threshold.

``python -m evals.abstention FOLDER...`` takes folders with ``corpus/`` and ``qa.jsonl`` (a ``question`` per line; the ``type`` of an
unanswerable one begins with "unanswerable"). The sample corpus has ``documents/``, ``questions.jsonl`` and ``kind`` instead. The
command retrieves hits for each question and prints the table from which ``extractive.THRESHOLD`` was chosen.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from evals.hybrid import HybridIndex
from rag.adapters.embedders.bm25 import Bm25Encoder
from rag.adapters.embedders.minilm import Minilm
from rag.adapters.embedders.onnx import OnnxEmbedder
from rag.adapters.llms.extractive import THRESHOLD, Evidence, ExtractiveGenerator
from rag.answer.answering import TOP_K
from rag.ids import Ids
from rag.ingest import chunking
from rag.ingest.parsing import parse
from rag.models import Cause, Chunk, Hit, Provenance

_QUESTIONS = 200  # per folder, evenly spaced: enough to distinguish 2% from 5%


@dataclass(frozen=True, slots=True)
class Measurement:
    """The evidence that the hits contain for one question."""

    answerable: bool
    evidence: Evidence


@dataclass(frozen=True, slots=True)
class ThresholdOutcome:
    """The effect of ``threshold``.

    ``refused`` is the share of unanswerable questions that are rightly refused, ``lost`` the share of answerable questions that
    are wrongly refused. At most 0.05 of the answerable ones should be lost: a refusal costs more trust than a cited near miss.
    """

    threshold: float
    refused: float
    lost: float


class Collection:
    """The chunks of a corpus in memory."""

    def __init__(self, chunks: Sequence[tuple[str, Chunk]], embedder: OnnxEmbedder) -> None:
        self._chunks, self._embedder = chunks, embedder
        inputs = [chunk.input for _, chunk in chunks]
        self._index = HybridIndex(inputs, np.stack(embedder.embed_now(inputs)), Bm25Encoder())

    async def search(self, question: str) -> list[Hit]:
        """Return the best ``TOP_K`` hits, best first."""
        scored = self._index.search(question, await self._embedder.embed_query(question))
        return [_hit(*self._chunks[row], score) for row, score in scored[:TOP_K]]


async def measure(folder: Path, embedder: OnnxEmbedder) -> list[Measurement]:
    """Measure the evidence for each question of the folder. Questions without any candidate passage are left out."""
    collection = Collection(_chunks(_existing(folder, "corpus", "documents"), embedder), embedder)
    generator = ExtractiveGenerator(embedder)
    measurements = []
    for item in _questions(_existing(folder, "qa.jsonl", "questions.jsonl")):
        scored, evidence = await generator.score(item["question"], await collection.search(item["question"]))
        if scored:
            measurements.append(Measurement(not _kind(item).startswith("unanswerable"), evidence))
    return measurements


def outcome(measurements: Sequence[Measurement], threshold: float) -> ThresholdOutcome:
    """Compute the effect of a threshold. A question whose score is at the threshold is answered."""

    def refused_share(answerable: bool) -> float:
        scores = [each.evidence.score for each in measurements if each.answerable is answerable]
        return sum(score < threshold for score in scores) / max(1, len(scores))

    return ThresholdOutcome(threshold, refused_share(False), refused_share(True))


def _questions(path: Path) -> list[Mapping[str, str]]:
    items = [json.loads(line) for line in path.read_text().splitlines()]
    items = [item for item in items if _kind(item) != "row"]  # a warehouse's rows are not in the folder
    return items[:: max(1, len(items) // _QUESTIONS)]


def _existing(folder: Path, *names: str) -> Path:
    return next(path for name in names if (path := folder / name).exists())


def _kind(item: Mapping[str, str]) -> str:
    return item.get("type") or item["kind"]


def _chunks(corpus: Path, embedder: OnnxEmbedder) -> list[tuple[str, Chunk]]:
    ids, settings = Ids(b"only for measuring"), chunking.ChunkSettings()
    named_chunks = []
    for path in sorted(path for path in corpus.rglob("*") if path.is_file()):
        parsed = parse(path.read_bytes(), name=path.name)
        chunks = chunking.chunk(
            parsed, document_id=path.name, tenant="evals", ids=ids, tokenizer=embedder, settings=settings
        )
        named_chunks += [(path.name, chunk) for chunk in chunks]
    return named_chunks


def _hit(name: str, chunk: Chunk, score: float) -> Hit:
    origin = Provenance(name, 1, f"file:///{name}", name, "1", Cause("", "", 0, -1), chunk.chunk_id, chunk.ordinal, chunk.start,
                        chunk.end, chunk.page, "evals", "", "")  # fmt: skip
    return Hit(chunk, score, origin, chunk.chunk_id)


def main(folders: Sequence[Path], models_dir: Path) -> None:
    embedder = Minilm.load(models_dir)
    for folder in folders:
        measurements = asyncio.run(measure(folder, embedder))
        answerable = sum(each.answerable for each in measurements)
        print(f"{folder.name}: {answerable} answerable, {len(measurements) - answerable} unanswerable")
        for threshold in (0.6, 0.65, 0.7, THRESHOLD, 0.8, 0.85, 0.9, 1.0):
            effect = outcome(measurements, threshold)
            print(
                f"  {threshold:.2f}: {effect.refused:6.1%} of the unanswerable refused, {effect.lost:6.1%} of the others lost"
            )


if __name__ == "__main__":
    main([Path(argument) for argument in sys.argv[1:]], Path(".cache/models"))
